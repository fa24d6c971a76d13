"""What became of the loans: what was delivered of a month, from the bucket into Postgres."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from assets_src.common import OWNERS, asset_job, one_line_failures, table
from assets_src.source_code import code_version, linked
from credit_risk_dagster.pipelines.outcomes import load_outcomes
from credit_risk_dagster.settings import Settings
from resources.lake import Lake
from resources.postgres.connection import Warehouse

PREFIX = "outcomes/"
_MONTHS = dg.MonthlyPartitionsDefinition(start_date="2007-06-01", end_offset=1)


@dg.asset(
    group_name="model",
    partitions_def=_MONTHS,
    description="What was observed of the loans in a month: the files that begin with "
    "outcomes/YYYY-MM in the bucket, into the table `loan_outcomes`. What is known already changes "
    "nothing, a correction keeps the old value, and nothing is scored again. Other ways in: "
    "POST /outcomes, `credit-risk outcomes load`.",
    kinds={"s3", "postgres"},
    owners=OWNERS,
    code_version=code_version(
        "credit_risk_dagster.pipelines.outcomes", "credit_risk_dagster.domain.outcomes"
    ),
    output_required=False,
)
def loan_outcomes(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> Iterator[dg.MaterializeResult]:
    """Load the month's files."""
    prefix = f"{PREFIX}{context.partition_key[:7]}"
    rows: list[dict[str, Any]] = []
    with one_line_failures():
        for key in sorted(lake.sizes(prefix)):
            if key.endswith("/"):
                continue
            file = f"s3://{lake.bucket}/{key}"
            loaded = load_outcomes(warehouse, file, lake=settings.lake)
            context.log.info("%s: %d added, %d known", file, loaded.added, loaded.known)
            rows.append({"file": key, "added": loaded.added, "known": loaded.known})
    if not rows:
        context.log.info("nothing begins with %s in %s", prefix, lake.location)
        return
    yield dg.MaterializeResult(
        metadata={
            "added": sum(row["added"] for row in rows),
            "known": sum(row["known"] for row in rows),
            "files": table(rows),
        }
    )


load_month = asset_job(
    "load_outcomes",
    selection=dg.AssetSelection.assets(loan_outcomes),
    description="Load what was delivered of a month; launch it again at any time.",
    tags={"dagster/max_runtime": str(6 * 3600)},
)


@dg.schedule(
    job=load_month,
    cron_schedule="40 4 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Once a day, before the models: this month and the one before.",
)
def load_outcomes_schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """A run for each of the two months; the key is of the tick, so that each comes to pass."""
    tick = context.scheduled_execution_time.isoformat()
    first = context.scheduled_execution_time.replace(day=1)
    for day in (first - timedelta(days=1), first):
        yield dg.RunRequest(f"{tick} {_month(day)}", partition_key=_month(day))


def _month(day: datetime) -> str:
    return f"{day:%Y-%m}-01"


defs = dg.Definitions(
    assets=linked(loan_outcomes), jobs=[load_month], schedules=[load_outcomes_schedule]
)
