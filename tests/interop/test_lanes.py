"""Lanes that change while events flow, requested by the sensor as it does."""

import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import dagster as dg
import pytest

from credit_risk_dagster.pipelines.drain import DrainReport
from credit_risk_dagster.settings import DrainSettings, Settings
from resources.postgres.lanes import LaneBusy
from tests.interop.conftest import COMMITTED, SENT, RecordProperty
from tests.interop.test_changes import scored
from tests.interop.test_drain import flowing
from tests.platform.pipeline import Pipeline
from tests.platform.waiting import wait_until
from tests.sensors.test_offsets import Status, a_run, drain_config, tick

pytestmark = pytest.mark.long

# As much shorter than by default as a session of 60 s is longer.
LIMITS: dict[str, Any] = {"session_seconds": 6, "idle_seconds": 2, "run_start_seconds": 2}


@pytest.mark.parametrize("kafka_settings", [8], indirect=True)
def test_two_lanes_become_one_and_then_four(
    pipeline: Pipeline,
    settings: Settings,
    instance: dg.DagsterInstance,
    record_property: RecordProperty,
) -> None:
    """Every run that the sensor asked for got its partitions: none ended `LaneBusy`."""
    sessions: list[tuple[int, Future[DrainReport]]] = []

    def keep(lanes: int, seconds: float) -> None:
        """What the daemon does: a tick a second, and a run for each request."""
        settings.drain = DrainSettings(**LIMITS, lanes=lanes)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for request in tick(instance, settings).run_requests or []:
                lane = int(request.tags["credit_risk/lane"])
                run = a_run(
                    *(instance, Status.STARTED),
                    run_config=drain_config(lane=lane),
                    tags=dict(request.tags),
                )
                drain = beside.submit(pipeline.drain, run.run_id, lane=lane, lanes=lanes, **LIMITS)
                sessions.append((lanes, drain))
            time.sleep(1)

    with ThreadPoolExecutor(32) as beside:
        with flowing(pipeline.kafka, 0.002) as sent:
            for lanes in (2, 1, 4):
                keep(lanes, 20)
        keep(4, 12)  # what is left
        ended = [(lanes, session.exception()) for lanes, session in sessions]
    runs = Counter(lanes for lanes, _ in ended)
    record_property(SENT, sent[0])
    record_property(COMMITTED, f"{scored(pipeline)}, {len(ended)} runs")
    assert [error for _, error in ended if error] == []
    assert {lanes: runs[lanes] >= lanes for lanes in (2, 1, 4)} == {2: True, 1: True, 4: True}
    assert scored(pipeline) == sent[0]
    assert pipeline.unreconciled() == 0


@pytest.mark.parametrize("kafka_settings", [8], indirect=True)
def test_two_one_and_four_lanes_at_once(
    pipeline: Pipeline, record_property: RecordProperty
) -> None:
    """What no sensor asks for: seven runs that want the same partitions, again and again. They
    stand in line for each partition, so one that wants all of them may wait for several sessions:
    longer than it may, and then says so. Nothing is doubled or lost for that."""
    over = False

    def keep(lane: int, lanes: int) -> Counter[str]:
        ended: Counter[str] = Counter()
        while not over:
            try:
                pipeline.drain(lane=lane, lanes=lanes, **LIMITS)
                ended["well"] += 1
            except LaneBusy:
                ended["busy"] += 1
        return ended

    with ThreadPoolExecutor(8) as beside:
        with flowing(pipeline.kafka, 0.002) as sent:
            runs = [beside.submit(keep, at, n) for n in (2, 1, 4) for at in range(n)]
            time.sleep(45)
        wait_until(lambda: scored(pipeline) >= sent[0], 60, "all that was sent is scored")
        over = True
        ended = sum((run.result() for run in runs), Counter())
    record_property(SENT, sent[0])
    record_property(COMMITTED, f"{scored(pipeline)}, {ended['busy']} of {ended.total()} busy")
    assert scored(pipeline) == sent[0]
    assert pipeline.unreconciled() == 0
