"""What the first screen's strip asks: of each thing that may be wrong, in one place, and each
source for itself."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from credit_risk_dagster.domain.limits import load_limits, measure
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DrainSettings
from dashboard.data import cases
from dashboard.data.connection import PROBLEMS, snapshot
from dashboard.data.portfolio import portfolio
from dashboard.parts import formats, lag, orchestration, signals
from dashboard.parts.signals import Signal
from resources.postgres.connection import WarehouseUnavailable

_UTC = "UTC"  # no line has a time of day


@st.cache_data(ttl=10, show_spinner=False)
def strip() -> list[Signal]:
    """The lines, the same for all viewers. What cannot be read is grey, and says why; of a server
    that is not there, the first line that needs it waits for it, and no other."""
    asked = _Asked()
    return [
        asked.line("Pipeline", "operations", _pipeline),
        asked.line("Population", "drift", _population),
        asked.line("Policy and outcomes", "portfolio", lambda: signals.policy(_document())),
        asked.line("Model", "portfolio", lambda: signals.model(_document())),
        asked.line("Limits", "portfolio", _limits),
        asked.line("Work", "watchlist", _work),
        asked.line("Checks", "operations", lambda: signals.checks(orchestration.checks(_UTC))),
        asked.line("Since yesterday", "policy-lab", _changes),
    ]


class _Asked:
    """Asks the sources, until the warehouse is found away."""

    def __init__(self) -> None:
        self._away: str | None = None

    def line(self, name: str, page: str, ask: Callable[[], Signal]) -> Signal:
        """A line, or that it cannot be known."""
        if self._away and name != "Checks":
            return signals.unknown(name, page, self._away)
        try:
            return ask()
        except PROBLEMS as error:
            why = _in_words(error)
            if isinstance(error, WarehouseUnavailable):
                self._away = why
            return signals.unknown(name, page, why)


def _in_words(error: Exception) -> str:
    if isinstance(error, orchestration.DagsterUnavailable):
        return "Not known: Dagster does not answer"
    if isinstance(error, PlatformError) and type(error) in lag.WORDS:
        return f"Not known: {lag.WORDS[type(error)]}"
    if isinstance(error, PlatformError):
        return f"Not known: {str(error).partition(chr(10))[0]}"
    return f"Not known: Postgres says {type(error).__name__}"


def _document() -> dict[str, Any] | None:
    report = portfolio(_UTC).portfolio
    return report.document if report else None


def _pipeline() -> Signal:
    with snapshot() as db:
        found = db.one("""
            SELECT coalesce(sum(offsets), 0)::bigint AS differences
              FROM reconciliation_findings WHERE cleared_at IS NULL
        """)
    behind = lag.consumer_lag()
    return signals.pipeline(
        behind.events, behind.waited_seconds, behind.words, behind.halted, found["differences"]
    )


def _population() -> Signal:
    with snapshot() as db:
        reports = db.rows("""
            SELECT report_id, verdict,
                   extract(epoch FROM now() - created_at)::float8 AS age
              FROM drift_reports ORDER BY created_at DESC, report_id DESC LIMIT 1
        """)
        features = db.rows(
            """
            SELECT feature FROM drift_features
             WHERE report_id = %(report_id)s AND verdict IN ('moderate', 'significant')
             ORDER BY psi DESC NULLS LAST
            """,
            report_id=reports[0]["report_id"] if reports else -1,
        )
    schema = None
    try:
        checks = orchestration.checks(_UTC)
    except orchestration.DagsterUnavailable:
        pass  # the line on checks says it
    else:
        rows = checks[checks["check"] == "schema_change"].to_dict("records")
        schema = {str(name): value for name, value in rows[0].items()} if rows else None
    drifted = [formats.feature(row["feature"]) for row in features]
    return signals.population(reports[0] if reports else None, drifted, schema)


def _limits() -> Signal:
    return signals.limits(measure(load_limits(DrainSettings().limits_file), _document()))


def _work() -> Signal:
    waiting = cases.unreviewed()
    return signals.work(
        *(waiting.cases, waiting.oldest_seconds, waiting.loan_amnt),
        DrainSettings().case_sla_hours,
    )


def _changes() -> Signal:
    with snapshot() as db:
        decided = db.rows("""
            SELECT a.kind, a.action, a.who,
                   coalesce(p.name || '@' || left(p.content_hash, 12), m.version,
                            a.subject_id::text) AS subject
              FROM approvals a
              LEFT JOIN policies p ON a.kind = 'policy' AND policy_id = subject_id
              LEFT JOIN models m ON a.kind = 'model' AND model_id = subject_id
             WHERE action IN ('activate', 'retire') AND effective_from <= now()
               AND effective_from > now() - interval '24 hours'
             ORDER BY effective_from DESC LIMIT 3
        """)
        days = db.one("""
            SELECT coalesce(sum(applications) FILTER (WHERE today), 0)::bigint AS now,
                   coalesce(sum(applications) FILTER (WHERE today AND flagged), 0)::bigint
                       AS now_flagged,
                   coalesce(sum(applications) FILTER (WHERE NOT today), 0)::bigint AS before,
                   coalesce(sum(applications) FILTER (WHERE NOT today AND flagged), 0)::bigint
                       AS before_flagged
              FROM (SELECT applications, minute > now() - interval '24 hours' AS today,
                           risk_tier = 'Watchlist' AS flagged
                      FROM risk_by_minute
                     WHERE minute > now() - interval '48 hours' AND risk_tier <> 'Rejected') AS _
        """)
    return signals.changes(
        [
            f"{row['kind']} {row['subject']} {row['action'].removesuffix('e')}ed by {row['who']}"
            for row in decided
        ],
        signals.Day(days["now"], days["now_flagged"]),
        signals.Day(days["before"], days["before_flagged"]),
    )
