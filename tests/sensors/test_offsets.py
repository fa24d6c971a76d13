"""The offset sensor: its decisions, and its ticks against real servers."""

import time

import dagster as dg
import pytest
from pydantic import SecretStr

from credit_risk_dagster.definitions import defs
from credit_risk_dagster.settings import DrainSettings, KafkaSettings, Settings, WarehouseSettings
from infra.embedded.servers import Broker as BrokerServer
from resources.configurable import resources
from resources.postgres.lanes import announce_run
from sensors.offsets import (
    LaneRun,
    Plan,
    RunState,
    loan_applications_offsets,
    pause_after_failures,
    plan_lane,
)
from tests.conftest import create_topic
from tests.platform.pipeline import Pipeline, good_event

LIVE, STARTING, GONE = RunState.LIVE, RunState.STARTING, RunState.GONE


@pytest.mark.parametrize(
    ("backlog", "runs", "plan"),
    [
        (0, [], Plan(False, "no new events")),
        (1200, [], Plan(True, "1,200 new events")),
        (5, [LaneRun("a" * 36, GONE, 12.0)], Plan(True, "5 new events")),
        (5, [LaneRun("a" * 36, STARTING)], Plan(False, "run aaaaaaaa is starting")),
        (5, [LaneRun("a" * 36, LIVE)], Plan(False, "run aaaaaaaa drains")),
        (
            *(5, [LaneRun("a" * 36, LIVE, 20.0)]),
            Plan(False, "run aaaaaaaa drains, 40 s left, 5 events behind"),
        ),
        (
            *(0, [LaneRun("a" * 36, LIVE, 53.0)]),
            Plan(True, "successor of run aaaaaaaa, which has 7 s left"),
        ),
        (
            *(9, [LaneRun("a" * 36, LIVE, 53.0), LaneRun("b" * 36, STARTING)]),
            Plan(False, "run aaaaaaaa and run bbbbbbbb share it"),
        ),
        (
            *(9, [LaneRun("a" * 36, LIVE, 65.0), LaneRun("b" * 36, LIVE)]),
            Plan(False, "run aaaaaaaa and run bbbbbbbb share it"),
        ),
    ],
)
def test_plan_of_a_lane(backlog: int, runs: list[LaneRun], plan: Plan) -> None:
    assert plan_lane(backlog, runs, session_seconds=60, start_seconds=8) == plan


def test_without_sessions_a_run_gets_no_successor() -> None:
    plan = plan_lane(100, [LaneRun("a" * 36, LIVE, 1.0)], session_seconds=0, start_seconds=8)
    assert plan == Plan(False, "run aaaaaaaa drains")


def test_fruitless_runs_are_spaced_out() -> None:
    assert [pause_after_failures(n, 0) for n in range(10)] == [
        *(0, 0, 0, 10, 20, 40, 80, 160, 300, 300)
    ]
    assert pause_after_failures(4, 15) == 5
    assert pause_after_failures(4, 25) == 0


def tick(
    instance: dg.DagsterInstance, settings: Settings, cursor: str | None = None
) -> dg.SensorResult:
    """Evaluate the sensor as the daemon does."""
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources=resources(lambda: settings)
    ) as context:
        result = loan_applications_offsets(context)
    if isinstance(result, dg.SkipReason):
        return dg.SensorResult(skip_reason=result)
    assert isinstance(result, dg.SensorResult)
    return result


def why_not(result: dg.SensorResult) -> str:
    assert not result.run_requests
    reason = result.skip_reason
    message = reason if isinstance(reason, str) else reason and reason.skip_message
    assert message
    assert "\n" not in message
    return message


def test_ticks_follow_the_backlog(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    assert why_not(tick(instance, settings)) == "lane 0: no new events"
    pipeline.send([good_event(i) for i in range(3)])
    (request,) = tick(instance, settings).run_requests or []
    assert request.run_key is None  # a key would swallow the same backlog after a failed run
    assert request.tags["credit_risk/lane"] == "0"
    assert request.tags["credit_risk/why"] == "3 new events"
    assert "values" not in str(request.run_config)
    pipeline.drain()
    assert why_not(tick(instance, settings)) == "lane 0: no new events"


def test_each_lane_gets_its_own_run(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
) -> None:
    settings.drain = DrainSettings(lanes=2)
    pipeline.send([good_event(1)], partition=3)
    (request,) = tick(instance, settings).run_requests or []
    assert request.run_config["ops"]["score_stream"]["config"] == {"lane": 1}
    pipeline.send([good_event(1)], partition=0)
    assert len(tick(instance, settings).run_requests or []) == 2


def test_a_connected_run_holds_its_lane_and_a_gone_one_does_not(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    pipeline.send([good_event(1)])
    run = instance.create_run_for_job(
        defs.resolve_job_def("score_applications"), tags={"credit_risk/lane": "0"}
    )
    assert why_not(tick(instance, settings)) == f"lane 0: run {run.run_id[:8]} is starting"
    with pipeline.warehouse.session(f"run {run.run_id}") as connection:  # a name is not enough
        assert why_not(tick(instance, settings)) == f"lane 0: run {run.run_id[:8]} is starting"
        announce_run(connection, run.run_id)
        assert why_not(tick(instance, settings)) == f"lane 0: run {run.run_id[:8]} drains"
    # It committed, so it was connected; now it is not: its process is dead, or about to end.
    pipeline.drain(run.run_id)
    pipeline.send([good_event(2)])
    (request,) = tick(instance, settings).run_requests or []
    assert request.tags["credit_risk/why"] == "1 new event"


def test_runs_that_fail_at_once_are_not_requested_every_tick(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    pipeline.send([good_event(1)])
    for _ in range(4):
        run = instance.create_run_for_job(
            defs.resolve_job_def("score_applications"), tags={"credit_risk/lane": "0"}
        )
        instance.report_run_failed(run)
    assert "the last runs failed before they committed anything" in why_not(
        tick(instance, settings)
    )


def test_a_server_that_is_down_is_named_in_one_line(
    instance: dg.DagsterInstance,
    settings: Settings,
) -> None:
    url = SecretStr("postgresql://me:s3cret@127.0.0.1:9/loans")
    no_warehouse = Settings(kafka=settings.kafka, warehouse=WarehouseSettings(DATABASE_URL=url))
    reason = why_not(tick(instance, no_warehouse))
    assert reason.startswith("Postgres at 127.0.0.1:9/loans does not answer")
    assert "s3cret" not in reason
    no_broker = KafkaSettings(bootstrap_servers="127.0.0.1:9", timeout_ms=500)
    started = time.monotonic()
    reason = why_not(tick(instance, Settings(kafka=no_broker, warehouse=settings.warehouse)))
    assert reason.startswith("Kafka broker at 127.0.0.1:9 does not answer")
    assert time.monotonic() - started < 10


def test_a_replaced_topic_fails_the_check_once_and_starts_no_run(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
) -> None:
    with BrokerServer() as server:
        kafka = pipeline.kafka.model_copy(update={"bootstrap_servers": server.bootstrap_servers})
        there = Settings(kafka=kafka, warehouse=settings.warehouse)
        create_topic(kafka)
        elsewhere = Pipeline(kafka, pipeline.warehouse)
        elsewhere.send([good_event(i) for i in range(5)])
        elsewhere.drain()
        server.kill()
        server.start()
        create_topic(kafka)
        result = tick(instance, there)
        assert "partition 0 committed 5, now ends at 0" in why_not(result)
        (evaluation,) = result.asset_events
        assert isinstance(evaluation, dg.AssetCheckEvaluation)
        assert (evaluation.check_name, evaluation.passed) == ("reconciliation", False)
        again = tick(instance, there, result.cursor)
        assert why_not(again) == why_not(result)
        assert not again.asset_events
