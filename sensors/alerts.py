"""Failed runs, sensors and schedules that begin to fail, and asset checks whose outcome changes are
told to a webhook, when one is configured. What it does not take is told later, each thing once.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any

import dagster as dg
import msgspec

from credit_risk_dagster.base_settings import SettingInvalid
from credit_risk_dagster.settings import Settings
from resources.dagster_internals import (
    CheckStatus,
    InstigatorTick,
    SerializableErrorInfo,
    TickStatus,
)
from resources.webhook import WebhookFailed, post

# One that goes on failing is told once, and again after it was well for so long.
LOOK_BACK_SECONDS = 600.0
# A slow webhook takes seconds for each, and a tick has one minute.
RUNS_A_TICK = 5
_NOBODY = "CREDIT_RISK_ALERT_WEBHOOK_URL is not set, so nobody is told"

_Tick = Callable[[dg.SensorEvaluationContext, Settings], dg.SensorResult | dg.SkipReason]


def _when_set(tick: _Tick) -> _Tick:
    """The tick, or what is wrong with the settings of alerts."""

    @wraps(tick)
    def evaluate(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            _ = settings.alert
        except SettingInvalid as error:
            return dg.SkipReason(str(error))
        return tick(context, settings)

    return evaluate


@dg.sensor(
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts each failed run to CREDIT_RISK_ALERT_WEBHOOK_URL, in order. When the "
    "webhook does not take one, this tick fails and the next one tries again; nothing else waits.",
)
@_when_set
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
            message["runbook_url"] = _section(settings, "run-failures")
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
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts sensors and schedules that begin to fail to CREDIT_RISK_ALERT_WEBHOOK_URL; "
    "also `run_failures`, when the webhook did not take an alert.",
)
@_when_set
def failing_sensors(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Tell of those whose ticks failed, and of which nothing was told. The cursor has the failed
    ticks that were told, and since when everything is: what the webhook did not take is looked for
    from then on, however long it is away."""
    told = _told(context.cursor)
    now = time.time()
    since = (told.everything_at or now) - LOOK_BACK_SECONDS
    failing: dict[str, list[InstigatorTick]] = {}
    for state in context.instance.all_instigator_state():
        ticks = context.instance.get_ticks(
            state.instigator_origin_id,
            state.selector_id,
            after=since,
            statuses=[TickStatus.FAILURE],
        )
        if ticks and state.name != failing_sensors.name:
            failing[state.name] = [*ticks]
    seen = set(told.ticks)
    news = {
        name: tick_failure(name, ticks) | {"runbook_url": _section(settings, "sensor-failing")}
        for name, ticks in failing.items()
        if seen.isdisjoint(t.tick_id for t in ticks)
    }
    said, refused = _post_each(settings, news)
    ids = [t.tick_id for name, ticks in failing.items() if name not in refused for t in ticks]
    left = _Told(sorted(ids), told.everything_at if refused else now)
    # Those that are well again are among them, for as long as they are not to be told anew.
    lately = f"failed in the last {(now - since) / 60:.0f} min"
    reason = f"{lately}: {', '.join(sorted(failing))}" if failing else "none fails"
    return dg.SensorResult(
        skip_reason="; ".join([reason, *said]), cursor=msgspec.json.encode(left).decode()
    )


class _Told(msgspec.Struct):
    """The failed ticks that were told, and when everything was."""

    ticks: list[int] = []
    everything_at: float = 0.0


def _told(cursor: str | None) -> _Told:
    with suppress(msgspec.MsgspecError):  # the version before had a list of ticks
        return msgspec.json.decode(cursor or "{}", type=_Told)
    return _Told(msgspec.json.decode(cursor or "[]", type=list[int]))


def _post_each(
    settings: Settings, messages: Mapping[str, dict[str, Any]]
) -> tuple[list[str], set[str]]:
    """Post messages by name; returns what to say of it, and the names of those that were refused.

    Raises:
        WebhookFailed: none was taken: the tick fails, and its cursor stays.
    """
    said: list[str] = []
    refused: set[str] = set()
    taken = False
    for name, message in messages.items():
        try:
            taken = post(settings.alert, message) or taken
        except WebhookFailed as error:
            refused.add(name)
            said = [str(error)]
    if refused and not taken:
        raise WebhookFailed(said[0])
    if messages and not taken:
        said = [_NOBODY]
    return said, refused


def tick_failure(name: str, ticks: list[InstigatorTick]) -> dict[str, Any]:
    """The message about a sensor or schedule; the newest of its failed ticks comes first."""
    error = f"{_kind(ticks[0].error)}; its page says more"
    return {
        "text": f"Dagster {ticks[0].instigator_type.value.lower()} {name} fails: {error}",
        "kind": "tick_failure",
        "name": name,
        "error": error,
    }


@dg.sensor(
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts asset checks that begin or cease to fail to CREDIT_RISK_ALERT_WEBHOOK_URL, "
    "with what to do about it.",
)
@_when_set
def check_outcomes(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Tell of each check whose outcome is another one than was told last; of a first one, only when
    it fails. The cursor has the outcomes that were told."""
    told = msgspec.json.decode(context.cursor or "{}", type=dict[str, str])
    graph = context.repository_def.asset_graph if context.repository_def else None
    now: dict[str, str] = {}
    news: dict[str, dict[str, Any]] = {}
    for key in graph.asset_check_keys if graph else ():
        found = last_evaluation(context.instance, key)
        name = f"{key.name} of {key.asset_key.to_user_string()}"
        if found is None:
            continue
        now[name] = "passed" if found.passed else found.severity.value
        if now[name] != told.get(name, "passed"):
            advice = graph.get_check_spec(key).description if graph else None
            news[name] = check_outcome(name, found, advice or "")
            news[name]["runbook_url"] = _section(settings, "check-fails")
    said, refused = _post_each(settings, news)
    for name in refused:
        now[name] = told.get(name, "passed")
    failing = [f"{name} ({state})" for name, state in now.items() if state != "passed"]
    reason = f"failing: {', '.join(failing)}" if failing else "no check fails"
    return dg.SensorResult(
        skip_reason="; ".join([reason, *said]), cursor=msgspec.json.encode(now).decode()
    )


def last_evaluation(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey
) -> dg.AssetCheckEvaluation | None:
    """The last outcome of a check; None before the first. Runs that are under way have none."""
    records = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status={CheckStatus.SUCCEEDED, CheckStatus.FAILED}
    )
    event = records[0].event if records else None
    if event is None or event.dagster_event is None:
        return None
    return event.dagster_event.asset_check_evaluation_data


def check_outcome(name: str, found: dg.AssetCheckEvaluation, advice: str) -> dict[str, Any]:
    """The message about a check whose outcome changed."""
    what = found.description or "no more is said"
    passed = bool(found.passed)
    text = f"Check {name} passes again: {what}"
    if not passed:
        text = f"Check {name} fails ({found.severity.value}): {what}\n{advice}"
    return {
        "text": text,
        "kind": "check_passed" if passed else "check_failure",
        "check": found.check_name,
        "asset": found.asset_key.to_user_string(),
        "severity": None if passed else found.severity.value,
        "description": what,
        "advice": "" if passed else advice,
    }


def _section(settings: Settings, anchor: str) -> str | None:
    """Where the runbook says what to do; None when nobody said where that is."""
    base = settings.alert.runbook_url
    return f"{base}#{anchor}" if base else None


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


defs = dg.Definitions(sensors=[run_failures, failing_sensors, check_outcomes])
