"""The asset of the archive, its checks, and the jobs that keep both up to date."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets_src.columns import RAW_EVENTS
from assets_src.common import (
    OWNERS,
    asset_job,
    check_result,
    kept_fresh,
    one_line_failures,
    scheduled,
    table,
)
from assets_src.source_code import code_version, linked
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.archive import ArchiveReport, archive
from credit_risk_dagster.pipelines.archive_check import check_archive, verify_lake
from credit_risk_dagster.settings import ArchiveSettings, Settings
from resources.kafka.broker import Broker
from resources.lake import Lake
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.sources import Sources

_CRON = ArchiveSettings.at_load().cron

ARCHIVE = dg.AssetKey("raw_event_archive")
ARCHIVE_COMPLETE = dg.AssetCheckSpec(
    "archive_complete",
    asset=ARCHIVE,
    description=(
        "Every committed offset is archived or waits to be: archived + pending = committed in each "
        "partition, without holes and overlaps, nothing lost, and the files of the last day that "
        "the lake's two tables list are on S3 with their sizes. If it fails, its message says what "
        "to do."
    ),
)


@dg.asset(
    key=ARCHIVE,
    group_name="lake",
    deps=["scored_applications", "rejected_events"],
    description="Every committed event as the broker gave it, and every decision, on S3 as two "
    "Delta tables by day: `raw_events/<topic>` and `decisions/<topic>`.",
    kinds={"s3", "parquet"},
    owners=OWNERS,
    code_version=code_version(
        "credit_risk_dagster.pipelines.archive",
        "credit_risk_dagster.pipelines.archive_decisions",
        "credit_risk_dagster.domain.lake_rows",
    ),
    freshness_policy=kept_fresh(_CRON),
    output_required=False,
    check_specs=[ARCHIVE_COMPLETE],
    metadata={"dagster/column_schema": RAW_EVENTS},
)
def raw_event_archive(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    broker: dg.ResourceParam[Broker],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Archive what is committed and not archived yet."""
    with one_line_failures():
        try:
            report = archive(
                broker,
                warehouse,
                lake,
                settings.archive,
                run_id=context.run.run_id,
                log=context.log,
            )
            if report.objects or report.lost or report.decisions.rows:
                with warehouse.session() as connection:
                    total = ArchiveLedger(connection).rows()
                yield dg.MaterializeResult(asset_key=ARCHIVE, metadata=_metadata(report, total))
            account = (
                check_archive(warehouse, lake, report.source, recent=True)
                if report.source
                else None
            )
        except PlatformError as error:
            yield check_result(ARCHIVE_COMPLETE, False, str(error))
            raise
    if account is None:
        yield check_result(ARCHIVE_COMPLETE, True, "nothing of the topic is committed yet")
        return
    archived = sum(p["archived"] for p in account.partitions)
    pending = sum(p["pending"] for p in account.partitions)
    yield check_result(
        ARCHIVE_COMPLETE,
        not account.problems,
        "; ".join(account.problems)
        or f"{counted(archived, 'offset')} archived, {pending:,} committed since and pending",
        {"offsets and events by partition": table(account.partitions, "partition")},
    )


def _metadata(report: ArchiveReport, total: int) -> dict[str, Any]:
    return {
        "dagster/row_count": total,
        "events": report.rows,
        "objects": table(
            (
                {"key": stored.key, "events": stored.rows, "bytes": stored.bytes}
                for stored in report.objects[:50]
            ),  # of the first archiving of an old topic, enough
            *("key", "events", "bytes"),
        ),
        "object count": len(report.objects),
        "bytes": report.bytes,
        "compression ratio": round(report.value_bytes / max(report.bytes, 1), 1),
        "events lost": sum(lost for _, lost in report.lost),
        "decisions": report.decisions.rows,
        "decisions gone before": report.decisions.gone,
        "left to another run": report.busy,
        "seconds": round(report.seconds, 1),
        "throughput (events/s)": round(report.rows / max(report.seconds, 1e-9)),
    }


# Of the nightly upkeep, after which it runs: each materialization of an asset drops its checks, and
# the archive has one every few minutes.
@dg.asset_check(
    asset="lake_maintenance",
    description="Every file that the lake's tables list is on S3 with its size, and those that "
    "were read back have the SHA-256 that was stored: so many bytes a day, the longest ago first. "
    "If it fails, restore the named objects from a version or a replica of the bucket.",
)
def archive_checksums(
    settings: dg.ResourceParam[Settings],
    broker: dg.ResourceParam[Broker],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> dg.AssetCheckResult:
    """Compare the lake in full with what is committed, and read some of it back."""
    try:
        topic = broker.inspect()
        with warehouse.session() as connection:
            source = Sources(connection).find(topic)
        if source is None:
            return dg.AssetCheckResult(passed=True, description="nothing is archived yet")
        account = check_archive(warehouse, lake, source)
        bytes_a_day = settings.archive.verify_bytes_per_day
        verified = verify_lake(warehouse, lake, source.topic, bytes_a_day=bytes_a_day)
    except PlatformError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    problems = [*account.problems, *verified.broken]
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:20])
        or f"{counted(verified.files, 'file')}, {counted(verified.bytes, 'byte')}, as stored; "
        f"{verified.left:,} left for another day",
        metadata={"files": verified.files, "bytes": verified.bytes, "left": verified.left},
    )


archive_raw_events = asset_job(
    "archive_raw_events",
    selection=dg.AssetSelection.assets(ARCHIVE),
    description="Copy what is committed and not archived yet to S3. Launch it at any time; two at "
    "once share the partitions.",
    tags={"dagster/max_runtime": str(6 * 3600)},
)
verify_archive_job = asset_job(
    "verify_archive",
    selection=dg.AssetSelection.checks(archive_checksums),
    description="Read files of the lake back, the longest ago first, and compare their checksums: "
    "so much a day as CREDIT_RISK_ARCHIVE_VERIFY_BYTES_PER_DAY says.",
    tags={"dagster/max_runtime": str(12 * 3600)},
)
archive_schedule = scheduled(
    job=archive_raw_events,
    cron_schedule=_CRON,
    description="Archives what was committed since the last time (CREDIT_RISK_ARCHIVE_CRON).",
)
verify_schedule = scheduled(
    job=verify_archive_job,
    cron_schedule="17 3 * * *",
    description="Once a day, what the lake has, and the checksums of a part of it.",
)

defs = dg.Definitions(
    assets=linked(raw_event_archive),
    asset_checks=[archive_checksums],
    jobs=[archive_raw_events, verify_archive_job],
    schedules=[archive_schedule, verify_schedule],
)
