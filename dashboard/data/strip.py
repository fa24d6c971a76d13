"""What the first screen's strip asks: of each thing that may be wrong, in one place, and each
source for itself."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import streamlit as st

from credit_risk_dagster.domain.limits import load_limits, measure
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DrainSettings
from dashboard.data import cases
from dashboard.data.connection import PROBLEMS, snapshot
from dashboard.data.portfolio import portfolio
from dashboard.parts import lag, orchestration, signals
from dashboard.parts.signals import Signal
from resources.postgres.connection import WarehouseUnavailable
from resources.postgres.management import Management

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
        differences = Management(db.connection).differences()
    behind = lag.consumer_lag()
    return signals.pipeline(
        behind.events, behind.waited_seconds, behind.words, behind.halted, differences
    )


def _population() -> Signal:
    with snapshot() as db:
        report = Management(db.connection).drift()
    schema = None
    try:
        checks = orchestration.checks(_UTC)
    except orchestration.DagsterUnavailable:
        pass  # the line on checks says it
    else:
        rows = checks[checks["check"] == "schema_change"].to_dict("records")
        schema = {str(name): value for name, value in rows[0].items()} if rows else None
    return signals.population(report, schema)


def _limits() -> Signal:
    return signals.limits(measure(load_limits(DrainSettings().limits_file), _document()))


def _work() -> Signal:
    return signals.work(cases.unreviewed(), DrainSettings().case_sla_hours)


# A day is sorted by loan: not every ten seconds.
@st.cache_data(ttl=60, show_spinner=False)
def _changes() -> Signal:
    with snapshot() as db:
        management, now = Management(db.connection), db.now(_UTC).to_pydatetime()
        day = timedelta(days=1)
        return signals.changes(
            management.decided(now - day, now),
            management.volume(now - day, now),
            management.volume(now - 2 * day, now - day),
        )
