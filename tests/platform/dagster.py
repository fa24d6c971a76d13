"""The platform as its users run it: `dagster dev` on a test's own servers, and what can be seen of
it from outside, through Dagster's storage and the platform's tables.
"""

import json
import math
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Self

import dagster as dg
import psutil

from assets_src.scoring import score_applications
from credit_risk_dagster.pipelines.loans import Row, builtin_loans, endless
from credit_risk_dagster.pipelines.producer import Produced, produce
from infra.embedded.servers import HOST, Server, free_port
from sensors.offsets import UNFINISHED, loan_applications_offsets
from tests.platform.pipeline import Pipeline
from tests.platform.waiting import wait_until

# How long a machine that does other things as well may take, from an event to its commit: a tick of
# the sensor and the start of a run.
PATIENCE_SECONDS = 120.0
USUAL_START_SECONDS = 2.5


@dataclass(frozen=True)
class RunTimes:
    """When a run was requested, when its process worked, and when it committed its first and its
    last batch (Unix time)."""

    requested: float
    started: float
    first_commit: float
    last_commit: float


class Platform:
    """`dagster dev` between a test's topic and tables.

    Args:
        pipeline: the topic and the tables.
        environment: of `dagster dev`; the DAGSTER_ variables must be this process's too.
        log: file that Dagster's output is appended to.
    """

    def __init__(self, pipeline: Pipeline, environment: dict[str, str], log: Path) -> None:
        self.pipeline = pipeline
        self.log = log
        self.sent = 0
        self._environment = environment
        self._sending: Future[Produced] | None = None
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as started:
            self.instance = started.enter_context(dg.DagsterInstance.get())
            self._exit = started
            self.start_dagster()
            self._exit = started.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._exit.__exit__(*exception)

    # --- the stream -----------------------------------------------------------------------------

    def send(self, events: int, rate: float = 0.0) -> None:
        """Send so many loans, each with an id of its own (counted from 0)."""
        with self.streaming(rate, events) as sending:
            sending.result()

    @contextmanager
    def streaming(self, rate: float, events: int | None = None) -> Iterator["Future[Produced]"]:
        """Stream loans in the background, until the end of the block or of so many events."""
        stop = threading.Event()
        loans = (
            {**row, "id": str(number)} for number, row in enumerate(endless(_loans()), self.sent)
        )
        with ThreadPoolExecutor(1, "send") as thread:
            self._sending = thread.submit(
                produce,
                *(self.pipeline.kafka, islice(loans, events)),
                rate=rate,
                stop=stop,
            )
            try:
                yield self._sending
            finally:
                stop.set()
        self.sent += self._sending.result().acknowledged

    def committed(self) -> int:
        """Offsets that are committed, of all sources. Raises what sending raised."""
        if self._sending and self._sending.done():
            self._sending.result()
        (row,) = self.pipeline.query(
            "SELECT coalesce(sum(next_offset - first_offset), 0)::int AS n FROM stream_offsets"
        )
        return int(row["n"])

    def wait_for_commits(self, events: int, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until so many events are committed."""
        wait_until(
            lambda: self.committed() >= events,
            timeout,
            f"{events} events are committed; Dagster's log is {self.log}",
        )

    def check_exactly_once(self) -> None:
        """Every loan that was sent, and every offset of the topic, is stored exactly once."""
        stored = self.pipeline.stored()
        assert sorted(stored["scored_applications"] + stored["rejected_events"]) == [
            (partition, offset)
            for partition, (first, end) in self.pipeline.broker.inspect().offsets.items()
            for offset in range(first, end)
        ]
        assert self.loans() == list(range(self.sent))
        assert self.pipeline.unreconciled() == 0

    def loans(self, source_id: int | None = None) -> list[int]:
        """The ids of all stored loans, or of a source's, sorted, with duplicates if any."""
        rows = self.pipeline.query(
            "SELECT source_id, loan_id AS id FROM scored_applications"
            " UNION ALL SELECT source_id, convert_from(key, 'UTF8') FROM rejected_events"
        )
        return sorted(int(row["id"]) for row in rows if source_id in (None, row["source_id"]))

    # --- Dagster --------------------------------------------------------------------------------

    def start_dagster(self) -> None:
        """Start `dagster dev`, for the first time or after it ended."""
        port = free_port()
        command = [sys.executable, "-m", "dagster", "dev", "-h", HOST, "-p", str(port)]
        self.dagster = Server(
            "Dagster",
            command,
            port,
            ready_path="/server_info",
            environment=self._environment,
            log=self.log,
        )
        self._exit.callback(self.dagster.kill)  # and every process that it started
        self.dagster.start()

    def runs(self) -> list[dg.DagsterRun]:
        """The drain runs, oldest first."""
        runs = self.instance.get_runs(dg.RunsFilter(job_name=score_applications.name))
        return list(reversed(runs))

    def unfinished(self) -> list[dg.DagsterRun]:
        """The drain runs that Dagster believes to be alive, or to come."""
        unfinished = dg.RunsFilter(job_name=score_applications.name, statuses=UNFINISHED)
        return list(self.instance.get_runs(unfinished))

    def wait_until_idle(self) -> None:
        """Wait until every run has ended."""
        wait_until(lambda: not self.unfinished(), PATIENCE_SECONDS, "the last run ends")

    def working_run(self) -> str | None:
        """The run that committed the newest batch."""
        rows = self.pipeline.query("SELECT run_id FROM batches ORDER BY batch_id DESC LIMIT 1")
        return rows[0]["run_id"] if rows else None

    def run_times(self) -> dict[str, RunTimes]:
        """When the runs that committed something did what, by run id, in order of their work."""
        dagster = {
            record.dagster_run.run_id: (
                record.create_timestamp.timestamp(),
                record.start_time or math.nan,
            )
            for record in self.instance.get_run_records()
        }
        rows = self.pipeline.query(
            "SELECT run_id, extract(epoch FROM min(committed_at))::float8 AS first,"
            " extract(epoch FROM max(committed_at))::float8 AS last"
            " FROM batches GROUP BY run_id ORDER BY first"
        )
        return {
            row["run_id"]: RunTimes(*dagster[row["run_id"]], row["first"], row["last"])
            for row in rows
        }

    def slowness(self) -> float:
        """How many times longer than usual this machine takes to start a run just now; 1 at least.

        Limits on time hold for a machine that does nothing else, and are multiplied by this.
        """
        slowest = max(times.started - times.requested for times in self.run_times().values())
        return max(1.0, slowest / USUAL_START_SECONDS)

    def materializations(self, asset: str) -> list[dict[str, Any]]:
        """The metadata of the asset's materializations, oldest first; a table is a list of rows."""
        records = self.instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records
        return [
            {name: _plain(value) for name, value in record.asset_materialization.metadata.items()}
            for record in reversed(records)
            if record.asset_materialization
        ]

    def ticks(self) -> list[dict[str, Any]]:
        """The sensor's newest ticks, newest first: status, skipReason, runIds."""
        answer = self.graphql(
            """query ($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) {
                ... on Sensor { sensorState { ticks(limit: 50) { status skipReason runIds } } }
            } }""",
            sensor=self.sensor,
        )
        ticks: list[dict[str, Any]] = answer["sensorOrError"]["sensorState"]["ticks"]
        return ticks

    def why_not(self) -> str:
        """The newest reason of the sensor not to request a run."""
        return next((tick["skipReason"] for tick in self.ticks() if tick["skipReason"]), "")

    sensor = {  # noqa: RUF012 (a constant)
        "repositoryLocationName": "credit_risk",
        "repositoryName": "__repository__",
        "sensorName": loan_applications_offsets.name,
    }

    def graphql(self, query: str, **variables: Any) -> Any:
        """Ask Dagster's webserver."""
        request = urllib.request.Request(
            f"http://{HOST}:{self.dagster.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    # --- processes ------------------------------------------------------------------------------

    def run_process(self, run_id: str) -> psutil.Process:
        """The process of a run, as Dagster's log of the run names it."""
        for entry in self.instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            if found := re.search(r"Started process for run \(pid: (\d+)\)", entry.message):
                return psutil.Process(int(found[1]))
        raise LookupError(f"run {run_id} has no process")

    def service(self, word: str) -> psutil.Process:
        """The process of `dagster dev` whose command line has this word."""
        tree = psutil.Process(self.dagster.pid).children(recursive=True)
        for process in tree:
            with suppress(psutil.Error):
                if word in process.cmdline():
                    return process
        raise LookupError(f"no process of dagster dev has {word!r} in its command line")


@cache
def _loans() -> list[Row]:
    return builtin_loans()


def _plain(value: dg.MetadataValue[Any]) -> Any:
    if isinstance(value, dg.TableMetadataValue):
        return [dict(record.data) for record in value.records]
    return value.value
