"""What the figures of reviews are counted from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg.rows import class_row

from credit_risk_dagster.domain.cases import AGES, Closed
from credit_risk_dagster.domain.model.observed import OBSERVED

# Of which outcomes are looked up; the newest.
MOST_CLOSED = 50_000


@dataclass(frozen=True)
class Age:
    """Cases that are not closed, by the band of their age (0 is the youngest)."""

    band: int
    cases: int
    overdue: int
    unassigned: int
    loan_amnt: float


@dataclass(frozen=True)
class Day:
    """What came in and went out on a day of a time zone."""

    day: datetime
    opened: int
    reopened: int
    closed: int


class CaseFigures:
    """Counts cases, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def closed(self, since: date | None) -> list[Closed]:
        """What was closed on that day (UTC) or since, as it stands now."""
        with self._connection.cursor(row_factory=class_row(Closed)) as cursor:
            return cursor.execute(CLOSED, {"since": since}).fetchall()

    def ages(self) -> list[Age]:
        """The ageing, a row for each band."""
        with self._connection.cursor(row_factory=class_row(Age)) as cursor:
            return cursor.execute(_AGEING, {"edges": list(AGES)}).fetchall()

    def days(self, since: datetime, zone: str) -> list[Day]:
        """Each day from then to now."""
        with self._connection.cursor(row_factory=class_row(Day)) as cursor:
            return cursor.execute(_DAYS, {"since": since, "zone": zone}).fetchall()

    def reviewed_loans(self) -> list[tuple[str, str, Any]]:
        """Of each loan with a closed case: its id, what the newest such case was closed as, and the
        day of its first decision (None where there is none any more); of the newest `MOST_CLOSED`
        cases."""
        return self._connection.execute(_LOANS, {"most": MOST_CLOSED}).fetchall()

    def observed(self, loans: Sequence[str]) -> pa.Table:
        """What was observed of these loans, `OBSERVED`."""
        rows = self._connection.execute(_OBSERVED, {"loans": list(loans)}).fetchall()
        columns = list(zip(*rows, strict=True)) or [()] * len(OBSERVED)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, OBSERVED, strict=True)]
        return pa.Table.from_arrays(arrays, schema=OBSERVED)


CLOSED: LiteralString = """
SELECT rule, reviewer, disposition, sum(cases)::bigint AS cases FROM closed_by_day
WHERE day >= coalesce(%(since)s::date, '-infinity') GROUP BY 1, 2, 3
"""

# Of a case; `edges` are `AGES`.
BAND: LiteralString = """width_bucket(
        (extract(epoch FROM now() - opened_at) / 86400)::float8, %(edges)s::float8[])"""

_AGEING: LiteralString = f"""
SELECT band, count(case_id) AS cases, count(*) FILTER (WHERE due_at < now()) AS overdue,
    count(case_id) FILTER (WHERE assignee IS NULL) AS unassigned,
    coalesce(sum(loan_amnt), 0) AS loan_amnt
FROM generate_series(0, cardinality(%(edges)s::float8[])) AS band LEFT JOIN cases
    ON state <> 'closed' AND band = {BAND}
GROUP BY band ORDER BY band
"""  # noqa: S608 (of literals)

_DAYS: LiteralString = """
WITH counted AS (
    SELECT date_trunc('day', opened_at, %(zone)s) AS day, 'open' AS what, count(*) AS cases
    FROM cases WHERE opened_at >= %(since)s GROUP BY 1
    UNION ALL
    SELECT date_trunc('day', at, %(zone)s), action, count(*) FROM case_events
    WHERE at >= %(since)s AND action IN ('close', 'reopen') GROUP BY 1, 2
)
SELECT day, coalesce(sum(cases) FILTER (WHERE what = 'open'), 0)::bigint AS opened,
    coalesce(sum(cases) FILTER (WHERE what = 'reopen'), 0)::bigint AS reopened,
    coalesce(sum(cases) FILTER (WHERE what = 'close'), 0)::bigint AS closed
FROM (
    SELECT local AT TIME ZONE %(zone)s AS day FROM generate_series(
        date_trunc('day', %(since)s::timestamptz AT TIME ZONE %(zone)s),
        now() AT TIME ZONE %(zone)s, interval '1 day') AS local
) AS days LEFT JOIN counted USING (day)
GROUP BY day ORDER BY day
"""

# The planner must not see which loans they are: it would look each up in the statistics of every
# time partition, or read them all by time to find the first decision of one loan.
_LOANS: LiteralString = """
WITH closed AS MATERIALIZED (
    SELECT DISTINCT ON (loan_id) loan_id, disposition FROM (
        SELECT loan_id, disposition, closed_at FROM cases
        WHERE state = 'closed' AND loan_id IS NOT NULL
        ORDER BY closed_at DESC LIMIT %(most)s
    ) AS newest ORDER BY loan_id, closed_at DESC
), decided AS MATERIALIZED (
    SELECT DISTINCT ON (loan_id) loan_id,
        coalesce(issue_d, (coalesce(event_time, recorded_at) AT TIME ZONE 'UTC')::date) AS day
    FROM scored_applications WHERE loan_id = ANY (ARRAY(SELECT loan_id FROM closed))
    ORDER BY loan_id, scored_at
)
SELECT loan_id, disposition, day FROM closed LEFT JOIN decided USING (loan_id) ORDER BY loan_id
"""

# As the view known_outcomes, of some loans.
_OBSERVED: LiteralString = """
SELECT loan_id, observed_at, status, days_past_due::float8, balance::float8, recovered::float8
FROM (
    SELECT DISTINCT ON (loan_id, observed_at) *
    FROM loan_outcomes WHERE loan_id = ANY (%(loans)s)
    ORDER BY loan_id, observed_at, outcome_id DESC
) AS told
UNION ALL
SELECT loan_id, coalesce(event_time, recorded_at), loan_status, NULL, NULL, NULL
FROM scored_applications
WHERE loan_id = ANY (ARRAY(SELECT unnest(%(loans)s::text[]))) AND loan_status IS NOT NULL
"""
