"""Failed runs reach the webhook; a webhook that fails is told of, without its address."""

import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationPlanned,
)
from dagster._core.definitions.selector import InstigatorSelector
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._utils.error import SerializableErrorInfo
from pydantic import SecretStr

from credit_risk_dagster.definitions import defs
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import AlertSettings, Settings
from infra.embedded.servers import HOST, free_port
from resources.configurable import resources
from resources.webhook import WebhookFailed, post
from sensors.alerts import (
    RUNS_A_TICK,
    check_outcomes,
    failing_sensors,
    last_evaluation,
    run_failures,
)
from tests.platform.webhook import webhook

LANE = {"credit_risk/lane": "3", "other": "x"}


@dg.job(name="refused", tags=LANE)
def refused() -> None:
    """Fails as the platform's assets do."""

    @dg.op
    def step() -> None:
        error = PlatformError("Postgres at db:5432 does not answer")
        raise dg.Failure(str(error), allow_retries=False) from error

    step()


@dg.job(name="broken")
def broken() -> None:
    """Fails with an error that repeats a value of an application."""

    @dg.op
    def convert() -> None:
        float("nurse at a hospital")

    convert()


def settings(url: str | None = None, **limits: float) -> AlertSettings:
    return AlertSettings(webhook_url=url and SecretStr(url), **limits)


def tick(
    sensor: dg.SensorDefinition,
    instance: dg.DagsterInstance,
    cursor: str | None,
    url: str | None = None,
) -> tuple[str | None, str | None]:
    """One tick of a sensor; returns why it skipped, and the cursor that it leaves."""
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources=resources(lambda: Settings(alert=settings(url)))
    )
    found = sensor.evaluate_tick(context)
    return found.skip_message, found.cursor


def fail(instance: dg.DagsterInstance, *jobs: dg.JobDefinition) -> None:
    for job in jobs:
        job.execute_in_process(instance=instance, raise_on_error=False)


@pytest.fixture
def cursor(instance: dg.DagsterInstance) -> str | None:
    """Where the sensor of failed runs begins: a run that failed before its first tick is old."""
    fail(instance, refused)
    said, cursor = tick(run_failures, instance, None)
    assert said == "no run failed yet"
    assert tick(run_failures, instance, cursor) == ("no run failed", cursor)
    return cursor


def test_failed_runs_are_posted_once(instance: dg.DagsterInstance, cursor: str | None) -> None:
    fail(instance, refused)
    run = instance.get_runs()[0]
    with webhook() as hook:
        said, after = tick(run_failures, instance, cursor, hook.url)
        assert said == f"run {run.run_id[:8]} of refused failed"
        assert tick(run_failures, instance, after, hook.url) == ("no run failed", after)
    assert hook.posts == [
        {
            "text": f"Dagster run {run.run_id[:8]} of refused failed: "
            "Postgres at db:5432 does not answer",
            "kind": "run_failure",
            "job": "refused",
            "run_id": run.run_id,
            "error": "Postgres at db:5432 does not answer",
            "tags": {"credit_risk/lane": "3"},
            "runbook_url": None,
        }
    ]


def test_the_cursor_of_dagsters_own_sensor_begins_with_now(instance: dg.DagsterInstance) -> None:
    """The sensor had it before; a platform that is upgraded still has its cursor."""

    @dg.run_failure_sensor
    def theirs(context: dg.RunFailureSensorContext) -> None: ...

    fail(instance, refused)
    left = theirs.evaluate_tick(dg.build_sensor_context(instance=instance)).cursor
    assert left is not None
    said, cursor = tick(run_failures, instance, left)
    assert said == "no run failed yet"
    fail(instance, refused)
    assert "of refused failed" in str(tick(run_failures, instance, cursor)[0])


def test_an_unexpected_error_is_told_by_its_kind_only(
    instance: dg.DagsterInstance, cursor: str | None
) -> None:
    fail(instance, broken)
    with webhook() as hook:
        tick(run_failures, instance, cursor, hook.url)
    (message,) = hook.posts
    assert message["error"] == "ValueError in convert; the run's page says more"
    assert "nurse" not in str(message)


def test_without_a_webhook_nobody_is_told(instance: dg.DagsterInstance, cursor: str | None) -> None:
    fail(instance, refused)
    said, after = tick(run_failures, instance, cursor)
    assert str(said).endswith("CREDIT_RISK_ALERT_WEBHOOK_URL is not set, so nobody is told")
    assert after != cursor


def test_many_failures_are_told_over_several_ticks(
    instance: dg.DagsterInstance, cursor: str | None
) -> None:
    fail(instance, *[refused] * (RUNS_A_TICK + 1))
    with webhook() as hook:
        _, cursor = tick(run_failures, instance, cursor, hook.url)
        assert len(hook.posts) == RUNS_A_TICK
        tick(run_failures, instance, cursor, hook.url)
    told = [message["run_id"] for message in hook.posts]
    assert told == [run.run_id for run in instance.get_runs()][RUNS_A_TICK::-1]


def test_what_the_webhook_refuses_fails_the_tick_and_is_told_later(
    instance: dg.DagsterInstance, cursor: str | None
) -> None:
    fail(instance, refused, broken)
    with webhook(404, 200, 404, 200) as hook:
        with pytest.raises(WebhookFailed, match=f"the alert webhook at {HOST} answers 404") as told:
            tick(run_failures, instance, cursor, hook.url)
        assert "the-secret" not in str(told.value)
        # One is told and the next is not: the tick passes, or the first would be told twice.
        said, cursor = tick(run_failures, instance, cursor, hook.url)
        assert str(said).endswith("of refused failed; the alert webhook at 127.0.0.1 answers 404")
        tick(run_failures, instance, cursor, hook.url)
    assert [m["job"] for m in hook.posts] == ["refused", "refused", "broken", "broken"]


def fail_tick(instance: dg.DagsterInstance, name: str) -> None:
    """Let a sensor's tick fail, as the daemon records it."""
    repository = RemoteRepositoryOrigin(
        GrpcServerCodeLocationOrigin(HOST, port=1, location_name="credit_risk"), "__repository__"
    )
    origin = RemoteInstigatorOrigin(repository, name)
    selector = InstigatorSelector(
        location_name="credit_risk", repository_name="__repository__", name=name
    ).get_id()
    if instance.get_instigator_state(origin.get_id(), selector) is None:
        instance.add_instigator_state(
            InstigatorState(
                origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData()
            )
        )
    instance.create_tick(
        TickData(
            instigator_origin_id=origin.get_id(),
            instigator_name=name,
            instigator_type=InstigatorType.SENSOR,
            status=TickStatus.FAILURE,
            timestamp=time.time(),
            selector_id=selector,
            error=SerializableErrorInfo(
                "nurse at a hospital",
                [],
                "SensorExecutionError",
                cause=SerializableErrorInfo("nurse at a hospital", [], "KeyError"),
            ),
        )
    )


@pytest.fixture
def instance_with_ticks() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def test_a_sensor_that_begins_to_fail_is_told_once(
    instance_with_ticks: dg.DagsterInstance,
) -> None:
    instance = instance_with_ticks
    cursor: str | None = None

    def tick_again(url: str | None = None) -> str | None:
        nonlocal cursor
        said, cursor = tick(failing_sensors, instance, cursor, url)
        return said

    cursor = "[]"  # as the version before left it
    assert tick_again() == "none fails"
    fail_tick(instance, "offsets")
    assert str(tick_again()).endswith("is not set, so nobody is told")
    cursor, lately = None, "failed in the last 10 min: offsets"
    with webhook(404, 200) as hook:
        with pytest.raises(WebhookFailed):  # the webhook does not take it
            tick_again(hook.url)
        assert tick_again(hook.url) == lately  # so it is told later
        fail_tick(instance, "offsets")
        assert tick_again(hook.url) == lately  # and not again while it goes on
        fail_tick(instance, "other")
        fail_tick(instance, failing_sensors.name)
        assert tick_again(hook.url) == f"{lately}, other"
    assert [post["name"] for post in hook.posts] == ["offsets", "offsets", "other"]
    assert hook.posts[-1] == {
        "text": "Dagster sensor other fails: KeyError; its page says more",
        "kind": "tick_failure",
        "name": "other",
        "error": "KeyError; its page says more",
        "runbook_url": None,
    }


def test_what_the_webhook_refused_is_told_however_long_it_was_away(
    instance_with_ticks: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = instance_with_ticks
    _, cursor = tick(failing_sensors, instance, None)
    fail_tick(instance, "a schedule of the night")
    time.sleep(0.3)  # it grows old
    monkeypatch.setattr("sensors.alerts.LOOK_BACK_SECONDS", 0.1)
    with webhook(404, 404, 200, 404, 200) as hook:
        for _ in range(2):
            with pytest.raises(WebhookFailed):
                tick(failing_sensors, instance, cursor, hook.url)
        _, cursor = tick(failing_sensors, instance, cursor, hook.url)
        # Of two, the second is refused: it alone is told again.
        fail_tick(instance, "one")
        fail_tick(instance, "two")
        hook.statuses[:] = [200, 404, 200]
        said, cursor = tick(failing_sensors, instance, cursor, hook.url)
        assert str(said).endswith("the alert webhook at 127.0.0.1 answers 404")
        tick(failing_sensors, instance, cursor, hook.url)
    names = [post["name"] for post in hook.posts]
    assert names[:3] == ["a schedule of the night"] * 3
    assert len(names) == 6
    assert names[-1] == names[-2] != names[-3]


def evaluate(instance: dg.DagsterInstance, passed: bool, severity: str = "ERROR") -> None:
    """Let the check of the archive say something."""
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("raw_event_archive"),
            check_name="archive_complete",
            passed=passed,
            severity=dg.AssetCheckSeverity(severity),
            description="all is there" if passed else "3 events are lost",
        )
    )


def test_a_check_is_told_once_a_change_with_what_to_do(instance: dg.DagsterInstance) -> None:
    cursor: str | None = None
    hook_settings = AlertSettings(runbook_url="https://docs.example.com/runbook.md")

    def tick_again(url: str | None = None) -> str:
        nonlocal cursor
        alert = hook_settings.model_copy(update={"webhook_url": url and SecretStr(url)})
        context = dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            repository_def=defs.get_repository_def(),
            resources=resources(lambda: Settings(alert=alert)),
        )
        found = check_outcomes.evaluate_tick(context)
        cursor = found.cursor
        return found.skip_message or ""

    evaluate(instance, True)
    assert tick_again() == "no check fails"
    evaluate(instance, False)
    with webhook(404, 200) as hook:
        with pytest.raises(WebhookFailed):
            tick_again(hook.url)
        for _ in range(2):  # so it is told later, and once
            assert tick_again(hook.url) == (
                "failing: archive_complete of raw_event_archive (ERROR)"
            )
        evaluate(instance, False)
        tick_again(hook.url)
        evaluate(instance, False, "WARN")
        tick_again(hook.url)
        evaluate(instance, True)
        assert tick_again(hook.url) == "no check fails"
    told = [(post["kind"], post["severity"]) for post in hook.posts]
    assert told == [
        *[("check_failure", "ERROR")] * 2,
        *[("check_failure", "WARN"), ("check_passed", None)],
    ]
    message = hook.posts[0]
    assert message["text"].startswith(
        "Check archive_complete of raw_event_archive fails (ERROR): 3 events are lost\n"
    )
    assert "If it fails, " in message["advice"]
    assert message["runbook_url"] == "https://docs.example.com/runbook.md#check-fails"


def test_a_run_under_way_hides_no_outcome(instance: dg.DagsterInstance) -> None:
    """Sessions overlap: the next run has planned its check before this one's says anything."""
    evaluate(instance, False)
    key = dg.AssetCheckKey(dg.AssetKey("raw_event_archive"), "archive_complete")
    run = instance.create_run_for_job(refused)
    instance.report_dagster_event(
        dg.DagsterEvent(
            event_type_value="ASSET_CHECK_EVALUATION_PLANNED",
            job_name="refused",
            event_specific_data=AssetCheckEvaluationPlanned(
                asset_key=key.asset_key, check_name=key.name
            ),
        ),
        run.run_id,
    )
    found = last_evaluation(instance, key)
    assert found is not None
    assert not found.passed


def test_what_may_pass_is_tried_again() -> None:
    with webhook(503, 429, 200) as hook:
        assert post(settings(hook.url), {"text": "x"})
    assert len(hook.posts) == 3
    with webhook(503) as hook, pytest.raises(WebhookFailed, match="answers 503"):
        post(settings(hook.url), {"text": "x"})
    assert len(hook.posts) == 3


def test_a_redirect_is_not_followed() -> None:
    with webhook(302) as hook, pytest.raises(WebhookFailed, match="answers 302"):
        post(settings(hook.url), {"text": "x"})
    assert len(hook.posts) == 1


def test_the_address_is_a_secret() -> None:
    url = f"http://{HOST}:{free_port()}/the-secret"
    assert "the-secret" not in repr(settings(url))
    with pytest.raises(WebhookFailed, match=f"at {HOST} does not answer") as failed:
        post(settings(url), {"text": "x"})
    error: BaseException | None = failed.value
    assert error is not None
    assert error.__suppress_context__
    assert "the-secret" not in str(error)
