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

_LONGEST = timedelta(days=366)


def report_html(period: str) -> bytes:
    """The report of the days of a period (`period_of`) or of the history that there is, of at least
    one and at most a year."""
    settings = DrainSettings()
    try:
        limits = load_limits(settings.limits_file)
    except LimitsUnreadable:  # the strip says it
        limits = []
    with snapshot() as db:
        chosen, until = period_of(period).at(db.now("UTC"))
        length = min(chosen.length or history(), _LONGEST)
        days = max(1, -(-length // timedelta(days=1)))
        facts = report.gather(
            *(db.connection, until.to_pydatetime(), days, limits, settings.case_sla_hours)
        )
    return report.page(replace(facts, lines=strip())).encode()
