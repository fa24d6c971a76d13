"""Failed runs, and sensors and schedules that begin to fail, are told to a webhook, when one is
configured.
"""

import time
from typing import Any

import dagster as dg
import msgspec

from credit_risk_dagster.settings import Settings
from resources.dagster_internals import InstigatorTick, SerializableErrorInfo, TickStatus
from resources.webhook import WebhookFailed, post

# One that goes on failing is told once, and again after it was well for so long.
LOOK_BACK_SECONDS = 600.0
# A slow webhook takes seconds for each, and a tick has one minute.
RUNS_A_TICK = 5
_NOBODY = "CREDIT_RISK_ALERT_WEBHOOK_URL is not set, so nobody is told"


@dg.sensor(
    name="run_failures",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts each failed run to CREDIT_RISK_ALERT_WEBHOOK_URL, in order. When the "
    "webhook does not take one, this tick fails and the next one tries again; nothing else waits.",
)
def run_failures(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Tell of the runs that failed since the last tick. The cursor is the last one that was told;
    without a cursor, or with one that Dagster's own failure sensor left, it begins with now.
    """
    cursor = context.cursor
    if not cursor or cursor.startswith("{"):
        newest = context.instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1)
        return dg.SensorResult(skip_reason="no run failed yet", cursor=newest.cursor)
    said: list[str] = []
    for _ in range(RUNS_A_TICK):
        failed = context.instance.fetch_run_status_changes(
            dg.DagsterEventType.RUN_FAILURE, limit=1, cursor=cursor, ascending=True
        )
        run = failed.records and context.instance.get_run_by_id(failed.records[0].run_id)
        if run:
            message = run_failure(context.instance, run, failed.records[0].event_log_entry)
            name = f"run {run.run_id[:8]} of {run.job_name} failed"
            try:
                said.append(name if post(settings.alert, message) else f"{name}; {_NOBODY}")
            except WebhookFailed as error:
                if not said:
                    raise
                said.append(str(error))
                break
        cursor = failed.cursor
        if not failed.has_more:
            break
    return dg.SensorResult(skip_reason="; ".join(said) or "no run failed", cursor=cursor)


def run_failure(
    instance: dg.DagsterInstance, run: dg.DagsterRun, failure: dg.EventLogEntry
) -> dict[str, Any]:
    """The message about a failed run."""
    steps = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    errors = [_why(entry.dagster_event) for entry in steps if entry.dagster_event]
    error = "; ".join(errors) or " ".join(failure.message.split())
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
def failing_sensors(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
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
    told = [name for name in news if post(settings.alert, tick_failure(name, failing[name]))]
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


defs = dg.Definitions(sensors=[run_failures, failing_sensors])
