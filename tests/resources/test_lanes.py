"""Who works on a lane, and who only looks: by locks, not by names."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from credit_risk_dagster.settings import PROJECT_ROOT, WarehouseSettings
from resources.postgres.connection import WarehouseReader
from resources.postgres.lanes import announce_run, connected_runs, is_awaited
from resources.postgres.sources import Sources
from tests.platform.pipeline import Pipeline
from tests.platform.waiting import wait_until

RUN = """
import logging, sys
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.drain import drain
from credit_risk_dagster.settings import *
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse
drain(Broker(KafkaSettings()), Warehouse(WarehouseSettings()), load_policy(DEFAULT_POLICY),
    DrainSettings(), run_id=sys.argv[1], lane=0, log=logging.getLogger())
"""

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts the process of a run, which works on until it is killed."""
    environment = {**environment, "CREDIT_RISK_IDLE_SECONDS": "300"}
    with ExitStack() as processes:

        def start(run_id: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", RUN, run_id]
            process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment)
            processes.callback(process.wait)
            processes.callback(process.kill)
            return process

        yield start


def test_what_is_only_called_a_run_is_none(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    """The API's readers, the dashboard, the command line; and a run's connection by its name."""
    names = ["", "reader", "dashboard", "run 1", "1"]
    with (
        WarehouseReader(warehouse_settings, 1, 10) as reader,
        reader.session(),
        pipeline.warehouse.connect("dashboard"),
        pipeline.warehouse.session("run 1"),
        pipeline.warehouse.session() as connection,
    ):
        assert connected_runs(connection, names) == {}
        announce_run(connection, "1")
        assert connected_runs(connection, names) == {"1": connection.info.backend_pid}
        assert connected_runs(connection, []) == {}


def test_a_waiting_run_is_connected_and_a_killed_one_is_not(
    pipeline: Pipeline, start: Start
) -> None:
    with pipeline.warehouse.session() as connection:
        source = Sources(connection).register(pipeline.broker.inspect()).source_id

        def are_connected(*runs: str) -> bool:
            return set(connected_runs(connection, ["first", "second", "third"])) == {*runs}

        first = start("first")
        wait_until(lambda: holds_a_partition(connection), 60, "the first run has its lane")
        second = start("second")
        wait_until(lambda: is_awaited(connection, source, range(4)), 60, "the second one waits")
        assert are_connected("first", "second")
        first.kill()
        wait_until(lambda: are_connected("second"), 30, "the first one is gone")
        wait_until(
            lambda: not is_awaited(connection, source, range(4)), 30, "the second has the lane"
        )
        second.kill()
        wait_until(are_connected, 30, "both are gone")


def holds_a_partition(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Whether somebody has a lock that is not shared, as the one of a run itself is."""
    locks = connection.execute(
        "SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return locks.fetchone() is not None
