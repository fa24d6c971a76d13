"""The rollup by segment, which the dashboard reads, and the job that keeps it up to date."""

from collections.abc import Iterator

import dagster as dg

from assets_src.common import OWNERS, asset_job, kept_fresh, one_line_failures, scheduled
from assets_src.source_code import code_version, linked
from resources.postgres.connection import Warehouse
from resources.postgres.segments import roll_up_segments as add_new_applications

_CRON = "2-59/10 * * * *"


@dg.asset(
    group_name="stream",
    deps=["scored_applications"],
    description="Decisions counted by hour, purpose, grade, state, term and amount. "
    "Outside of scoring, which it must not slow down; what it does not have yet, the dashboard "
    "counts itself, so a late run makes that slower and nothing wrong.",
    kinds={"postgres"},
    owners=OWNERS,
    code_version=code_version("resources.postgres.segments"),
    freshness_policy=kept_fresh(_CRON),
    output_required=False,
)
def segments_by_hour(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> Iterator[dg.MaterializeResult]:
    """Add what was scored since the last time."""
    with one_line_failures(), warehouse.session("roll up segments") as connection:
        added = add_new_applications(connection)
    context.log.info("%d decisions added", added.applications)
    if added.applications:
        yield dg.MaterializeResult(
            metadata={
                "decisions added": added.applications,
                "rolled up to": dg.MetadataValue.timestamp(added.rolled_up_to.timestamp()),
                "segments": added.segments,
            }
        )


roll_up_segments = asset_job(
    "roll_up_segments",
    selection=dg.AssetSelection.assets(segments_by_hour),
    description="Bring the dashboard's rollup up to date. Launch it at any time.",
    tags={"dagster/max_runtime": "3600"},
)
segments_schedule = scheduled(
    job=roll_up_segments,
    cron_schedule=_CRON,
    description="Every ten minutes, what was scored since the last time.",
)

defs = dg.Definitions(
    assets=linked(segments_by_hour), jobs=[roll_up_segments], schedules=[segments_schedule]
)
