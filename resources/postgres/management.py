"""What a manager is told of a stretch of time; its cost does not grow with history."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from resources.postgres.connection import fetch_all

Row = dict[str, Any]

MOST_DECISIONS = 500_000
"""Of a stretch of time, up to which each loan is counted once; beyond, decisions are counted, whose
sums are kept: the cost does not grow with history."""


@dataclass(frozen=True)
class Volume:
    """What came in a stretch of time: applications by tier, their amounts (USD), and events that
    could not be scored. Each loan is counted `once`, by its newest decision; or its decisions are,
    where they are more than `MOST_DECISIONS`."""

    low: int
    elevated: int
    watchlist: int
    loan_amnt: float
    watchlist_amnt: float
    rejected: int
    once: bool = True

    @property
    def applications(self) -> int:
        return self.low + self.elevated + self.watchlist


@dataclass(frozen=True)
class Unreviewed:
    """Cases that nobody began to review: how many loans, since when the oldest waits (seconds; None
    without any), and their amounts (USD)."""

    cases: int
    oldest_seconds: float | None
    loan_amnt: float


class Management:
    """Reads it, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def volume(self, since: datetime, until: datetime) -> Volume:
        """What came from a minute on, before another one."""
        (row,) = self._rows(_VOLUME, since=since, until=until)
        once = row["low"] + row["elevated"] + row["watchlist"] <= MOST_DECISIONS
        if once:
            (loans,) = self._rows(_LOANS, since=since, until=until)
            row |= loans
        return Volume(**row, once=once)

    def decided(self, since: datetime, until: datetime) -> list[Row]:
        """What began or ceased to decide, the newest first: `kind`, `subject`, `action`, `who`,
        `at` and `why`."""
        return self._rows(_DECIDED, since=since, until=until)

    def drift(self) -> Row | None:
        """The newest drift report: `verdict`, `age` (seconds), and `features` that drifted, the
        furthest first; None before the first."""
        return next(iter(self._rows(_DRIFT)), None)

    def verdicts(self, since: datetime, until: datetime) -> dict[str, int]:
        """How many drift reports had which verdict."""
        rows = self._rows(_VERDICTS, since=since, until=until)
        return {row["verdict"]: row["reports"] for row in rows}

    def documents(self) -> dict[str, Row]:
        """The newest report of each kind: `created_at` and `document`."""
        return {row["kind"]: row for row in self._rows(_DOCUMENTS)}

    def differences(self) -> int:
        """Offsets that are missing or doubled, and not cleared."""
        (row,) = self._rows(_DIFFERENCES)
        return int(row["offsets"])

    def unreviewed(self) -> Unreviewed:
        """The cases that nobody began to review."""
        (row,) = self._rows(_UNREVIEWED)
        return Unreviewed(**row)

    def _rows(self, query: LiteralString, **parameters: Any) -> list[Row]:
        return fetch_all(self._connection, query, parameters)


_VOLUME: LiteralString = """
SELECT coalesce(sum(applications) FILTER (WHERE risk_tier = 'Low'), 0)::bigint AS low,
    coalesce(sum(applications) FILTER (WHERE risk_tier = 'Elevated'), 0)::bigint AS elevated,
    coalesce(sum(applications) FILTER (WHERE risk_tier = 'Watchlist'), 0)::bigint AS watchlist,
    coalesce(sum(loan_amnt), 0)::float8 AS loan_amnt,
    coalesce(sum(loan_amnt) FILTER (WHERE risk_tier = 'Watchlist'), 0)::float8 AS watchlist_amnt,
    coalesce(sum(applications) FILTER (WHERE risk_tier = 'Rejected'), 0)::bigint AS rejected
FROM risk_by_minute WHERE minute >= %(since)s AND minute < %(until)s
"""

_LOANS: LiteralString = """
SELECT count(*) FILTER (WHERE risk_tier = 'Low') AS low,
    count(*) FILTER (WHERE risk_tier = 'Elevated') AS elevated,
    count(*) FILTER (WHERE risk_tier = 'Watchlist') AS watchlist,
    coalesce(sum(loan_amnt), 0)::float8 AS loan_amnt,
    coalesce(sum(loan_amnt) FILTER (WHERE risk_tier = 'Watchlist'), 0)::float8 AS watchlist_amnt
FROM (
    SELECT DISTINCT ON (coalesce(loan_id, source_id || '/' || partition || '/' || "offset"))
        risk_tier, loan_amnt
    FROM scored_applications WHERE scored_at >= %(since)s AND scored_at < %(until)s
    ORDER BY coalesce(loan_id, source_id || '/' || partition || '/' || "offset"),
        scored_at DESC, partition, "offset" DESC
) AS newest
"""

_DECIDED: LiteralString = """
SELECT a.kind, a.action, a.who, effective_from AS at, a.why,
    coalesce(p.name || '@' || left(p.content_hash, 12), m.version, a.subject_id::text) AS subject
FROM approvals a
LEFT JOIN policies p ON a.kind = 'policy' AND policy_id = subject_id
LEFT JOIN models m ON a.kind = 'model' AND model_id = subject_id
WHERE action IN ('activate', 'retire') AND effective_from >= %(since)s
    AND effective_from < %(until)s
ORDER BY effective_from DESC LIMIT 20
"""

_DRIFT: LiteralString = """
SELECT verdict, extract(epoch FROM now() - created_at)::float8 AS age, ARRAY(
    SELECT feature FROM drift_features f
    WHERE f.report_id = r.report_id AND f.verdict IN ('moderate', 'significant')
    ORDER BY psi DESC NULLS LAST) AS features
FROM drift_reports r ORDER BY created_at DESC, report_id DESC LIMIT 1
"""

_VERDICTS: LiteralString = """
SELECT verdict, count(*) AS reports FROM drift_reports
WHERE created_at >= %(since)s AND created_at < %(until)s GROUP BY verdict ORDER BY verdict
"""

_DOCUMENTS: LiteralString = """
SELECT DISTINCT ON (kind) kind, created_at, document FROM risk_reports
ORDER BY kind, report_id DESC
"""

_DIFFERENCES: LiteralString = """
SELECT coalesce(sum(offsets), 0)::bigint AS offsets FROM reconciliation_findings
WHERE cleared_at IS NULL
"""

_UNREVIEWED: LiteralString = """
SELECT count(*) AS cases, extract(epoch FROM now() - min(opened_at))::float8 AS oldest_seconds,
    coalesce(sum(loan_amnt), 0)::float8 AS loan_amnt
FROM cases WHERE state = 'open'
"""
