"""The re-drive as a job of the UI."""

import dagster as dg
from pydantic import Field

from assets_src.common import one_line_failures, op_job
from credit_risk_dagster.pipelines.policies import current_policy
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.settings import Settings
from resources.postgres.connection import Warehouse


class RedriveConfig(dg.Config):
    """Which rejected events to score again; without any of it, all of them."""

    reason: str | None = Field(default=None, description="reason code, e.g. missing_required:dti")
    partition: int | None = Field(default=None, ge=0)
    offset: int | None = Field(default=None, ge=0)


@dg.op(description="Score rejected events again, and move those that now can be scored.")
def redrive_events(
    context: dg.OpExecutionContext,
    config: RedriveConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> None:
    """Re-drive, and report what moved to the asset of the scored rows."""
    with one_line_failures():
        report = redrive(
            warehouse,
            current_policy(warehouse, settings.policy),
            run_id=context.run_id,
            reason=config.reason,
            partition=config.partition,
            offset=config.offset,
        )
    moved = report.moved.total()
    context.log.info("%d of %d rejected events are now scored", moved, report.examined)
    if moved:
        context.log_event(
            dg.AssetMaterialization(
                "scored_applications",
                description="re-driven",
                metadata={"re-driven": moved, "policy": report.policy, **report.moved},
            )
        )


redrive_rejected = op_job(
    "redrive_rejected",
    redrive_events,
    "Score rejected events again after a fix; those that pass move to "
    "scored_applications, keep their offset, and leave a row in redriven_events.",
)


defs = dg.Definitions(jobs=[redrive_rejected])
