"""A failed run reaches the webhook, by the real daemon; and the logs of its processes."""

import json
from typing import Any

import dagster as dg
import pytest

from assets_src.scoring import score_applications
from infra.embedded.servers import HOST
from sensors.alerts import run_failures
from tests.platform.running import PATIENCE_SECONDS, Platform
from tests.platform.waiting import wait_until


def fail(platform: Platform) -> str:
    """Launch a run that fails, as a user can; wait until it did."""
    config = {"ops": {"score_stream": {"config": {"lane": 7}}}}
    run_id = str(platform.client().submit_job_execution(score_applications.name, run_config=config))

    def failed() -> bool:
        run = platform.instance.get_run_by_id(run_id)
        return run is not None and run.status is dg.DagsterRunStatus.FAILURE

    wait_until(failed, PATIENCE_SECONDS, "the run fails")
    return run_id


def failed_ticks(platform: Platform) -> list[str]:
    """What the errors of the sensor's failed ticks came from."""
    ticks = sensor_state(platform, "ticks(limit: 50) { status error { causes { message } } }")
    failed = [tick["error"] for tick in ticks["ticks"] if tick["status"] == "FAILURE"]
    return [" ".join(cause["message"] for cause in error["causes"]) for error in failed]


def has_told_all(platform: Platform) -> bool:
    """Whether the sensor's cursor is at the newest failure: other tests leave some, too."""
    newest = platform.instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1)
    state = sensor_state(platform, "typeSpecificData { ... on SensorData { lastCursor } }")
    return bool(state["typeSpecificData"]["lastCursor"] == newest.cursor)


def sensor_state(platform: Platform, fields: str) -> Any:
    answer = platform.graphql(
        "query ($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) {"
        f" ... on Sensor {{ sensorState {{ {fields} }} }} }} }}",
        sensor={**platform.sensor, "sensorName": run_failures.name},
    )
    return answer["sensorOrError"]["sensorState"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gql")
def test_failures_are_told_and_a_dead_webhook_stops_nothing(platform: Platform) -> None:
    platform.wait_until_idle()
    wait_until(lambda: has_told_all(platform), PATIENCE_SECONDS, "earlier failures are told")
    hook, before, unread = platform.hook, platform.runs(), len(failed_ticks(platform))
    hook.posts.clear()
    hook.statuses[:] = [404, 200]

    def posts() -> list[dict[str, Any]]:
        """Beside what checks say, which may change at any time."""
        return [post for post in hook.posts if not post["kind"].startswith("check_")]

    unheard = fail(platform)
    wait_until(posts, PATIENCE_SECONDS, "the failure is posted")
    wait_until(lambda: len(failed_ticks(platform)) > unread, PATIENCE_SECONDS, "the tick says so")
    assert f"the alert webhook at {HOST} answers 404" in failed_ticks(platform)[0]
    wait_until(lambda: len(posts()) == 3, PATIENCE_SECONDS, "it is posted again")

    told = [(p["run_id"], p["text"]) for p in posts() if p["kind"] == "run_failure"]
    assert [run_id for run_id, _ in told] == [unheard, unheard]
    assert all("lane 7 does not exist" in text for _, text in told)
    # What the webhook refused is told, too: that the sensor failed to tell it.
    (refusal,) = (post for post in posts() if post["kind"] == "tick_failure")
    assert refusal["text"] == (
        "Dagster sensor run_failures fails: WebhookFailed; its page says more"
    )
    assert len(failed_ticks(platform)) == unread + 1

    committed = platform.committed()
    platform.send(50)  # and the stream goes on
    platform.wait_for_commits(committed + 50)
    platform.wait_until_idle()
    assert "the-secret" not in platform.log.read_text()
    runs_of_this = platform.runs(before)
    sessions = [
        entry
        for entry in entries(platform)
        if entry["event"] == "session ended" and entry["run_id"] in runs_of_this
    ]
    assert sum(entry["scored"] + entry["rejected"] for entry in sessions) == 50


def entries(platform: Platform) -> list[dict[str, Any]]:
    """The log of Dagster's processes and of their runs, which has one form."""
    found = [json.loads(line) for line in platform.log.read_text().splitlines()]
    assert all({"event", "level", "logger", "timestamp"} <= entry.keys() for entry in found)
    return found
