"""What Dagster's storage tells: runs, daemons, sensors and schedules, and asset checks."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from credit_risk_dagster.api.metrics.families import gauge
from resources.dagster_storage import DagsterState


def dagster_metrics(state: DagsterState) -> Iterator[Metric]:
    """Of Dagster at one moment."""
    yield gauge(
        "dagster_runs",
        "Runs that are not finished, and those that finished within an hour, by job and status",
        [({"job_name": r["job"], "status": r["status"]}, r["runs"]) for r in state.runs],
    )
    yield gauge(
        "dagster_oldest_queued_run_seconds",
        "Seconds that the oldest run which has not begun to work has waited; 0 without one",
        [({}, state.oldest_waiting_seconds)],
    )
    yield gauge(
        "dagster_daemon_heartbeat_timestamp_seconds",
        "When a daemon of Dagster last said that it is alive",
        [({"daemon": daemon}, at) for daemon, at in state.heartbeats.items()],
    )
    ticks = [({"name": tick["name"], "kind": tick["kind"]}, tick) for tick in state.ticks]
    yield gauge(
        "dagster_last_tick_timestamp_seconds",
        "When a sensor or schedule that is not stopped was last evaluated",
        [(labels, tick["at"]) for labels, tick in ticks],
    )
    yield gauge(
        "dagster_last_tick_failed",
        "Whether that evaluation failed",
        [(labels, float(tick["failed"])) for labels, tick in ticks],
    )
    checks = [({"asset": check["asset"], "check": check["name"]}, check) for check in state.checks]
    yield gauge(
        "check_failed",
        "Whether the last evaluation of an asset check failed, by how bad that is",
        [
            (
                {**labels, "severity": severity},
                float(not check["passed"] and check["severity"] == severity.upper()),
            )
            for labels, check in checks
            for severity in ("error", "warn")
        ],
    )
    yield gauge(
        "check_timestamp_seconds",
        "When an asset check was last evaluated",
        [(labels, check["at"]) for labels, check in checks],
    )
