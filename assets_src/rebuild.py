"""The rebuild as an asset by day of the archive, so that a period is a Dagster backfill."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets_src.common import OWNERS, asset_job, one_line_failures
from assets_src.source_code import code_version, linked
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.lake_history import RawEvents, moment
from credit_risk_dagster.pipelines.modelling import chosen_model
from credit_risk_dagster.pipelines.policies import current_policy
from credit_risk_dagster.pipelines.rebuild import rebuild
from credit_risk_dagster.settings import Settings
from resources.lake import Lake
from resources.postgres.connection import Warehouse


class RebuildConfig(dg.Config):
    """Where to and by which policy."""

    into: str = Field(
        default="credit_risk_rebuilt",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="schema to write; created when it is missing",
    )
    policy_file: str = Field(default="", description="credit policy (YAML); default the active one")
    at: str = Field(
        default="",
        description="version of the table, as 12, or time (UTC), as 2026-11-28T19:00; default now",
    )
    model: str = Field(
        default="active", description="who gives the PD: active, none, or a model's id"
    )


@dg.asset(
    group_name="lake",
    deps=["raw_event_archive"],
    description="Raw events, scored again without the broker into a schema of their own. "
    "Partitioned by day of the table; a backfill of several days is a run for each, in any order "
    "and side by side.",
    kinds={"postgres", "python"},
    owners=OWNERS,
    code_version=code_version("credit_risk_dagster.pipelines.rebuild"),
    output_required=False,
    partitions_def=dg.DailyPartitionsDefinition(start_date="2024-01-01", end_offset=1),
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
)
def rebuilt_applications(
    context: dg.AssetExecutionContext,
    config: RebuildConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> Iterator[dg.MaterializeResult]:
    """Rebuild the days of the run's partitions."""
    first, following = context.partition_time_window
    with one_line_failures():
        report = rebuild(
            settings.warehouse,
            RawEvents(lake, settings.kafka.topic, moment(config.at or None)),
            load_policy(Path(config.policy_file))
            if config.policy_file
            else current_policy(warehouse, settings.policy),
            into=config.into,
            run_id=context.run.run_id,
            model=chosen_model(warehouse, config.model),
            since=first.date(),
            until=(following - timedelta(days=1)).date(),
            drain=settings.drain,
            log=context.log,
        )
    yield dg.MaterializeResult(
        metadata={
            "schema": report.schema,
            "policy": report.policy,
            "model": report.model or "none",
            "version": report.version,
            "scored": report.scored,
            "rejected": report.rejected,
            "gaps": report.gaps,
            "already there": report.known,
            "throughput (events/s)": round(report.speed),
        }
    )


rebuild_from_archive = asset_job(
    "rebuild_from_archive",
    selection=dg.AssetSelection.assets("rebuilt_applications"),
    description="Score archived days again into another schema; launch a backfill for several.",
    tags={"dagster/max_runtime": str(24 * 3600)},
)

defs = dg.Definitions(assets=linked(rebuilt_applications), jobs=[rebuild_from_archive])
