"""The rollup by segment, which the dashboard reads, and the job that keeps it up to date."""

from collections.abc import Iterator

import dagster as dg

from assets_src.scoring import OWNERS
from credit_risk_dagster.errors import PlatformError
from resources.configurable import WarehouseResource
from resources.postgres.segments import roll_up_segments as add_new_applications


@dg.asset(
    group_name="dashboard",
    deps=["scored_applications"],
    description="Scored applications counted by hour, purpose, grade, state, term and amount. "
    "Outside of scoring, which it must not slow down; what it does not have yet, the dashboard "
    "counts itself, so a late run makes that slower and nothing wrong.",
    kinds={"postgres"},
    owners=OWNERS,
    output_required=False,
)
def segments_by_hour(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource
) -> Iterator[dg.MaterializeResult]:
    """Add what was scored since the last time."""
    try:
        with warehouse.client().session("roll up segments") as connection:
            added = add_new_applications(connection)
    except PlatformError as error:
        # The next run adds it; a retry of this one would only come sooner than Postgres recovers.
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info("%d applications added", added.applications)
    if added.applications:
        yield dg.MaterializeResult(
            metadata={
                "applications added": added.applications,
                "rolled up to": dg.MetadataValue.timestamp(added.rolled_up_to.timestamp()),
                "segments": added.segments,
            }
        )


roll_up_segments = dg.define_asset_job(
    "roll_up_segments",
    selection=dg.AssetSelection.assets(segments_by_hour),
    description="Bring the dashboard's rollup up to date. Launch it at any time.",
    executor_def=dg.in_process_executor,
    tags={"dagster/max_runtime": "3600"},
)
segments_schedule = dg.ScheduleDefinition(
    name="roll_up_segments_schedule",
    job=roll_up_segments,
    cron_schedule="2-59/10 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every ten minutes, what was scored since the last time.",
)
