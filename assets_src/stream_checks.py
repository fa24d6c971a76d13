"""Checks of the stream: whether scoring keeps up, and whether the events look as they did."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from assets_src.scoring import loan_applications
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.stream_health import compare_schema, measure_freshness
from credit_risk_dagster.settings import StreamSettings
from resources.configurable import BrokerResource, WarehouseResource

_SHOWN = 20


@dg.asset_check(
    asset="scored_applications",
    name="freshness",
    description="While events wait on the broker, applications are being scored "
    "(CREDIT_RISK_STREAM_SILENT_MINUTES). If it fails, look at the ticks of the sensor "
    "loan_applications_offsets: they name the server that does not answer, or the runs that "
    "failed; `credit-risk status` shows the backlog. If every event is rejected, `credit-risk "
    "rejected ls` says why.",
)
def freshness(broker: BrokerResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Fail when events wait and nothing was scored for too long."""
    limit = StreamSettings().silent_minutes
    return _guarded(lambda: _freshness(broker, warehouse, limit))


def _freshness(
    broker: BrokerResource, warehouse: WarehouseResource, limit: float
) -> dg.AssetCheckResult:
    found = measure_freshness(broker.client(), warehouse.client())
    said = [f"{found.backlog:,} events wait"]
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
        metadata={"backlog": found.backlog},
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} minutes"


@dg.asset_check(
    asset=loan_applications.key,
    name="schema_change",
    description="The newest events have the columns, of the JSON types, that the active baseline "
    "recorded when it first met the stream. If it fails, ask the producer whether the change is "
    "meant. A column that scoring uses (an error) may already cost rejected events: `credit-risk "
    "rejected ls`. When the change is right, `credit-risk baseline accept-columns`.",
)
def schema_change(broker: BrokerResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Fail when a column disappeared, appeared or changed its type."""
    sample = StreamSettings().sample_events
    return _guarded(lambda: _schema_change(broker, warehouse, sample))


def _schema_change(
    broker: BrokerResource, warehouse: WarehouseResource, sample: int
) -> dg.AssetCheckResult:
    compared = compare_schema(broker.client(), warehouse.client(), sample)
    metadata: dict[str, Any] = {
        "events looked at": compared.now.events,
        "columns": len(compared.now.columns),
    }
    if compared.found:
        used = any(change.used for change in compared.found)
        said = "; ".join(map(str, compared.found[:_SHOWN]))
        more = len(compared.found) - _SHOWN
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR if used else dg.AssetCheckSeverity.WARN,
            description=said + (f"; and {more} more" if more > 0 else ""),
            metadata=metadata,
        )
    if compared.too_few:
        said = f"only {compared.now.events:,} events to look at"
    elif compared.baseline_id is None:
        said = "there is no baseline yet to compare with"
    elif compared.before is None:
        said = f"baseline {compared.baseline_id} recorded the columns; changes show from now on"
    else:
        said = f"as baseline {compared.baseline_id} recorded"
    return dg.AssetCheckResult(passed=True, description=said, metadata=metadata)


def _guarded(check: Callable[[], dg.AssetCheckResult]) -> dg.AssetCheckResult:
    """A server that does not answer fails the check in one line."""
    try:
        return check()
    except PlatformError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))


check_stream = dg.define_asset_job(
    "check_stream",
    selection=dg.AssetSelection.checks(freshness, schema_change),
    description="Whether scoring keeps up with the stream, and whether its events look as before.",
    executor_def=dg.in_process_executor,
    tags={"dagster/max_runtime": "600"},
)
check_stream_schedule = dg.ScheduleDefinition(
    name="check_stream_schedule",
    job=check_stream,
    cron_schedule=StreamSettings().cron,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Checks the stream (CREDIT_RISK_STREAM_CRON).",
)
