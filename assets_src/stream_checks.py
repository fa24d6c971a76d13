"""Checks of the stream: whether scoring keeps up, and whether the events look as they did."""

import dagster as dg

from assets_src.common import asset_job, scheduled
from assets_src.scoring import loan_applications
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.stream_health import (
    SchemaComparison,
    compare_schema,
    measure_backlog,
)
from credit_risk_dagster.settings import Settings, StreamSettings
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse

_SHOWN = 20


@dg.asset_check(
    asset=loan_applications.key,
    description="While events wait on the broker, applications are being scored "
    "(CREDIT_RISK_STREAM_SILENT_MINUTES). If it fails, look at the ticks of the sensor "
    "loan_applications_offsets: they name the server that does not answer, or the runs that "
    "failed; `credit-risk status` shows the backlog. If every event is rejected, `credit-risk "
    "rejected ls` says why.",
)
def backlog_is_scored(
    settings: dg.ResourceParam[Settings],
    broker: dg.ResourceParam[Broker],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.AssetCheckResult:
    """Fail when events wait and nothing was scored for too long."""
    try:
        limit = settings.stream.silent_minutes
        found = measure_backlog(broker, warehouse)
    except PlatformError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    said = [counted(found.events, "event waits", "events wait")]
    if found.waited_seconds is not None:
        said.append(f"the oldest for {_minutes(found.waited_seconds)}")
    said.append(
        "nothing was scored yet"
        if found.silent_seconds is None
        else f"the last application was scored {_minutes(found.silent_seconds)} ago"
    )
    return dg.AssetCheckResult(
        passed=not found.is_stale(60 * limit),
        description=f"{', '.join(said)}; limit {limit:g} minutes",
        metadata={"backlog": found.events},
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} minutes"


@dg.asset_check(
    asset=loan_applications.key,
    description="The newest events have the columns, of the JSON types, that the active baseline "
    "recorded when it first met the stream. If it fails, ask the producer whether the change is "
    "meant. A column that scoring uses (an error) may already cost rejected events: `credit-risk "
    "rejected ls`. When the change is right, `credit-risk baseline accept-columns`.",
)
def schema_change(
    settings: dg.ResourceParam[Settings],
    broker: dg.ResourceParam[Broker],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.AssetCheckResult:
    """Fail when a column disappeared, appeared or changed its type."""
    try:
        compared = compare_schema(broker, warehouse, settings.stream.sample_events)
    except PlatformError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    used = any(change.used for change in compared.found)
    return dg.AssetCheckResult(
        passed=not compared.found,
        severity=dg.AssetCheckSeverity.ERROR
        if used or not compared.found
        else dg.AssetCheckSeverity.WARN,
        description=_in_words(compared),
        metadata={
            "events looked at": compared.now.events,
            "columns": len(compared.now.columns),
        },
    )


def _in_words(compared: SchemaComparison) -> str:
    if compared.found:
        more = len(compared.found) - _SHOWN
        said = "; ".join(map(str, compared.found[:_SHOWN]))
        return said + (f"; and {more} more" if more > 0 else "")
    if compared.too_few:
        return f"only {counted(compared.now.events, 'event')} to look at"
    if compared.baseline_id is None:
        return "there is no baseline yet to compare with"
    if compared.before is None:
        return f"baseline {compared.baseline_id} recorded the columns; changes show from now on"
    return f"as baseline {compared.baseline_id} recorded"


check_stream = asset_job(
    "check_stream",
    selection=dg.AssetSelection.checks(backlog_is_scored, schema_change),
    description="Whether scoring keeps up with the stream, and whether its events look as before.",
    tags={"dagster/max_runtime": "600"},
)
check_stream_schedule = scheduled(
    job=check_stream,
    cron_schedule=StreamSettings.at_load().cron,
    description="Checks the stream (CREDIT_RISK_STREAM_CRON).",
)

defs = dg.Definitions(
    asset_checks=[backlog_is_scored, schema_change],
    jobs=[check_stream],
    schedules=[check_stream_schedule],
)
