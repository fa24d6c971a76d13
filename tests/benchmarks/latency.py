"""Event-to-commit latency through the real daemon and sensor."""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import numpy as np
import psycopg
from rich.table import Table

from assets_src.retention import delete_runs
from assets_src.scoring import score_applications
from credit_risk_dagster.domain.latency import percentile
from credit_risk_dagster.pipelines import loans, producer
from credit_risk_dagster.settings import KafkaSettings
from infra.embedded.servers import Server, free_port
from infra.embedded.stack import Stack
from resources.kafka import topics
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.micro_batch import Ledger
from resources.postgres.migrate import migrate
from resources.postgres.sources import Sources
from sensors.offsets import UNFINISHED
from tests.benchmarks.costs import Cost, cost, runs_of, whole
from tests.benchmarks.lab import (
    BenchmarkFailed,
    OpenLab,
    drain_settings,
    drain_variables,
    kafka_settings,
    open_broker,
    warehouse_settings,
)
from tests.benchmarks.report import Bar, Section, table

IDLE_LANE = "a lane without events"
ONE_A_SECOND = "Dagster with its lane, at one event a second"
OBJECTIVE_RATE = 100  # events a second, that the bars are about
_PATIENCE_SECONDS = 90.0
_TICK_SECONDS = 0.05


@dataclass(frozen=True)
class Size:
    """How much to measure: events a second to seconds, how often nothing comes and for how long,
    for how long costs are watched, and how long a session is while events come at a rate: shorter
    than by default, so that there are handovers."""

    seconds_by_rate: Mapping[int, int]
    idle_spells: int
    idle_seconds: float
    cost_seconds: int
    session_seconds: float = 60


# In five minutes the schedules of five are once; those of ten and thirty may be.
FULL = Size(
    {10: 60, OBJECTIVE_RATE: 300, 1_000: 60}, idle_spells=3, idle_seconds=60, cost_seconds=300
)
QUICK = Size(
    {10: 10, OBJECTIVE_RATE: 90, 1_000: 10}, idle_spells=3, idle_seconds=5, cost_seconds=30
)
SMALLEST = Size(
    {OBJECTIVE_RATE: 2}, idle_spells=1, idle_seconds=1, cost_seconds=1, session_seconds=3
)

# The truth: when Postgres committed the row, less when the event came to be, by the same machine's
# clock. (Postgres takes the time just before it flushes the commit to disk.) The few rejected
# events keep no time of their own, but go through the same transactions.
_LATENCIES = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - event_time)::float8 AS seconds
FROM scored_applications WHERE event_time >= %(since)s
"""
# What the ledger itself says of the same micro-batches.
_BATCHES = """
SELECT run_id, latency_buckets FROM batches
WHERE batch_id IN (SELECT batch_id FROM scored_applications WHERE event_time >= %(since)s)
"""

_COMMITTED = "SELECT run_id, committed_at FROM batches WHERE committed_at >= %(since)s"

# Rows and their bytes, without indexes and what a page leaves empty.
_HISTORY = """
SELECT (SELECT count(*) FROM runs),
    (SELECT count(*) FROM runs) + (SELECT count(*) FROM run_tags)
        + (SELECT count(*) FROM event_logs),
    (SELECT coalesce(sum(pg_column_size(r)), 0) FROM runs r)
        + (SELECT coalesce(sum(pg_column_size(t)), 0) FROM run_tags t)
        + (SELECT coalesce(sum(pg_column_size(e)), 0) FROM event_logs e)
"""


def measure(_: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Start Dagster as `credit-risk demo` does, and stream at each of the rates."""
    with ExitStack() as exit_stack:
        folder = exit_stack.enter_context(TemporaryDirectory(prefix="credit-risk-bench-"))
        say("latency: starting Dagster")
        stack = exit_stack.enter_context(Stack(Path(folder)))
        broker = exit_stack.enter_context(open_broker(Path(folder), stack.broker))
        environment = stack.environment() | {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
        kafka = kafka_settings(broker, environment["KAFKA_TOPIC"])
        warehouse = warehouse_settings(environment["DATABASE_URL"])
        migrate(warehouse)
        topics.ensure_topic(kafka)
        settings = drain_settings()
        port = free_port(3000)
        dagster = stack.start_dagster(port, environment | drain_variables(settings))
        connection = exit_stack.enter_context(Warehouse(warehouse).session())
        os.environ |= {name: environment[name] for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL")}
        instance = exit_stack.enter_context(dg.DagsterInstance.get())
        stream = _Stream(kafka, connection, instance)
        try:
            fresh, idle, starts, costs = _with_sessions_as_by_default(dagster, stream, size, say)
            settings = settings.model_copy(update={"session_seconds": size.session_seconds})
            rates = []
            for rate, seconds in size.seconds_by_rate.items():
                say(f"latency: {rate:,} events/s for {seconds} s, with sessions that are shorter")
                dagster.stop()
                # The embedded broker reads through a partition's batches, a millisecond for 1,000.
                kafka = kafka.model_copy(update={"topic": f"loans_at_{rate}"})
                topics.ensure_topic(kafka)
                variables = environment | drain_variables(settings) | {"KAFKA_TOPIC": kafka.topic}
                dagster = stack.start_dagster(port, variables)
                stream = _Stream(kafka, connection, instance)
                stream.first_event()
                rates.append(stream.phase(rate, seconds))
            stream.wait_for_a_successor()
        except BenchmarkFailed as error:
            last_words = (stack.logs / "dagster.log").read_text().splitlines()[-20:]
            raise BenchmarkFailed("\n".join([str(error), *last_words])) from error
        say("latency: what the runs left in Dagster's storage, before and after pruning")
        history = _history(environment["DAGSTER_POSTGRES_URL"], instance)
    return _section(rates, idle, starts, fresh, history, costs)


def _with_sessions_as_by_default(
    dagster: Server, stream: "_Stream", size: Size, say: Callable[[str], None]
) -> tuple[float, list[float], list[float], dict[str, Cost]]:
    """Seconds to the first event's commit, to those after idle spells, and of runs' starts; and
    what a lane and Dagster cost, with no handover in it."""
    say("latency: first event of a fresh platform")
    fresh = stream.first_event()
    idle = []
    for number in range(1, size.idle_spells + 1):
        say(f"latency: first event after an idle spell, {number} of {size.idle_spells}")
        time.sleep(size.idle_seconds)  # what is measured comes after a time of nothing
        idle.append(stream.first_event())
    starts = []
    for number in range(1, size.idle_spells + 1):
        say(f"latency: start of a run, {number} of {size.idle_spells}")
        starts.append(stream.start_of_a_run())
    time.sleep(size.idle_seconds)  # what follows a start is over
    say("latency: what an idle lane costs")
    runs = runs_of(dagster)  # a schedule's may come meanwhile
    lane = cost(lambda: runs, size.cost_seconds)
    say("latency: what Dagster costs at one event a second")
    with ThreadPoolExecutor(1) as sending:
        sent = sending.submit(stream.phase, 1, size.cost_seconds)
        platform = cost(lambda: whole(dagster), size.cost_seconds)
        sent.result()
    return fresh, idle, starts, {IDLE_LANE: lane, ONE_A_SECOND: platform}


def _history(storage_url: str, instance: dg.DagsterInstance) -> dict[str, Any]:
    """What a run of the drain leaves in Dagster's storage, and what pruning leaves of that."""
    with psycopg.connect(storage_url, autocommit=True) as connection:
        runs, *before = connection.execute(_HISTORY).fetchone() or (0, 0, 0)
        deleted = delete_runs(instance, datetime.now(UTC))
        left, *after = connection.execute(_HISTORY).fetchone() or (0, 0, 0)
    return {
        "runs": runs,
        "rows_per_run": (before[0] - after[0]) / deleted,
        "bytes_per_run": (before[1] - after[1]) / deleted,
        "runs_deleted": deleted,
        "runs_left": left,
        "rows_left": after[0],
    }


class _Stream:
    """Sends events, and finds in Postgres what became of them."""

    def __init__(
        self,
        kafka: KafkaSettings,
        connection: psycopg.Connection[Any],
        instance: dg.DagsterInstance,
    ) -> None:
        self._kafka = kafka
        self._connection = connection
        self._instance = instance
        self._source_id = Sources(connection).register(Broker(kafka).inspect()).source_id
        self._loans = loans.builtin_loans()
        self._sent = 0

    def first_event(self) -> float:
        """Seconds from an event that comes when nothing flows to its commit."""
        since = datetime.now(UTC)
        self._send(1)
        (seconds,) = self._latencies(since)
        return float(seconds)

    def start_of_a_run(self) -> float:
        """Seconds from the sensor's request for a run to its first commit, when none runs."""
        lane = dg.RunsFilter(job_name=score_applications.name, statuses=UNFINISHED)
        runs = [run.run_id for run in self._instance.get_runs(lane)]
        for run_id in runs:
            self._instance.run_coordinator.cancel_run(run_id)
        going = dg.RunsFilter(run_ids=runs, statuses=UNFINISHED)
        self._wait(lambda: not self._instance.get_runs_count(going), "a drain run does not end")
        since = datetime.now(UTC)
        self._send(1)
        (batch,) = fetch_all(self._connection, _COMMITTED, {"since": since})
        (run,) = self._instance.get_run_records(dg.RunsFilter(run_ids=[batch["run_id"]]))
        return float((batch["committed_at"] - run.create_timestamp).total_seconds())

    def phase(self, rate: int, seconds: int) -> dict[str, Any]:
        """Stream for so long, into a drain that runs."""
        since = datetime.now(UTC)
        produced = self._send(rate * seconds, rate)
        latencies = self._latencies(since)
        batches = fetch_all(self._connection, _BATCHES, {"since": since})
        buckets = np.sum([batch["latency_buckets"] for batch in batches], axis=0).tolist()
        runs = len({batch["run_id"] for batch in batches})
        return {
            "rate_per_second": rate,
            "sent_per_second": produced.rate,
            "events": produced.acknowledged,
            "micro_batches": len(batches),
            "runs": runs,
            "handovers": runs - 1,
            "latency_ms": {
                **{f"p{q}": 1000 * float(np.percentile(latencies, q)) for q in (50, 95, 99)},
                "max": 1000 * float(latencies.max()),
            },
            "ledger_latency_ms": {f"p{q}": 1000 * percentile(buckets, q) for q in (50, 95, 99)},
        }

    def wait_for_a_successor(self) -> None:
        """Wait until a drain run has ended."""
        ended = dg.RunsFilter(
            job_name=score_applications.name, statuses=[dg.DagsterRunStatus.SUCCESS]
        )
        self._wait(lambda: self._instance.get_runs_count(ended) > 0, "no drain run ends")

    def _send(self, events: int, rate: float = 0.0) -> producer.Produced:
        """Send events, and wait until all that were ever sent are committed."""
        produced = producer.produce(
            self._kafka, self._loans, rate=rate, max_events=events, loop=True
        )
        self._sent += produced.acknowledged
        self._wait(lambda: self._processed() == self._sent, "not every event is processed")
        return produced

    def _processed(self) -> int:
        return sum(
            p.scored + p.rejected for p in Ledger(self._connection).progress(self._source_id)
        )

    def _latencies(self, since: datetime) -> np.ndarray:
        rows = fetch_all(self._connection, _LATENCIES, {"since": since})
        return np.array([row["seconds"] for row in rows])

    def _wait(self, done: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"{otherwise} within {_PATIENCE_SECONDS:.0f} s")
            time.sleep(_TICK_SECONDS)


def _section(
    rates: list[dict[str, Any]],
    idle: list[float],
    starts: list[float],
    fresh: float,
    history: dict[str, Any],
    costs: dict[str, Cost],
) -> Section:
    worst = max(idle)
    (objective,) = (r["latency_ms"] for r in rates if r["rate_per_second"] == OBJECTIVE_RATE)
    results = {
        "rates": rates,
        "first_event_after_idle_seconds": idle,
        "start_of_a_run_seconds": starts,
        "first_event_of_a_fresh_platform_seconds": fresh,
        "dagster_history": history,
        "costs": {what: asdict(found) for what, found in costs.items()},
        "note": "latency_ms is Postgres' commit timestamp of each row less the event's own time; "
        "ledger_latency_ms is what the platform's own histogram of the same micro-batches says",
    }
    bars = [
        *(
            Bar(
                f"{figure} at {OBJECTIVE_RATE} events/s", objective[figure], bar, "ms", at_most=True
            )
            for figure, bar in (("p50", 50), ("p95", 120), ("p99", 250), ("max", 600))
        ),
        Bar(f"first event after idle, worst of {len(idle)}", worst, 0.25, "s", at_most=True),
        Bar(f"a run from request to commit, worst of {len(starts)}", max(starts), 2, "s", True),
        Bar("first event of a fresh platform", fresh, 8, "s", at_most=True),
        *(
            bar
            for what, percent, mb in ((IDLE_LANE, 1, 200), (ONE_A_SECOND, 10, 1_300))
            for bar in (
                Bar(f"{what}: of a core", costs[what].core_percent, percent, "%", at_most=True),
                Bar(f"{what}: memory", costs[what].memory_mb, mb, "MB", at_most=True),
            )
        ),
    ]
    grid = _table(rates, {"first event after idle": idle, "a run's start": starts}, fresh)
    grid.caption = (
        f"a run leaves {history['rows_per_run']:,.0f} rows and "
        f"{history['bytes_per_run'] / 1000:,.0f} kB in Dagster's storage; pruning deleted "
        f"{history['runs_deleted']} of {history['runs']} runs; {history['rows_left']:,} rows stay"
    )
    return Section("latency", results, grid, bars)


def _table(rates: list[dict[str, Any]], spells: Mapping[str, list[float]], fresh: float) -> Table:
    grid = table(
        "Latency from event to commit, ms",
        *("events", "p50", "p95", "p99", "max", "handovers"),
    )
    for found in rates:
        grid.add_row(
            f"{found['rate_per_second']:,} events/s",
            f"{found['events']:,}",
            *(f"{found['latency_ms'][q]:,.0f}" for q in ("p50", "p95", "p99", "max")),
            f"{found['handovers']}",
        )
    for what, times in spells.items():
        median, worst = (f"{1000 * float(value):,.0f}" for value in (np.median(times), max(times)))
        grid.add_row(what, f"{len(times)}", median, "", "", worst)
    grid.add_row("first event of a fresh platform", "1", f"{1000 * fresh:,.0f}")
    return grid
