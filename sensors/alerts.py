"""Failed runs, and sensors and schedules that begin to fail, are told to a webhook, when one is
configured.
"""

import time
from typing import Any

import dagster as dg
import msgspec
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._utils.error import SerializableErrorInfo

from credit_risk_dagster.settings import AlertSettings
from resources.webhook import post

# One that goes on failing is told once, and again after it was well for so long.
LOOK_BACK_SECONDS = 600.0
_NOBODY = "CREDIT_RISK_ALERT_WEBHOOK_URL is not set, so nobody is told"


@dg.run_failure_sensor(
    name="run_failures",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts each failed run to CREDIT_RISK_ALERT_WEBHOOK_URL. When the webhook does not "
    "take it, this tick fails, and nothing else.",
)
def run_failures(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Tell of one failed run."""
    if not post(AlertSettings(), run_failure(context)):
        run = context.dagster_run
        return dg.SkipReason(f"run {run.run_id[:8]} of {run.job_name} failed; {_NOBODY}")
    return None


def run_failure(context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """The message about a failed run."""
    run = context.dagster_run
    errors = [_why(event) for event in context.get_step_failure_events()]
    error = "; ".join(errors) or " ".join((context.failure_event.message or "").split())
    return {
        "text": f"Dagster run {run.run_id[:8]} of {run.job_name} failed: {error}",
        "kind": "run_failure",
        "job": run.job_name,
        "run_id": run.run_id,
        "error": error,
        "tags": {k: value for k, value in run.tags.items() if k.startswith("credit_risk/")},
    }


@dg.sensor(
    name="failing_sensors",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts sensors and schedules that begin to fail to CREDIT_RISK_ALERT_WEBHOOK_URL; "
    "also `run_failures`, when the webhook did not take an alert.",
)
def failing_sensors(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Tell of those whose ticks failed, and of which nothing was told. The cursor has the failed
    ticks that were seen; when the webhook fails it stays, so they are told later."""
    seen = set(msgspec.json.decode(context.cursor or "[]", type=list[int]))
    failing: dict[str, list[InstigatorTick]] = {}
    for state in context.instance.all_instigator_state():
        ticks = context.instance.get_ticks(
            state.instigator_origin_id,
            state.selector_id,
            after=time.time() - LOOK_BACK_SECONDS,
            statuses=[TickStatus.FAILURE],
        )
        if ticks and state.name != failing_sensors.name:
            failing[state.name] = [*ticks]
    news = [name for name, ticks in failing.items() if seen.isdisjoint(t.tick_id for t in ticks)]
    settings = AlertSettings()
    told = [name for name in news if post(settings, tick_failure(name, failing[name]))]
    reason = f"failing: {', '.join(failing)}" if failing else "none fails"
    return dg.SensorResult(
        skip_reason=reason if told or not news else f"{reason}; {_NOBODY}",
        cursor=msgspec.json.encode(
            sorted(tick.tick_id for ticks in failing.values() for tick in ticks)
        ).decode(),
    )


def tick_failure(name: str, ticks: list[InstigatorTick]) -> dict[str, Any]:
    """The message about a sensor or schedule; the newest of its failed ticks comes first."""
    error = f"{_kind(ticks[0].error)}; its page says more"
    return {
        "text": f"Dagster {ticks[0].instigator_type.value.lower()} {name} fails: {error}",
        "kind": "tick_failure",
        "name": name,
        "error": error,
    }


def _why(event: dg.DagsterEvent) -> str:
    """Why a step failed. An error that is not of the platform's own words may repeat a value of an
    application, so only its kind is told."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    return f"{_kind(data.error)} in {event.step_key}; the run's page says more"


def _kind(error: SerializableErrorInfo | None) -> str:
    """The class of an error, or of the one that it came from."""
    while error and error.cause:
        error = error.cause
    return (error and error.cls_name) or "an error"
