"""The first page as a file."""

from dataclasses import replace
from datetime import timedelta

from credit_risk_dagster.domain.limits import LimitsUnreadable, load_limits
from credit_risk_dagster.settings import DrainSettings
from dashboard.data.connection import snapshot
from dashboard.data.overview import history
from dashboard.data.strip import strip
from dashboard.parts import report
from dashboard.parts.periods import period_of

_DAY = timedelta(days=1)
_LONGEST = 366 * _DAY


def report_html(period: str) -> bytes:
    """The report of days of the calendar, or of the days of another period (`period_of`) or of the
    history that there is: at least one and at most a year."""
    settings = DrainSettings()
    try:
        limits = load_limits(settings.limits_file)
    except LimitsUnreadable:  # the strip says it
        limits = []
    with snapshot() as db:
        chosen, until = period_of(period).at(db.now("UTC"))
        length = min(chosen.length or history(), _LONGEST)
        if chosen.since is None:
            length = _DAY * max(1, -(-length // _DAY))
        stretch = timedelta(seconds=length.total_seconds())
        facts = report.gather(
            *(db.connection, until.to_pydatetime(), stretch, limits, settings.case_sla_hours)
        )
    return report.page(replace(facts, lines=strip())).encode()
