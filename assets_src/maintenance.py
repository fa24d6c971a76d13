"""The upkeep of the lake's tables."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from assets_src.common import OWNERS, asset_job, kept_fresh, one_line_failures, scheduled
from assets_src.source_code import code_version, linked
from credit_risk_dagster.pipelines.lake_history import TableMissing
from credit_risk_dagster.pipelines.lake_maintenance import maintain
from credit_risk_dagster.settings import ArchiveSettings, Settings
from resources.lake import Lake
from resources.postgres.connection import Warehouse

_CRON = ArchiveSettings.at_load().maintenance_cron


@dg.asset(
    group_name="lake",
    deps=["raw_event_archive"],
    description="The lake's tables with few files: those of a day merged up to 128 MiB, replaced "
    "ones deleted after CREDIT_RISK_ARCHIVE_KEEP_DAYS, the log checkpointed and as short.",
    kinds={"s3", "parquet"},
    owners=OWNERS,
    code_version=code_version("credit_risk_dagster.pipelines.lake_maintenance"),
    freshness_policy=kept_fresh(_CRON),
    output_required=False,
)
def lake_maintenance(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> Iterator[dg.MaterializeResult]:
    """Merge, vacuum and checkpoint each table."""
    keep = timedelta(days=settings.archive.keep_days)
    with one_line_failures():
        try:
            done = maintain(warehouse, lake, settings.kafka.topic, keep, log=context.log)
        except TableMissing as missing:
            context.log.info("%s", missing)
            return
    yield dg.MaterializeResult(
        metadata={
            f"{table.table}: {name}": round(figure, 1)
            for table in done
            for name, figure in table.figures.items()
        }
    )


maintain_lake = asset_job(
    "maintain_lake",
    selection=dg.AssetSelection.assets(lake_maintenance).without_checks(),
    description="Merge the small files of the lake's tables, and delete what was replaced long "
    "ago. Launch it at any time, also while a run archives.",
    tags={"dagster/max_runtime": str(6 * 3600)},
)
maintenance_schedule = scheduled(
    job=maintain_lake,
    cron_schedule=_CRON,
    description="Once a day, before the verification (CREDIT_RISK_ARCHIVE_MAINTENANCE_CRON).",
)

defs = dg.Definitions(
    assets=linked(lake_maintenance), jobs=[maintain_lake], schedules=[maintenance_schedule]
)
