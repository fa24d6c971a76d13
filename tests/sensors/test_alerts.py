"""Failed runs reach the webhook; a webhook that fails is told of, without its address."""

import time
from collections.abc import Iterator

import dagster as dg
import pytest
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

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import AlertSettings
from infra.embedded.servers import HOST, free_port
from resources.webhook import WebhookFailed, post
from sensors.alerts import failing_sensors, run_failures
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


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(
    instance: dg.DagsterInstance, *jobs: dg.JobDefinition
) -> tuple[list[str | None], str | None]:
    """Let the jobs fail, and the sensor see it; returns the errors of its reactions, and why it
    skipped."""
    context = dg.build_sensor_context(instance=instance)
    cursor = run_failures.evaluate_tick(context).cursor
    for job in jobs:
        job.execute_in_process(instance=instance, raise_on_error=False)
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    found = run_failures.evaluate_tick(context)
    errors = [
        reaction.error and reaction.error.to_string() for reaction in found.dagster_run_reactions
    ]
    return errors, found.skip_message


def test_failed_runs_are_posted(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as hook:
        monkeypatch.setenv("CREDIT_RISK_ALERT_WEBHOOK_URL", hook.url)
        errors, _ = tick(instance, refused)
    (run,) = instance.get_runs()
    assert errors == [None]
    assert hook.posts == [
        {
            "text": f"Dagster run {run.run_id[:8]} of refused failed: "
            "Postgres at db:5432 does not answer",
            "kind": "run_failure",
            "job": "refused",
            "run_id": run.run_id,
            "error": "Postgres at db:5432 does not answer",
            "tags": {"credit_risk/lane": "3"},
        }
    ]


def test_an_unexpected_error_is_told_by_its_kind_only(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as hook:
        monkeypatch.setenv("CREDIT_RISK_ALERT_WEBHOOK_URL", hook.url)
        tick(instance, broken)
    (message,) = hook.posts
    assert message["error"] == "ValueError in convert; the run's page says more"
    assert "nurse" not in str(message)


def test_without_a_webhook_nobody_is_told(instance: dg.DagsterInstance) -> None:
    errors, skipped = tick(instance, refused)
    assert errors == []
    assert skipped is not None
    assert skipped.endswith("CREDIT_RISK_ALERT_WEBHOOK_URL is not set, so nobody is told")


def test_a_webhook_that_refuses_fails_the_tick_alone(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(404, 200) as hook:
        monkeypatch.setenv("CREDIT_RISK_ALERT_WEBHOOK_URL", hook.url)
        (first, second), _ = tick(instance, refused, broken)
    assert first is not None
    assert f"the alert webhook at {HOST} answers 404" in first
    assert "the-secret" not in first
    assert second is None  # and the next one is told
    assert [message["job"] for message in hook.posts] == ["refused", "broken"]


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
    instance_with_ticks: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = instance_with_ticks
    cursor: str | None = None

    def tick_again() -> str | None:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        found = failing_sensors.evaluate_tick(context)
        cursor = found.cursor
        return found.skip_message

    assert (tick_again(), cursor) == ("none fails", "[]")
    fail_tick(instance, "offsets")
    assert str(tick_again()).endswith("is not set, so nobody is told")
    cursor = None
    with webhook(404, 200) as hook:
        monkeypatch.setenv("CREDIT_RISK_ALERT_WEBHOOK_URL", hook.url)
        with pytest.raises(WebhookFailed):  # the webhook does not take it
            tick_again()
        assert tick_again() == "failing: offsets"  # so it is told later
        fail_tick(instance, "offsets")
        assert tick_again() == "failing: offsets"  # and not again while it goes on
        fail_tick(instance, "other")
        fail_tick(instance, failing_sensors.name)
        assert tick_again() == "failing: offsets, other"
    assert [post["name"] for post in hook.posts] == ["offsets", "offsets", "other"]
    assert hook.posts[-1] == {
        "text": "Dagster sensor other fails: KeyError; its page says more",
        "kind": "tick_failure",
        "name": "other",
        "error": "KeyError; its page says more",
    }


def settings(url: str, **limits: float) -> AlertSettings:
    return AlertSettings(webhook_url=SecretStr(url), **limits)


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
