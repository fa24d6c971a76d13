"""The offset sensor: its decisions, and its ticks against real servers."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
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
    _lane_run,
    launch_of,
    loan_applications_offsets,
    pause_after_failures,
    plan_lane,
)
from tests.conftest import create_topic
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until

LIVE, STARTING, GONE = RunState.LIVE, RunState.STARTING, RunState.GONE
QUEUED = RunState.QUEUED
Status = dg.DagsterRunStatus


def lane_run(
    run_id: str, state: RunState, session_seconds: float | None = None, lasts: float = 60
) -> LaneRun:
    return LaneRun(run_id, state, session_seconds, lasts)


@pytest.mark.parametrize(
    ("backlog", "runs", "plan"),
    [
        (0, [], Plan(False, "no new events")),
        (1200, [], Plan(True, "1,200 new events")),
        (5, [lane_run("a" * 36, GONE, 12.0)], Plan(True, "5 new events")),
        (5, [lane_run("a" * 36, STARTING)], Plan(False, "run aaaaaaaa is starting")),
        (5, [lane_run("a" * 36, LIVE)], Plan(False, "run aaaaaaaa drains")),
        (
            *(5, [lane_run("a" * 36, LIVE, 20.0)]),
            Plan(False, "run aaaaaaaa drains, 40 s left, 5 events behind"),
        ),
        (
            *(0, [lane_run("a" * 36, LIVE, 53.0)]),
            Plan(True, "successor of run aaaaaaaa, which has 7 s left"),
        ),
        (
            *(9, [lane_run("a" * 36, LIVE, 53.0), lane_run("b" * 36, STARTING)]),
            Plan(False, "run aaaaaaaa and run bbbbbbbb share it"),
        ),
        (5, [lane_run("a" * 36, QUEUED)], Plan(False, "run aaaaaaaa is queued")),
        # Two lanes became one: as long as one of them works for long, nobody stands in line.
        (
            *(9, [lane_run("a" * 36, LIVE, 53.0), lane_run("b" * 36, LIVE, 20.0)]),
            Plan(False, "run aaaaaaaa and run bbbbbbbb share it"),
        ),
        (
            *(9, [lane_run("a" * 36, LIVE, 53.0), lane_run("b" * 36, LIVE, 57.0)]),
            Plan(True, "successor of run aaaaaaaa and run bbbbbbbb, which have 7 s left"),
        ),
        # A launch by hand may say how long its session is.
        (
            *(5, [lane_run("a" * 36, LIVE, 65.0, lasts=600)]),
            Plan(False, "run aaaaaaaa drains, 535 s left, 5 events behind"),
        ),
        (5, [lane_run("a" * 36, LIVE, 2.0, lasts=0)], Plan(False, "run aaaaaaaa drains")),
        (
            *(9, [lane_run("a" * 36, LIVE, 65.0), lane_run("b" * 36, LIVE)]),
            Plan(False, "run aaaaaaaa and run bbbbbbbb share it"),
        ),
    ],
)
def test_plan_of_a_lane(backlog: int, runs: list[LaneRun], plan: Plan) -> None:
    assert plan_lane(backlog, runs, start_seconds=8) == plan


def test_a_lane_that_is_always_on_has_a_run_without_events() -> None:
    def plan(*runs: LaneRun) -> Plan:
        return plan_lane(0, runs, start_seconds=8, always_on=True)

    assert plan() == Plan(True, "nobody drains it")
    assert plan(lane_run("a" * 36, GONE, 12.0)).request
    assert not plan(lane_run("a" * 36, STARTING)).request
    assert not plan(lane_run("a" * 36, LIVE, 20.0)).request
    assert plan(lane_run("a" * 36, LIVE, 53.0)).request


def test_a_lane_without_partitions_has_no_run(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    settings.drain = DrainSettings(lanes=6)  # of four partitions
    requests = tick(instance, settings).run_requests or []
    assert [request.tags["credit_risk/lane"] for request in requests] == ["0", "1", "2", "3"]


def test_no_partition_waits_for_the_end_of_a_run_that_has_it_not(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    """Of two lanes that became one, the run of the second still drains: the first one's partitions
    are not left alone until it ends."""
    settings.drain = DrainSettings()
    second = {"credit_risk/lane": "1", "credit_risk/lanes": "2"}
    run = a_run(instance, Status.STARTED, run_config=drain_config(lane=1), tags=second)
    with pipeline.warehouse.session() as connection:
        announce_run(connection, run.run_id)
        (request,) = tick(instance, settings).run_requests or []
        assert request.tags["credit_risk/lane"] == "0"
        first = {"credit_risk/lane": "0", "credit_risk/lanes": "1"}
        a_run(instance, Status.QUEUED, run_config=drain_config(lane=0), tags=first)
        assert not tick(instance, settings).run_requests


def test_without_sessions_a_run_gets_no_successor() -> None:
    plan = plan_lane(100, [lane_run("a" * 36, LIVE, 1.0, lasts=0)], start_seconds=8)
    assert plan == Plan(False, "run aaaaaaaa drains")


MINUTE, HOUR = 60.0, 3600.0
SOON = DrainSettings(run_start_seconds=8)
# Dagster wants to know where the code of a queued run is.
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("platform"), "__repository__"),
    "score_applications",
)


@pytest.mark.parametrize(
    ("status", "created", "since", "state"),
    [
        (Status.QUEUED, 30 * HOUR, 30 * HOUR, QUEUED),
        (Status.NOT_STARTED, HOUR, HOUR, STARTING),
        (Status.NOT_STARTED, 3 * HOUR, 3 * HOUR, GONE),
        (Status.STARTING, HOUR, 10.0, STARTING),  # the hour was in the queue
        (Status.STARTING, HOUR, MINUTE, GONE),
        (Status.STARTED, HOUR, 10.0, STARTING),
        (Status.STARTED, HOUR, MINUTE, GONE),
        (Status.CANCELING, HOUR, MINUTE, GONE),
    ],
)
def test_a_run_that_waits_is_there_however_long_it_waits(
    status: dg.DagsterRunStatus, created: float, since: float, state: RunState
) -> None:
    now = datetime.now(UTC)
    run = dg.DagsterRun("score_applications", status=status, remote_job_origin=ORIGIN)
    record = dg.RunRecord(
        *(1, run, now - timedelta(seconds=created), now - timedelta(seconds=since))
    )
    assert _lane_run(record, {}, {}, SOON).state is state
    assert _lane_run(record, {run.run_id: 1}, {}, SOON).state is LIVE
    # Its first event came late, so its session ends sooner than that event says.
    started = record._replace(start_time=time.time() - 50)
    assert (_lane_run(started, {run.run_id: 1}, {run.run_id: 5.0}, SOON).session_seconds or 0) > 49
    assert _lane_run(record, {}, {run.run_id: 5.0}, SOON).state is GONE  # it was connected


@pytest.mark.parametrize(
    ("tags", "config", "idle_seconds", "lasts"),
    [
        ({"credit_risk/lane": "0"}, {}, None, 600),
        ({}, {}, None, 60),  # by hand: a minute
        ({}, {"session_seconds": 300}, None, 300),
        ({}, {}, 15, 600),
    ],
)
def test_the_sensor_knows_how_long_a_run_stays(
    tags: dict[str, str], config: dict[str, Any], idle_seconds: float | None, lasts: float
) -> None:
    run = dg.DagsterRun("score_applications", tags=tags, run_config=drain_config(**config))
    now = datetime.now(UTC)
    settings = DrainSettings(idle_seconds=idle_seconds)
    assert _lane_run(dg.RunRecord(1, run, now, now), {}, {}, settings).lasts == lasts


def drain_config(**config: Any) -> dict[str, Any]:
    return {"ops": {"score_stream": {"config": config}}}


ALL = {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("config", "tags", "lanes", "drained"),
    [
        ({}, {}, 1, ALL),
        ({}, {}, 4, {0}),
        (drain_config(lane=1), {}, 2, {1, 3}),
        (drain_config(lane=1), {"credit_risk/lane": "0"}, 2, {1, 3}),  # tags are copied along
        (drain_config(bounds=[{"partition": 3}, {"partition": 0}]), {}, 2, {0, 3}),
        (drain_config(lane=1), {"credit_risk/lanes": "4"}, 2, {1, 3}),
        (drain_config(lane=3), {"credit_risk/lanes": "4"}, 2, {3}),
        (drain_config(lane=0), {"credit_risk/lanes": "4"}, 1, ALL),
        (drain_config(lane=1), {"credit_risk/lanes": "1"}, 4, {1}),
        (drain_config(lane=0), {"credit_risk/lanes": "1"}, 4, ALL),
        (drain_config(lane=3), {}, 2, ALL),
        (drain_config(lane={"env": "LANE"}), {}, 2, ALL),
        ({"ops": None}, {}, 2, {0, 2}),
    ],
)
def test_the_partitions_of_a_launch(
    config: dict[str, Any], tags: dict[str, str], lanes: int, drained: set[int]
) -> None:
    launch = launch_of(dg.DagsterRun("score_applications", run_config=config, tags=tags))
    assert {partition for partition in ALL if launch.has(partition, lanes)} == drained


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
    settings.drain = DrainSettings(lanes=2, idle_seconds=15)
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
        # It is the same incident while the new topic grows.
        elsewhere.send([good_event(i) for i in range(3)])
        later = tick(instance, there, result.cursor)
        assert "now ends at 3" in why_not(later)
        assert not later.asset_events


def test_a_topic_that_was_cut_short_is_told_once(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    pipeline.query(
        "UPDATE stream_offsets SET next_offset = 25, scored = 25 WHERE partition = 0 RETURNING 1"
    )
    first = tick(instance, settings)
    assert "partition 0 ends at offset 10, before the committed offset 25" in why_not(first)
    assert len(first.asset_events) == 1
    cursor = first.cursor
    for end in (12, 14):
        pipeline.send([good_event(1)] * 2)
        result = tick(instance, settings, cursor)
        assert f"ends at offset {end}, before" in why_not(result)
        assert not result.asset_events
        cursor = result.cursor or cursor
    pipeline.query(
        "UPDATE stream_offsets SET next_offset = 14, scored = 14 WHERE partition = 0 RETURNING 1"
    )
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources=resources(lambda: settings)
    ) as context:
        assert isinstance(loan_applications_offsets(context), dg.SkipReason)
        assert context.cursor == ""  # what comes next is another incident


def a_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, **made: Any) -> dg.DagsterRun:
    """A drain in Dagster's list of runs."""
    job = defs.resolve_job_def("score_applications")
    return instance.create_run_for_job(job, status=status, remote_job_origin=ORIGIN, **made)


def test_a_full_queue_gets_one_run_of_each_lane(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.drain = DrainSettings(lanes=2, idle_seconds=15)
    for partition in (0, 1):
        pipeline.send([good_event(1)], partition)
    clock = SimpleNamespace(time=time.time)
    monkeypatch.setattr("sensors.offsets.time", clock)
    made = []
    for late in range(0, 3600, 180):  # nothing leaves the queue for an hour
        clock.time = lambda late=late: time.time() + late
        for request in tick(instance, settings).run_requests or []:
            made.append(request.tags["credit_risk/lane"])
            a_run(instance, Status.QUEUED, run_config=request.run_config, tags=request.tags)
    assert made == ["0", "1"]


def test_a_launch_by_hand_has_its_lanes(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    settings.drain = DrainSettings(lanes=2, idle_seconds=15)
    for partition in (0, 1):
        pipeline.send([good_event(1)], partition)
    run = a_run(instance, Status.QUEUED, run_config=drain_config(lane=1))
    (request,) = tick(instance, settings).run_requests or []
    assert request.tags["credit_risk/lane"] == "0"
    instance.report_run_canceled(run)
    bound = {"partition": 0, "first_offset": 0, "until_offset": 1}
    a_run(instance, Status.QUEUED, run_config=drain_config(bounds=[bound]))
    (request,) = tick(instance, settings).run_requests or []
    assert request.tags["credit_risk/lane"] == "1"


def test_an_asset_that_is_materialized_by_hand_has_its_lanes(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    pipeline.send([good_event(1)])
    keys = {dg.AssetKey("scored_applications"), dg.AssetKey("rejected_events")}
    job = defs.resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(
        *(job,), status=Status.QUEUED, remote_job_origin=ORIGIN, asset_selection=frozenset(keys)
    )
    assert run.job_name != "score_applications"
    assert why_not(tick(instance, settings)) == f"lane 0: run {run.run_id[:8]} is queued"


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4)])
def test_lanes_that_change_while_runs_live_strand_and_double_nothing(
    before: int,
    after: int,
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The runs of the lanes before drain to the end of their sessions; those that are asked for
    meanwhile get their partitions from them, and none waits in vain."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("credit_risk_dagster.pipelines.drain.HANDOVER_SECONDS", 1.5)
    limits: dict[str, Any] = {"session_seconds": 2, "idle_seconds": 30, "run_start_seconds": 1}
    settings.drain = DrainSettings(**limits, lanes=after)
    stop = threading.Event()
    running: dict[tuple[int, int], list[Any]] = {}

    def keep_sending() -> None:
        for number in count():
            pipeline.send([good_event(number)], number % 4)
            if stop.wait(0.05):
                return

    def launch(lane: int, lanes: int) -> None:
        tags = {"credit_risk/lane": str(lane), "credit_risk/lanes": str(lanes)}
        run = a_run(instance, Status.STARTED, run_config=drain_config(lane=lane), tags=tags)

        def session() -> list[int]:
            """The partitions that it got, whether or not something came on them meanwhile."""
            # That it ended, nobody tells Dagster: the lock of its own is gone.
            pipeline.drain(run.run_id, lane=lane, lanes=lanes, **limits)
            mine = [r for r in caplog.records if r.thread == threading.get_ident()]
            got: Any = [r.args for r in mine if r.msg == "draining %s, partitions %s"]
            return list(got[-1][1])

        running.setdefault((lane, lanes), []).append(pool.submit(session))

    def all_have_changed() -> bool:
        for request in tick(instance, settings).run_requests or []:
            launch(int(request.tags["credit_risk/lane"]), after)
        # Each new lane has had a run from its first moment to its last.
        return all(
            any(run.done() for run in running.get((lane, after), [])) for lane in range(after)
        )

    with ThreadPoolExecutor(24) as pool:
        sending = pool.submit(keep_sending)
        try:
            for lane in range(before):
                launch(lane, before)
            wait_until(all_have_changed, 30, "a session of each new lane", every=0.25)
        finally:
            stop.set()
        sending.result()
        drained = {of: [run.result() for run in runs] for of, runs in running.items()}
    assert {of: len(runs) for of, runs in drained.items() if of[1] == before} == {
        (lane, before): 1 for lane in range(before)
    }
    for lane in range(after):  # the first of each took up all its partitions
        assert drained[lane, after][0] == [p for p in range(4) if p % after == lane]
        pipeline.drain(lane=lane, lanes=after)
    assert pipeline.unreconciled() == 0
    ends = sum(end for _, end in pipeline.broker.inspect().offsets.values())
    assert len(pipeline.stored()["scored_applications"]) == ends
