"""`credit-risk demo` and `credit-risk up`: the platform on embedded servers."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import psycopg
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from credit_risk_dagster.domain.latency import percentile
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.loans import Row
from credit_risk_dagster.pipelines.outcomes import OutcomesLater
from credit_risk_dagster.pipelines.producer import Produced, produce
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from infra.embedded.history import backfill, is_empty
from infra.embedded.stack import DEFAULT_STATE, Services, Stack
from resources.kafka.broker import Broker
from resources.kafka.topics import ensure_topic
from resources.postgres.abandoned import AbandonedOffsets
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.micro_batch import Ledger
from resources.postgres.migrate import migrate
from resources.postgres.reconciliation import reconcile
from resources.postgres.sources import Source, Sources

Connection = psycopg.Connection[Any]

_REFRESH_SECONDS = 0.5
_PLAIN_REFRESH_SECONDS = 10.0  # without a terminal, a line of its own each time
_STALL_SECONDS = 90.0
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NothingHappens(PlatformError):
    """Events were sent, and none of them arrives in Postgres."""


@dataclass(frozen=True)
class Totals:
    """What is committed of a source."""

    scored: int = 0
    rejected: int = 0
    gaps: int = 0
    lost: int = 0
    forgotten: int = 0

    def __sub__(self, other: "Totals") -> "Totals":
        return Totals(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def accounted(self) -> int:
        return self.scored + self.rejected + self.gaps + self.lost + self.forgotten


@dataclass(frozen=True)
class Summary:
    """What the demo shows at the end; latency is event to commit."""

    sent: int
    scored: int
    rejected: int
    gaps: int
    tiers: dict[str, int]
    reject_reasons: dict[str, int]
    events_per_second: float
    latency_p50_ms: float
    latency_p95_ms: float
    first_event_ms: float
    reconciled: bool
    partitions: list[dict[str, Any]]


def run_demo(
    loans: Iterator[Row],
    *,
    change: Callable[[Iterator[Row]], Iterator[Row]],
    events: int,
    rate: float,
    stay: bool,
    history: bool,
    json_file: Path | None,
    state_dir: Path | None,
    console: Console,
) -> bool | None:
    """Run the demo; returns whether every event that was sent is accounted for, or None when it was
    ended before it could tell.

    Args:
        loans: what to stream, without an end.
        change: what becomes of them, from the first one that is streamed.
        events: how many to stream before the summary.
        rate: events a second; 0 is as fast as possible.
        stay: keep streaming and serving after the summary until interrupted, and wait for events
            that are not scored; else that is an error.
        history: before that, weeks of it, where nothing was ever scored.
        json_file: where to write the summary.
        state_dir: directory of the servers' state.
        console: where to print.
    """
    if json_file and (json_file.is_dir() or not os.access(json_file.parent, os.W_OK)):
        raise PlatformError(f"cannot write {json_file}")
    stop = threading.Event()
    reconciled = None
    # One worker, which has ended before the servers do.
    with _interruptible(), Stack(state_dir or DEFAULT_STATE) as stack:
        os.environ.update(stack.environment())
        kafka = KafkaSettings()
        before = _prepare(kafka, loans if history else None, console)
        _tour(stack, _start_services(stack, console), console)
        with (
            (warehouse := Warehouse(WarehouseSettings())).session("demo") as connection,
            ThreadPoolExecutor(1, "produce") as pool,
        ):
            source = new_source(connection, kafka)
            view = _View(console, connection, source, patient=stay)
            outcomes = OutcomesLater(change(loans), warehouse)
            stream = _Stream(pool, kafka, outcomes, iter(outcomes), rate, stop, view)
            try:
                summary = _measured(stream, events)
                reconciled = summary.reconciled
                _tell(summary, json_file, console)
                if stay:
                    console.print("Streaming on. Ctrl-C stops everything.\n")
                    view.follow(stream.send(None, events), None)
            except KeyboardInterrupt:
                stream.end()
                if reconciled is None:
                    console.print(f"\nEnded before the summary of {events:,} events.")
                view.say_farewell(warehouse, stack, before)
            finally:
                stop.set()
    return reconciled


def _tell(summary: Summary, json_file: Path | None, console: Console) -> None:
    console.print(_summary_table(summary))
    if json_file:
        document = msgspec.json.encode(asdict(summary))
        json_file.write_bytes(msgspec.json.format(document, indent=2) + b"\n")


def _prepare(kafka: KafkaSettings, loans: Iterator[Row] | None, console: Console) -> int:
    """Make tables, topic and, of loans, history; how many events that has."""
    console.print("Postgres, the broker and S3 are up")
    migrate(WarehouseSettings())
    ensure_topic(kafka)
    if loans is None or not is_empty(WarehouseSettings()):
        return 0
    console.print("Making six weeks of history (--empty starts without)")
    started = time.monotonic()
    sent = backfill(kafka, WarehouseSettings(), loans)
    console.print(
        f"  {sent:,} applications, decided by the pipeline in {time.monotonic() - started:.0f} s "
        "and then dated back: two policies, one drift, outcomes, reviews"
    )
    return sent


def new_source(connection: Connection, kafka: KafkaSettings) -> Source:
    """The source that this demo's topic is. What those before left to archive is given up: no check
    is to wait for a topic of theirs."""
    source = Sources(connection).register(Broker(kafka).inspect())
    offsets = AbandonedOffsets(connection)
    why = "the demo's broker keeps its topics in memory"
    for tail in offsets.waiting():
        offsets.abandon(tail.source_id, [tail.range], "demo", why)
    return source


def _start_services(stack: Stack, console: Console) -> Services:
    console.print("Starting Dagster, dashboard, API")
    services = stack.start_services()
    console.print(f"  Dagster    {services.dagster_url}")
    console.print(f"  Dashboard  {services.dashboard_url}")
    console.print(f"  API        {services.api_url}/docs")
    console.print(f"  Logs       {stack.logs}\n", soft_wrap=True)
    return services


def _tour(stack: Stack, services: Services, console: Console) -> None:
    console.print(
        f"Look at\n"
        f"  1. {services.dashboard_url}  whether anything is wrong, and what leads to it\n"
        f"  2. {services.dashboard_url}/watchlist  a loan: why it is there, and your review of it\n"
        f"  3. {services.dagster_url}/asset-groups  what made each number, and from what\n"
        f"In another terminal, here:\n"
        f"  source {quote(_shown(stack.environment_file))} && credit-risk status\n"
        f'To see the population drift: make demo ARGS="--shift dti=+8 --after 2000"\n',
        soft_wrap=True,
    )


def _shown(path: Path) -> str:
    """A path as it is from here, where that is shorter."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@dataclass(frozen=True)
class _Stream:
    """Sends loans in the background, and tells the view how many."""

    pool: ThreadPoolExecutor
    kafka: KafkaSettings
    outcomes: OutcomesLater
    loans: Iterator[Row]
    rate: float
    stop: threading.Event
    view: "_View"

    def send(self, count: int | None, already: int) -> "Future[Produced]":
        """Send so many more than were already sent."""

        def show(acknowledged: int) -> None:
            self.view.sent = already + acknowledged

        return self.pool.submit(
            produce,
            *(self.kafka, self.loans),
            rate=self.rate,
            max_events=count,
            on_progress=show,
            stop=self.stop,
        )

    def end(self) -> None:
        """Send no more, and wait until the broker has what was sent."""
        self.stop.set()
        self.pool.shutdown()


def _measured(stream: _Stream, events: int) -> Summary:
    """Send so many events and wait until each is accounted for."""
    view = stream.view
    # The first event alone: it waits for the first run to start, the others do not.
    started = time.monotonic()
    view.follow(stream.send(1, 0), 1)
    first_event = time.monotonic() - started
    started = time.monotonic()
    view.follow(stream.send(events - 1, 1), events)
    stream.outcomes.flush()
    return _summarize(view, events, time.monotonic() - started, first_event)


def run_up(*, state_dir: Path | None, console: Console) -> None:
    """Start the servers alone, print how to reach them, and wait for Ctrl-C."""
    with _interruptible(), Stack(state_dir or DEFAULT_STATE) as stack:
        for name, value in stack.environment().items():
            console.print(f"export {name}={quote(value)}", soft_wrap=True)
        console.print(
            "\n# Then, in another terminal: credit-risk migrate; dagster dev; credit-risk api;"
            "\n# credit-risk produce."
            "\n# Ctrl-C here stops the servers.",
            soft_wrap=True,
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("\nStopping")


class _View:
    """The progress line: sent, scored, rejected, lag, latency."""

    def __init__(
        self, console: Console, connection: Connection, source: Source, *, patient: bool
    ) -> None:
        self.sent = 0
        self.since = datetime.now(UTC)
        self.before = _totals(connection, source)
        self._console = console
        self._patient = patient
        self.connection = connection
        self.source = source

    def follow(self, producing: "Future[Produced]", until: int | None) -> None:
        """Show progress until all is sent and `until` events are accounted for.

        Raises:
            NothingHappens: there is a backlog, nothing was committed for a long time, and nobody is
                patient.
        """
        totals, changed = Totals(), time.monotonic()
        printed = 0.0
        pause = threading.Event()
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                if producing.done():
                    producing.result()
                before, totals = totals, _totals(self.connection, self.source) - self.before
                now = time.monotonic()
                if totals != before or totals.accounted >= self.sent:
                    changed = now
                if now - changed > _STALL_SECONDS:
                    self._tell_stall(self.sent - totals.accounted)
                    changed = now
                if self._console.is_terminal:
                    live.update(self._line(totals), refresh=True)
                elif now - printed >= _PLAIN_REFRESH_SECONDS:
                    self._console.print(self._line(totals), soft_wrap=True)
                    printed = now
                if producing.done() and until is not None and totals.accounted >= until:
                    return
                pause.wait(_REFRESH_SECONDS)

    def say_farewell(self, warehouse: Warehouse, stack: Stack, history: int) -> None:
        """What became of what was sent, and what is kept where."""
        with warehouse.session("demo") as fresh:  # the other was in a query
            totals = _totals(fresh, self.source) - self.before
        sent = max(self.sent, totals.accounted)
        waiting = sent - totals.accounted
        those = "One event was" if waiting == 1 else f"{waiting:,} events were"
        lost = f"{those} still on the way to a decision, which ends with the topic.\n"
        kept = totals.accounted + history
        self._console.print(
            f"\nsent {sent:,}   scored {totals.scored:,}   rejected {totals.rejected:,}   "
            f"waiting {waiting:,}\n{lost if waiting else ''}"
            f"Kept in {_shown(stack.state)}: what Postgres has ({kept:,} applications of "
            "this demo, and Dagster's runs), for the next one; `make clean` removes it.\n"
            "Gone with the servers: the topic, and what is archived on S3.\n"
            "Stopping",
            soft_wrap=True,
        )

    def _tell_stall(self, waiting: int) -> None:
        were = "event was" if waiting == 1 else "events were"
        said = (
            f"{waiting:,} {were} sent and not scored for {_STALL_SECONDS:.0f} s: see the "
            "sensor's ticks and the runs in Dagster"
        )
        if not self._patient:
            raise NothingHappens(said)
        self._console.print(f"warning: {said}; it goes on when that changes", soft_wrap=True)

    def _line(self, totals: Totals) -> Text:
        recent = _latency_buckets(
            self.connection, self.source, datetime.now(UTC) - timedelta(seconds=10)
        )
        latency = f"{percentile(recent, 50) * 1000:,.0f} ms" if sum(recent) else "-"
        sent = max(self.sent, totals.accounted)  # what is stored was sent, acknowledged or not yet
        lag = sent - totals.accounted
        return Text(
            f"sent {sent:,}   scored {totals.scored:,}   rejected {totals.rejected:,}   "
            f"lag {lag:,}   latency (median of 10 s) {latency}"
        )


def _totals(connection: Connection, source: Source) -> Totals:
    progress = Ledger(connection).progress(source.source_id)
    return Totals(
        sum(p.scored for p in progress),
        sum(p.rejected for p in progress),
        sum(p.gaps for p in progress),
        sum(p.lost for p in progress),
        sum(p.forgotten for p in progress),
    )


def _latency_buckets(connection: Connection, source: Source, since: datetime) -> list[int]:
    rows = fetch_all(
        connection,
        "SELECT latency_buckets FROM batches"
        " WHERE source_id = %(source_id)s AND committed_at > %(since)s",
        {"source_id": source.source_id, "since": since},
    )
    counts: list[int] = np.sum([row["latency_buckets"] for row in rows] or [[0]], axis=0).tolist()
    return counts


def _summarize(view: _View, sent: int, seconds: float, first_event: float) -> Summary:
    connection, source = view.connection, view.source
    of_stream = {"source_id": source.source_id, "since": view.since}
    partitions = reconcile(connection, source.source_id)
    found = {
        name: sum(p[name] for p in partitions) - getattr(view.before, name)
        for name in ("scored", "rejected", "gaps")
    }
    committed = sum(p["next_offset"] - p["first_offset"] for p in partitions)
    differences = [p["difference"] for p in partitions]
    (tiers,) = fetch_all(
        connection,
        'SELECT coalesce(sum(watchlist), 0)::int AS "Watchlist",'
        ' coalesce(sum(elevated), 0)::int AS "Elevated", coalesce(sum(low), 0)::int AS "Low"'
        " FROM batches WHERE source_id = %(source_id)s AND committed_at > %(since)s",
        of_stream,
    )
    reasons = fetch_all(
        connection,
        "SELECT reason, count(*) AS events FROM rejected_events WHERE source_id = %(source_id)s"
        " AND rejected_at > %(since)s GROUP BY reason ORDER BY events DESC",
        of_stream,
    )
    buckets = _latency_buckets(connection, source, view.since)
    return Summary(
        sent=sent,
        tiers=tiers,
        reject_reasons={row["reason"]: row["events"] for row in reasons},
        events_per_second=round((sent - 1) / seconds, 1),
        latency_p50_ms=round(percentile(buckets, 50) * 1000),
        latency_p95_ms=round(percentile(buckets, 95) * 1000),
        first_event_ms=round(first_event * 1000),
        reconciled=committed - view.before.accounted == sent and not any(differences),
        partitions=partitions,
        **found,
    )


def _summary_table(summary: Summary) -> Table:
    table = Table(title="Summary", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "sent": f"{summary.sent:,}",
        "scored": f"{summary.scored:,}",
        **{f"  {tier}": f"{count:,}" for tier, count in summary.tiers.items()},
        "rejected": f"{summary.rejected:,}",
        **{f"  {reason}": f"{count:,}" for reason, count in summary.reject_reasons.items()},
        "gaps": f"{summary.gaps:,}",
        "events/s": f"{summary.events_per_second:,.1f}",
        "event to commit, p50": f"{summary.latency_p50_ms:,.0f} ms",
        "event to commit, p95": f"{summary.latency_p95_ms:,.0f} ms",
        "first event (starts the first run)": f"{summary.first_event_ms:,.0f} ms",
        "every offset accounted for": "yes" if summary.reconciled else "NO",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal, do what Ctrl-C does: run every `finally`, once."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        for number in _END_SIGNALS:  # a second one would end the ending
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
