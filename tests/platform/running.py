"""The platform as its users run it: a stack with Dagster, the dashboard and the API.

And what can be seen of it from outside, through its pages, Dagster's storage and the tables.
"""

import json
import math
import os
import re
import threading
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.error import HTTPError

import dagster as dg
import psutil
import pytest
from dagster_graphql import DagsterGraphQLClient
from pydantic import SecretStr

from assets_src.scoring import score_applications
from credit_risk_dagster.pipelines.loans import builtin_loans, endless
from credit_risk_dagster.pipelines.producer import Produced, produce
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from infra.embedded.servers import HOST, Server
from infra.embedded.stack import Services, Stack
from resources.kafka.topics import ensure_topic
from resources.postgres.connection import Warehouse
from resources.postgres.migrate import migrate
from sensors.offsets import UNFINISHED, loan_applications_offsets
from tests.malformed import event, without
from tests.platform.memory import in_memory
from tests.platform.pipeline import Pipeline, send
from tests.platform.processes import processes_of
from tests.platform.waiting import slowness, wait_until
from tests.platform.webhook import Webhook, webhook

# How long a machine that does nothing else may take, from an event to its commit: a tick of the
# sensor and the start of a run.
PATIENCE_SECONDS = 120.0
USUAL_START_SECONDS = 2.5
# Short sessions, because a run is checked, and hands over, when its session ends; small batches, so
# that one is always in the middle of something; small samples. A successor is asked for as early as
# a machine that is so slow needs it.
SETTINGS = {
    "CREDIT_RISK_SESSION_SECONDS": "20",
    "CREDIT_RISK_IDLE_SECONDS": "3",
    "CREDIT_RISK_POLL_INTERVAL_MS": "100",
    "CREDIT_RISK_MAX_BATCH_EVENTS": "500",
    "CREDIT_RISK_DRIFT_BASELINE_ROWS": "200",
    "CREDIT_RISK_DRIFT_WINDOW_ROWS": "1000",
    "CREDIT_RISK_DRIFT_MIN_ROWS": "100",
    "CREDIT_RISK_MODEL_SAMPLE": "builtin",
}
# Of a topic, a database and the environment of the command line.
History = Callable[[KafkaSettings, WarehouseSettings, dict[str, str]], None]
# The life that is looked at: a stream, now and then a malformed event, and jobs that ran once, so
# that everything that is shown has something to show.
RATE = 5.0
ENOUGH_EVENTS = 300  # as a rule each kind of decision is among them
_MALFORMED: tuple[bytes, ...] = (b"not JSON", b"[1, 2]", without("dti"), event(int_rate="high"))
_MALFORMED_EVERY_SECONDS = 1.0
_MALFORMED_KEY = b"key"  # a loan's is its id
_JOBS_OF_EVENTS = (("archive_raw_events", "freeze_baseline"), ("report_drift",))
_SCHEDULES = """
{ repositoriesOrError { ... on RepositoryConnection {
  nodes { schedules { scheduleState { id } } } } } }
"""
_STOP = """
mutation Stop($id: String!) {
  stopRunningSchedule(id: $id) { ... on ScheduleStateResult { scheduleState { status } } }
}
"""


@contextmanager
def open_platform(history: History | None = None) -> Iterator["Platform"]:
    """The whole platform on servers of its own, of which nothing is left afterwards.

    Args:
        history: fills topic and tables before Dagster starts.
    """
    with (
        TemporaryDirectory(prefix="credit-risk-", dir=in_memory()) as folder,
        Stack(Path(folder)) as stack,
        webhook() as hook,
        Platform(
            stack,
            {
                **SETTINGS,
                "CREDIT_RISK_RUN_START_SECONDS": f"{min(8 * slowness(), 16):.0f}",
                "CREDIT_RISK_ALERT_WEBHOOK_URL": hook.url,
            },
            history,
        ) as platform,
    ):
        platform.hook = hook
        yield platform
    assert processes_of(stack.state) == []


@dataclass(frozen=True)
class RunTimes:
    """When a run was requested, when its process worked, and when it committed its first and its
    last batch (Unix time)."""

    requested: float
    started: float
    first_commit: float
    last_commit: float


class Platform:
    """A stack's Dagster, dashboard and API, a stream into its topic, and what comes of that.

    Args:
        stack: its servers, which run.
        settings: variables of the processes, beside and before those of the stack.
        history: fills topic and tables before the processes start.

    Attributes:
        environment: the variables of a client: another process, or `monkeypatch.setenv`.
        sent: loans that were sent, whose ids are the numbers below.
        before_life: the drain runs that were there when `live` began.
    """

    hook: Webhook
    services: Services

    def __init__(
        self, stack: Stack, settings: Mapping[str, str], history: History | None = None
    ) -> None:
        self.stack = stack
        self._history = history
        self.environment = {**stack.environment(), **settings}
        self.kafka = KafkaSettings(
            bootstrap_servers=stack.broker.bootstrap_servers, topic=self.environment["KAFKA_TOPIC"]
        )
        self.warehouse = WarehouseSettings(
            DATABASE_URL=SecretStr(self.environment["DATABASE_URL"]),
            DASHBOARD_DATABASE_URL=SecretStr(self.environment["DASHBOARD_DATABASE_URL"]),
        )
        self.pipeline = Pipeline(self.kafka, Warehouse(self.warehouse))
        self.query = self.pipeline.query
        self.log = stack.logs / "dagster.log"
        self.sent = 0
        self.before_life: Collection[str] = ()
        self._sending: Future[Produced] | None = None
        self._exit = ExitStack()
        self._life = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as started:
            patch = started.enter_context(pytest.MonkeyPatch.context())
            for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL"):
                patch.setenv(name, self.environment[name])
            self.instance = started.enter_context(dg.DagsterInstance.get())
            # At once: Dagster would wait for its runs, and those for events.
            started.callback(self.stack.end_processes)
            self.start()
            self._stop_schedules()
            started.callback(self.rest)
            self._exit = started.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._exit.__exit__(*exception)

    def start(self) -> None:
        """Make tables and topic, and start the processes."""
        migrate(self.warehouse)
        ensure_topic(self.kafka)
        if self._history:
            self._history(self.kafka, self.warehouse, {**os.environ, **self.environment})
        self.services = self.stack.start_services(self.environment)

    def _stop_schedules(self) -> None:
        """Stop every schedule, as somebody in the UI does: what a test finds is not to depend on
        the time of day."""

        def schedules() -> list[dict[str, str]]:
            try:
                nodes = self.graphql(_SCHEDULES)["repositoriesOrError"]["nodes"]
            except OSError:  # not yet
                return []
            return [schedule["scheduleState"] for node in nodes for schedule in node["schedules"]]

        for found in wait_until(schedules, PATIENCE_SECONDS, f"Dagster's UI is up; see {self.log}"):
            stopped = self.graphql(_STOP, id=found["id"])["stopRunningSchedule"]
            assert stopped["scheduleState"]["status"] == "STOPPED", stopped

    @property
    def dagster(self) -> Server:
        """The process of Dagster's webserver, and all that it started."""
        return self.stack.servers["dagster"]

    def start_dagster(self) -> None:
        """Start Dagster again, after it ended."""
        assert self.dagster.port
        self.stack.start_dagster(self.dagster.port, self.environment)

    # --- the life that is looked at -------------------------------------------------------------

    def live(self) -> None:
        """Let a stream flow until `rest`, and everything that is shown have something to show."""
        if self._living:
            return
        self.before_life = self.runs()
        began = datetime.now(UTC)  # a schedule may have run before it was stopped, without events
        self.send(ENOUGH_EVENTS)
        with ExitStack() as started:
            started.enter_context(self.streaming(RATE))
            started.enter_context(self._malformed())
            with ThreadPoolExecutor(1, "benchmark") as thread:
                first = not self.query("SELECT FROM model_benchmarks")
                benchmark = thread.submit(self.run_jobs, ["benchmark_models"] if first else [])
                wait_until(
                    lambda: self.committed() >= ENOUGH_EVENTS,
                    PATIENCE_SECONDS,
                    f"{ENOUGH_EVENTS} events are committed; see {self.stack.logs}",
                    every=0.2,
                )
                for jobs in _JOBS_OF_EVENTS if first else ():
                    if left := [job for job in jobs if not self._runs_of(job, since=began)]:
                        self.run_jobs(left)  # a sensor was not sooner
                benchmark.result()
                if first and not self._runs_of("report_portfolio", since=began):
                    self.run_jobs(["report_portfolio"])  # nor was a sensor
            wait_until(
                lambda: not self._runs_of("report_drift", UNFINISHED),
                PATIENCE_SECONDS,
                "the newest report of drift stays the newest",
                every=0.2,
            )
            wait_until(
                lambda: self.query("SELECT FROM reconciled_offsets WHERE next_offset > 0"),
                PATIENCE_SECONDS,
                f"a run's session ends and is checked; see {self.stack.logs}",
                every=0.2,
            )
            self._life = started.pop_all()
            self._living = True

    def rest(self) -> None:
        """End that stream; afterwards nothing flows but what a test sends."""
        self._living = False
        self._life.close()

    _living = False

    def _runs_of(
        self,
        job: str,
        statuses: Sequence[dg.DagsterRunStatus] = (),
        since: datetime | None = None,
    ) -> int:
        wanted = dg.RunsFilter(job_name=job, statuses=statuses or None, created_after=since)
        return self.instance.get_runs_count(wanted)

    @contextmanager
    def _malformed(self) -> Iterator[None]:
        stop = threading.Event()

        def send_some() -> None:
            partition = 0
            while not stop.wait(_MALFORMED_EVERY_SECONDS):
                partition = (partition + 1) % self.kafka.partitions
                value = _MALFORMED[partition % len(_MALFORMED)]
                send(self.kafka, [value], partition, _MALFORMED_KEY)

        with ThreadPoolExecutor(1, "malformed") as thread:
            sending = thread.submit(send_some)
            try:
                yield
            finally:
                stop.set()
        sending.result()

    def run_jobs(self, jobs: Sequence[str]) -> None:
        """Launch jobs in Dagster, as a user does, and wait until all have succeeded."""
        runs = {job: self.client().submit_job_execution(job) for job in jobs}

        def ended() -> dict[str, dg.DagsterRunStatus] | None:
            found = {job: self.client().get_run_status(run) for job, run in runs.items()}
            over = (
                dg.DagsterRunStatus.SUCCESS,
                dg.DagsterRunStatus.FAILURE,
                dg.DagsterRunStatus.CANCELED,
            )
            return found if all(status in over for status in found.values()) else None

        what = f"{', '.join(jobs)} end; see {self.log}"
        found = wait_until(ended, 2 * PATIENCE_SECONDS, what, every=0.5)
        assert found is not None
        assert set(found.values()) == {dg.DagsterRunStatus.SUCCESS}, "; ".join(
            f"{job}: {self.failure(run)}" for job, run in runs.items()
        )

    def failure(self, run_id: str) -> str:
        """What Dagster's log of a run says of its failure; empty without one."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id)]
        return "; ".join(
            f"{event.message} {getattr(event.event_specific_data, 'error', '')}"
            for event in events
            if event and event.is_failure
        )

    def client(self) -> DagsterGraphQLClient:
        """Dagster's own client of its webserver."""
        return DagsterGraphQLClient(HOST, port_number=self.dagster.port)

    # --- the stream -----------------------------------------------------------------------------

    def send(self, events: int, rate: float = 0.0) -> None:
        """Send so many loans, each with an id of its own (counted from 0)."""
        with self.streaming(rate, events) as sending:
            sending.result()

    @contextmanager
    def streaming(self, rate: float, events: int | None = None) -> Iterator["Future[Produced]"]:
        """Stream loans in the background, until the end of the block or of so many events; one in
        fifty lacks what it would have to be decided on."""
        stop = threading.Event()
        incomplete = {"dti": None, "dti_joint": None}
        loans = (
            {**row, "id": str(number), **(incomplete if number % 50 == 7 else {})}
            for number, row in enumerate(endless(builtin_loans()), self.sent)
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
        (row,) = self.query(
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
        rows = stored["scored_applications"] + stored["rejected_events"]
        topic = self.pipeline.broker.inspect()
        held = {
            (partition, offset)
            for partition, (first, end) in topic.offsets.items()
            for offset in range(first, end)
        }
        assert (held - {*rows}, {*rows} - held, len(rows)) == (set(), set(), len(held)), topic
        assert self.loans() == list(range(self.sent))
        assert self.pipeline.unreconciled() == 0

    def wait_for_everything(self) -> None:
        """Wait until all that was sent is committed, and check that it was once."""
        ends = sum(end for _, end in self.pipeline.broker.inspect().offsets.values())
        self.wait_for_commits(ends)
        self.check_exactly_once()

    def loans(self, source_id: int | None = None) -> list[int]:
        """The ids of all stored loans, or of a source's, sorted, with duplicates if any."""
        rows = self.query(
            "SELECT source_id, loan_id AS id FROM scored_applications"
            " UNION ALL SELECT source_id, convert_from(key, 'UTF8') FROM rejected_events"
            " WHERE key <> %(malformed)s",
            malformed=_MALFORMED_KEY,
        )
        return sorted(int(row["id"]) for row in rows if source_id in (None, row["source_id"]))

    # --- Dagster --------------------------------------------------------------------------------

    def runs(self, before: Collection[str] = ()) -> dict[str, dg.DagsterRun]:
        """The drain runs by id, oldest first, without those from before."""
        runs = self.instance.get_runs(dg.RunsFilter(job_name=score_applications.name))
        return {run.run_id: run for run in reversed(runs) if run.run_id not in before}

    def unfinished(self) -> list[dg.DagsterRun]:
        """The drain runs that Dagster believes to be alive, or to come."""
        unfinished = dg.RunsFilter(job_name=score_applications.name, statuses=UNFINISHED)
        return list(self.instance.get_runs(unfinished))

    def wait_until_idle(self) -> None:
        """Wait until every run has ended."""
        wait_until(lambda: not self.unfinished(), PATIENCE_SECONDS, "the last run ends")

    def working_run(self) -> str | None:
        """The run that committed the newest batch."""
        rows = self.query("SELECT run_id FROM batches ORDER BY batch_id DESC LIMIT 1")
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
        rows = self.query(
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

    def materializations(self, asset: str, runs: Collection[str]) -> list[dict[str, Any]]:
        """The metadata of what these runs materialized, oldest first; a table is a list of rows."""
        records = self.instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records
        return [
            {name: _plain(value) for name, value in record.asset_materialization.metadata.items()}
            for record in reversed(records)
            if record.asset_materialization and record.run_id in runs
        ]

    def ticks(self) -> list[dict[str, Any]]:
        """The sensor's newest ticks, newest first: status, skipReason, runIds, timestamp."""
        answer = self.graphql(
            """query ($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) {
                ... on Error { message }
                ... on Sensor { sensorState {
                    ticks(limit: 50) { status skipReason runIds timestamp } } } } }""",
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
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except HTTPError as error:
            error.add_note(f"Dagster said: {error.read()[:2000]!r}")
            raise
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


def _plain(value: dg.MetadataValue[Any]) -> Any:
    if isinstance(value, dg.TableMetadataValue):
        return [dict(record.data) for record in value.records]
    return value.value
