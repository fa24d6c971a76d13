"""One real run of the platform for tests that look at it from outside: servers, Dagster, the
dashboard, the API, and a stream of loans, some of them malformed.

The fixture `live` (conftest.py) starts it when a test of this folder first asks for it, and ends it
after the last one. It is shared: a test that uses it only reads, or adds rows of its own.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

from dagster import DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient
from pydantic import SecretStr

from credit_risk_dagster.pipelines.loans import builtin_loans, endless
from credit_risk_dagster.pipelines.producer import produce
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from infra.embedded.stack import Services, Stack
from resources.kafka.topics import ensure_topic
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.migrate import migrate
from tests.malformed import event, without
from tests.platform.pipeline import send
from tests.platform.waiting import wait_until

RATE = 20.0
# Events before the platform counts as running: as a rule each kind of decision is among them.
ENOUGH_EVENTS = 300
PATIENCE_SECONDS = 240.0
_MALFORMED: tuple[bytes, ...] = (b"not JSON", b"[1, 2]", without("dti"), event(int_rate="high"))
_MALFORMED_EVERY_SECONDS = 1.0
# What runs once while the stream goes on, so that everything that is shown has something to show:
# some at the same time, the others after those.
_JOBS = (("archive_raw_events", "freeze_baseline", "benchmark_models"), ("report_drift",))
_SMALL = {
    "CREDIT_RISK_DRIFT_BASELINE_ROWS": "200",
    "CREDIT_RISK_DRIFT_WINDOW_ROWS": "1000",
    "CREDIT_RISK_DRIFT_MIN_ROWS": "100",
    "CREDIT_RISK_MODEL_SAMPLE": "builtin",
    "CREDIT_RISK_SESSION_SECONDS": "20",  # a run is checked when its session ends
}
# Of a topic, a database and the environment of the command line.
History = Callable[[KafkaSettings, WarehouseSettings, dict[str, str]], None]


@dataclass(frozen=True)
class Live:
    """The running platform.

    Attributes:
        stack: its servers.
        services: where Dagster, the dashboard and the API are.
        environment: the variables of a client: another process, or `monkeypatch.setenv`.
        kafka, warehouse: the same, as settings.
        stream: the loans that are being sent; it ends with the platform.
    """

    stack: Stack
    services: Services
    environment: dict[str, str]
    kafka: KafkaSettings
    warehouse: WarehouseSettings
    stream: "Stream" = field(repr=False)

    def query(self, query: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of the platform's schema."""
        with Warehouse(self.warehouse).session("live") as connection:
            return fetch_all(connection, query, parameters)

    def committed(self) -> int:
        """Offsets that are committed. Raises what sending raised."""
        self.stream.check()
        (row,) = self.query(
            "SELECT coalesce(sum(next_offset - first_offset), 0)::int AS n FROM stream_offsets"
        )
        return int(row["n"])

    def run_jobs(self, jobs: Sequence[str]) -> None:
        """Launch jobs in Dagster, as a user does, and wait until all have succeeded."""
        dagster = urlsplit(self.services.dagster_url)
        client = DagsterGraphQLClient(str(dagster.hostname), port_number=dagster.port)
        runs = {job: client.submit_job_execution(job) for job in jobs}

        def statuses() -> dict[str, DagsterRunStatus]:
            return {job: client.get_run_status(run) for job, run in runs.items()}

        def ended() -> dict[str, DagsterRunStatus] | None:
            found = statuses()
            over = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
            return found if all(status in over for status in found.values()) else None

        log = self.stack.logs / "dagster.log"
        found = wait_until(ended, PATIENCE_SECONDS, f"{', '.join(jobs)} end; see {log}", every=0.5)
        assert set(found.values()) == {DagsterRunStatus.SUCCESS}, f"{found}; see {log}"


class Stream:
    """Loans, and now and then a malformed event, into the topic in the background."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(2, "stream")
        self._sending: list[Future[None]] = []

    def __enter__(self) -> "Stream":
        self._sending = [self._pool.submit(self._loans), self._pool.submit(self._broken)]
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def check(self) -> None:
        """Raise what sending raised."""
        for sending in self._sending:
            if sending.done():
                sending.result()

    def _loans(self) -> None:
        produce(self._kafka, endless(builtin_loans()), rate=RATE, stop=self._stop)

    def _broken(self) -> None:
        partition = 0
        while not self._stop.wait(_MALFORMED_EVERY_SECONDS):
            partition = (partition + 1) % self._kafka.partitions
            send(self._kafka, [_MALFORMED[partition % len(_MALFORMED)]], partition)


@contextmanager
def run_platform(state: Path, history: History | None = None) -> Iterator[Live]:
    """Start the platform in an empty directory, and end it afterwards whatever happens.

    Args:
        history: fills the tables before Dagster starts, and nothing is streamed afterwards.
    """
    with ExitStack() as exits:
        stack = exits.enter_context(Stack(state))
        environment = stack.environment()
        kafka = KafkaSettings(
            bootstrap_servers=stack.broker.bootstrap_servers, topic=environment["KAFKA_TOPIC"]
        )
        warehouse = WarehouseSettings(
            DATABASE_URL=SecretStr(environment["DATABASE_URL"]),
            DASHBOARD_DATABASE_URL=SecretStr(environment["DASHBOARD_DATABASE_URL"]),
        )
        migrate(warehouse)
        ensure_topic(kafka)
        if history:
            history(kafka, warehouse, {**os.environ, **environment})
        services = stack.start_services(_SMALL)
        # At once: Dagster would wait for its runs, and those for events.
        exits.callback(stack.end_processes)
        stream = Stream(kafka)
        live = Live(stack, services, environment, kafka, warehouse, stream)
        if history:
            live.run_jobs(_JOBS[-1])
        else:
            exits.enter_context(stream)
            _be_at_work(live)
        yield live


def _be_at_work(live: Live) -> None:
    """Wait until the stream is scored and checked, and every job has run."""
    wait_until(
        lambda: live.committed() >= ENOUGH_EVENTS,
        PATIENCE_SECONDS,
        f"{ENOUGH_EVENTS} events are committed; see {live.stack.logs}",
        every=0.2,
    )
    for jobs in _JOBS:
        live.run_jobs(jobs)
    wait_until(
        lambda: live.query("SELECT 1 AS one FROM reconciliations"),
        PATIENCE_SECONDS,
        f"a run's session ends and is checked; see {live.stack.logs}",
        every=0.2,
    )
