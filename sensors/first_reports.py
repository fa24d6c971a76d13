"""The first report of each kind, as soon as there is enough: nobody waits for the night."""

import dagster as dg
import msgspec

from assets_src.drift import report_drift_job
from assets_src.model import benchmark_models
from assets_src.portfolio import report_job
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import Settings
from resources.postgres.connection import Warehouse
from resources.postgres.risk_reports import Reported, reported

ENOUGH_OUTCOMES = (
    2_000  # of some lenders that is too few bad loans: then it tries with twice as many
)
DRIFT, BENCHMARK, PORTFOLIO = (job.name for job in (report_drift_job, benchmark_models, report_job))


class _Asked(msgspec.Struct):
    """What was requested: jobs, and the benchmark with how many outcomes. Without it, a job is
    requested once more, and finds what is there."""

    jobs: list[str] = []
    outcomes: int = 0


@dg.sensor(
    jobs=[report_drift_job, benchmark_models, report_job],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests the first drift report when its baseline can be frozen, the first "
    "benchmark when outcomes have come, and the first report of the portfolio after it; their "
    "schedules make all others.",
)
def first_reports(
    context: dg.SensorEvaluationContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.SensorResult | dg.SkipReason:
    """One tick: a request for each first report that can be made now."""
    asked = msgspec.json.decode(context.cursor, type=_Asked) if context.cursor else _Asked()
    if PORTFOLIO in asked.jobs and DRIFT in asked.jobs:
        return dg.SkipReason("each was requested once: their schedules go on")
    try:
        with warehouse.session("first reports") as connection:
            found = reported(connection)
    except PlatformError as error:
        return dg.SkipReason(str(error))
    due = [
        job
        for job in _due(found, asked, settings)
        # Somebody launched it before there was enough, or does so now.
        if not context.instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
        or (job == BENCHMARK and asked.outcomes)
    ]
    if found.drift and DRIFT not in asked.jobs:
        asked.jobs.append(DRIFT)  # the schedule was first
    if found.portfolio and PORTFOLIO not in asked.jobs:
        asked.jobs.append(PORTFOLIO)
    asked.jobs += [job for job in due if job != BENCHMARK]
    if BENCHMARK in due:
        asked.outcomes = found.outcomes
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(job_name=job, tags={"credit_risk/why": "the first one"}) for job in due
        ],
        skip_reason=None
        if due
        else f"not enough yet: {counted(found.scored, 'application')}, "
        f"{counted(found.outcomes, 'outcome')}",
        cursor=msgspec.json.encode(asked).decode(),
    )


def _due(found: Reported, asked: _Asked, settings: Settings) -> list[str]:
    drift = settings.drift
    enough = drift.min_rows if found.baseline or drift.baseline_csv else drift.baseline_rows
    due = []
    if not found.drift and DRIFT not in asked.jobs and found.scored >= enough:
        due.append(DRIFT)
    if not found.benchmark and found.outcomes >= max(ENOUGH_OUTCOMES, 2 * asked.outcomes):
        due.append(BENCHMARK)
    if found.benchmark and not found.portfolio and PORTFOLIO not in asked.jobs:
        due.append(PORTFOLIO)
    return due


defs = dg.Definitions(sensors=[first_reports])
