"""The drain: one session of moving events from the broker to the warehouse, exactly once.

fetch a bounded range -> decode -> clean and score -> one transaction. Postgres works on a batch
while the next one is fetched and scored. Offsets move only by that transaction, so a session that
dies anywhere, or runs beside another, loses and doubles nothing.
"""

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
from kafka.errors import OffsetOutOfRangeError
from structlog.contextvars import bound_contextvars

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.lanes import lane_of
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.bounds import Bound, check_bounds, next_offsets, partitions_of
from credit_risk_dagster.pipelines.deciders import Decided, Deciders
from credit_risk_dagster.pipelines.drain_report import STAGES, DrainReport
from credit_risk_dagster.pipelines.interpreter import tuned_interpreter
from credit_risk_dagster.settings import DrainSettings
from resources.kafka.broker import Broker
from resources.kafka.errors import TopicReplaced, shrunk
from resources.kafka.reader import Fetch, OffsetRange, Reader
from resources.postgres.connection import Warehouse
from resources.postgres.lanes import (
    HANDOVER_SECONDS,
    LaneBusy,
    announce_run,
    is_awaited,
    lock_partitions,
    wait_for_lane,
)
from resources.postgres.micro_batch import (
    Committed,
    Ledger,
    OffsetsMoved,
    StageSeconds,
)
from resources.postgres.repeats import Repeats
from resources.postgres.sources import Source, Sources

# So long a quiet session waits for an event before it looks whether somebody waits for its lane.
_LOOK_SECONDS = 1.0
# So often those who look at a run are told how far it is.
_PROGRESS_SECONDS = 60.0
# So often the garbage collector is called.
_GARBAGE_SECONDS = 10.0
# All brokers have heard of a new partition after this.
_NEWS_SECONDS = 3.0
# Nobody should have a partition that is new.
_NEW_LOCK_SECONDS = 1.0

# Beside the `log` that a session is given, which Dagster shows: the process's own, with fields.
_log = logging.getLogger(__name__)


def drain(
    broker: Broker,
    warehouse: Warehouse,
    policy: Policy,
    settings: DrainSettings,
    *,
    run_id: str,
    lane: int = 0,
    bounds: Sequence[Bound] = (),
    interrupts: tuple[type[BaseException], ...] = (),
    log: logging.Logger,
    progress: Callable[[DrainReport], None] = lambda _: None,
) -> DrainReport:
    """Drain a lane for one session.

    Args:
        broker, warehouse: where from and where to.
        policy: of CREDIT_RISK_POLICY_FILE; see `policies.deciding` for when it decides.
        settings: lanes, session and batch limits.
        run_id: recorded in the ledger, and how the sensor knows that the run is alive.
        lane, bounds: which of `settings.lanes`, or at most these offsets of partitions of any.
        interrupts: what a signal raises to end the session, and well: after the batch under way.
        log, progress: of what happens, and each minute in which events came of all so far.

    Raises:
        BrokerUnavailable, TopicMissing, WarehouseUnavailable, NotMigrated: as their names say.
        TopicReplaced: the topic is not the one whose offsets are committed.
        LaneBusy: another run kept the partitions for longer than a session lasts.
        BoundsError: the bounds begin after the committed offset.
    """
    with (
        _logged(run_id, lane),
        tuned_interpreter(),
        # Everything slow comes before the lock, while the predecessor still works.
        broker.reader(settings) as reader,
        warehouse.session(f"run {run_id}") as connection,
        ThreadPoolExecutor(1, "commit") as writer,
    ):
        announce_run(connection, run_id)
        topic = broker.inspect()
        warehouse.prepare_storage(connection)
        source = Sources(connection).register(topic)
        report = DrainReport(policy.version, lane, source)
        ledger = Ledger(connection, Repeats(connection, settings), settings.case_within)
        partitions = partitions_of(topic, settings.lanes, lane, bounds)
        if not partitions:
            report.ended = f"lane {lane} of {settings.lanes} has no partition"
            return report
        # Before anybody gives way for them.
        check_bounds(bounds, next_offsets(topic, ledger.progress(source.source_id)))
        deciders = Deciders(connection, policy)
        if not _take(connection, source, partitions, settings):
            report.ended = "a new epoch began while the run waited; the next run drains that"
            return report
        _Session(
            *(reader, connection, writer, deciders, ledger),
            *(run_id, partitions, bounds, report),
        ).run(settings, interrupts, log, progress)
    report.tell(log)
    return report


def _take(
    connection: psycopg.Connection[Any],
    source: Source,
    partitions: Sequence[int],
    settings: DrainSettings,
) -> bool:
    """Wait for the partitions and lock them; False when the source is not the newest any more."""
    wait_for_lane(connection, source.source_id, partitions, settings.session_seconds)
    return Sources(connection).newest(source.cluster_id, source.topic) == source


@contextmanager
def _logged(run_id: str, lane: int) -> Iterator[None]:
    """Every entry of the process's log in this block says which run it is of."""
    with bound_contextvars(run_id=run_id, lane=lane):
        try:
            yield
        except PlatformError as error:
            _log.error("session failed: %s", error)
            raise


def _drain_until_over(
    session: "_Session",
    settings: DrainSettings,
    log: logging.Logger,
    progress: Callable[[DrainReport], None],
) -> None:
    """Fetch, score and commit until there is a reason to end, which goes into the report.

    A session that stays when it is quiet ends as soon as another run, or a command, is in line for
    its lane; one that ends by itself, when its time is over.
    """
    report = session.report
    started = last_event = looked = told = time.monotonic()
    ends = _end_of_time(report.began, started, settings, session.bounds)
    told_batches = 0
    idle_seconds = math.inf if settings.idle_seconds is None else settings.idle_seconds
    gives_way = settings.idle_seconds is None and not session.bounds
    while not report.ended:
        quiet = last_event + idle_seconds - time.monotonic()
        patience = 0.0 if session.bounds else min(_LOOK_SECONDS, quiet)  # what came may be all
        try:
            scored = session.fetch_and_score(patience)
        except OffsetOutOfRangeError:
            log.warning("the broker no longer has the next offset; looking at what it has")
            _log.warning("offsets lost to retention", extra={"positions": session.positions})
            session.settle()
            session.seek()
            continue
        if not session.settle():
            log.warning("another run was here first; continuing from the committed offsets")
            session.seek()
            continue
        session.look_again(log)
        over = (now := time.monotonic()) >= ends
        is_awaited = False
        if over or (gives_way and now - looked >= _LOOK_SECONDS):
            looked = now
            is_awaited = session.is_awaited()
        if scored:
            session.commit_behind(*scored)
            last_event = time.monotonic()
        session.collect_garbage()
        session.take_up_new_partitions(settings.lanes, log)
        now = time.monotonic()
        report.seconds = now - started
        if report.batches > told_batches and now - told >= _PROGRESS_SECONDS:
            told, told_batches = now, report.batches
            progress(report)
        if session.bounds and session.reached_bounds():
            report.ended = "the bounds are reached"
        elif settings.session_seconds == 0:
            report.ended = "one batch a run (session_seconds is 0)"
        elif now - last_event >= idle_seconds and session.is_told():
            report.ended = f"no event for {idle_seconds:g} s"
        elif is_awaited:
            who = "the session is over; the next run" if over else "another run, or a command,"
            report.ended = f"{who} takes the lane"
        elif now >= ends + HANDOVER_SECONDS:
            report.ended = "the session is over"


def _end_of_time(
    began: float, started: float, settings: DrainSettings, bounds: Sequence[Bound]
) -> float:
    """When the time of a session is over that stood in line at `began` and has its lane since
    `started`. It counts from the first, as the sensor counts it, or the line would get longer with
    each handover; but one that waited for long has some seconds, and one with bounds its whole
    time."""
    seconds = settings.session_seconds
    return max((started if bounds else began) + seconds, started + min(seconds, HANDOVER_SECONDS))


@dataclass
class _Session:
    """The state of a session that holds its lane."""

    reader: Reader
    connection: psycopg.Connection[Any]
    writer: ThreadPoolExecutor
    deciders: Deciders
    ledger: Ledger
    run_id: str
    partitions: Sequence[int]
    bounds: Sequence[Bound]
    report: DrainReport
    positions: dict[int, int] = field(default_factory=dict)
    left_alone: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)
    last_commit_seconds: float | None = None
    in_flight: tuple[Future[Committed], Fetch, StageSeconds] | None = None
    collected: float = 0.0

    def __post_init__(self) -> None:
        self.deciders.look_again()  # the run may have waited for long
        self.report.policy = self.deciders.policy.version
        self._report_deciders()

    def run(
        self,
        settings: DrainSettings,
        interrupts: tuple[type[BaseException], ...],
        log: logging.Logger,
        progress: Callable[[DrainReport], None],
    ) -> None:
        """Drain until there is a reason to end, which goes into the report."""
        source = self.report.source
        started = {"source_id": source.source_id, "topic": source.topic}
        started |= {"partitions": self.partitions, "policy": self.deciders.policy.version}
        _log.info("session started", extra=started)
        log.info("draining %s, partitions %s", source.topic, self.partitions)
        self.seek()
        try:
            _drain_until_over(self, settings, log, progress)
        except interrupts:
            self.report.ended = "the run was asked to stop"
        self.settle()
        _log.info("session ended", extra=self.report.fields())

    def seek(self) -> None:
        """Read on from the committed offsets."""
        committed = None
        while committed is None:
            committed = self._committed()
        check_bounds(self.bounds, committed)
        self.positions = committed
        self.reader.seek(committed, {b.partition: b.until_offset for b in self.bounds})

    def look_again(self, log: logging.Logger) -> None:
        """Let what was activated meanwhile decide from the next batch on. Nothing may be in flight:
        it asks over the same connection."""
        before = self.deciders.policy
        if not self.deciders.look_again():
            return
        policy = self.deciders.policy.version
        if policy != before.version:
            self.report.policy += f", {policy}"
        self._report_deciders()
        log.info("from now on %s", self.deciders.words)

    def _report_deciders(self) -> None:
        report, deciders = self.report, self.deciders
        report.policy_note = deciders.note
        report.model = deciders.model.version if deciders.model else None
        report.model_error = deciders.model_error
        report.experiments = deciders.experiments.words

    def take_up_new_partitions(self, lanes: int, log: logging.Logger) -> None:
        """Go on with the partitions that the lane got since the session began."""
        known = {*self.partitions, *self.left_alone}
        new = [
            partition
            for partition in self.reader.partitions
            if partition not in known and lane_of(partition, lanes) == self.report.lane
        ]
        if self.bounds or not new:
            return
        self.settle()
        try:
            lock_partitions(self.connection, self.report.source.source_id, new, _NEW_LOCK_SECONDS)
        except LaneBusy as error:
            self.left_alone |= set(new)
            log.warning("new partitions %s are left alone: %s", new, error)
            return
        log.info("the topic has new partitions; this run takes up %s", new)
        self.partitions = sorted([*self.partitions, *new])
        self.seek()

    def _beginnings(self) -> dict[int, int]:
        """The first offset of each partition; a broker may hear of a new one later than another."""
        deadline = time.monotonic() + _NEWS_SECONDS
        while True:
            topic = self.reader.inspect({})
            missing = [p for p in self.partitions if p not in topic.offsets]
            if not missing:
                return {p: topic.offsets[p][0] for p in self.partitions}
            if time.monotonic() > deadline:
                raise TopicReplaced(shrunk(topic.topic, missing))
            time.sleep(0.1)

    def _committed(self) -> dict[int, int] | None:
        """The next offset of each partition, after recording what the broker no longer has; None
        when another run was first, and everything is to be looked at again."""
        source_id = self.report.source.source_id
        known = {p.partition: p.next_offset for p in self.ledger.progress(source_id)}
        if known.keys() >= set(self.partitions):  # as a successor finds it, whom events wait for
            committed = {partition: known[partition] for partition in self.partitions}
        else:
            committed = self.ledger.start_partitions(source_id, self._beginnings())
        topic = self.reader.inspect(committed)
        while not topic.offsets.keys() >= committed.keys():
            self._beginnings()  # says so, unless the broker hears of them late
            topic = self.reader.inspect(committed)
        lost = []
        for partition, position in committed.items():
            beginning = topic.offsets[partition][0]
            if beginning > position:
                lost.append(OffsetRange(partition, position, beginning))
                committed[partition] = beginning
        if lost:
            try:
                self.ledger.record_lost(
                    self.report.source.source_id,
                    *(self.deciders.policy_id, self.run_id, self.report.lane, lost),
                )
            except OffsetsMoved:
                _log.warning("lost events not recorded, another run was first")
                return None
            self.report.lost += sum(map(len, lost))
            for gone in lost:
                _log.warning("events lost", extra=vars(gone) | {"events": len(gone)})
        return committed

    def fetch_and_score(self, patience: float) -> tuple[Fetch, Decided, StageSeconds] | None:
        """The next batch, and what is decided of it; None when no event came for so long."""
        fetch, decided = self.reader.fetch_and(self._decide, patience)
        self.told |= fetch.ends.keys()
        if decided is None:
            return None
        self.report.clock = self.reader.clock
        found, seconds = decided
        self.report.model_error = found.assessment.model_error or self.report.model_error
        self.report.add_problems([found.problem] if found.problem else [])
        return fetch, found, seconds

    def is_told(self) -> bool:
        """Whether the broker has said of each partition where it ends, at least once: until then it
        is slow, and not known to be quiet."""
        return bool(self.bounds) or self.told >= self.positions.keys()

    def _decide(self, fetch: Fetch) -> tuple[Decided, StageSeconds] | None:
        if not fetch.ranges:
            return None
        clock = time.perf_counter()
        events = decode(fetch.values, fetch.keys)
        decoded = time.perf_counter()
        found = self.deciders.decide(events)
        return found, StageSeconds(
            fetch.seconds,
            decoded - clock,
            time.perf_counter() - decoded,
            self.last_commit_seconds,
        )

    def commit_behind(self, fetch: Fetch, found: Decided, seconds: StageSeconds) -> None:
        """Start to commit a batch. Postgres works on it while the next one is fetched and scored,
        which needs Python's lock; waiting for Postgres does not."""
        commit = partial(
            self.ledger.commit,
            *(self.report.source.source_id, found.policy_id, self.run_id, self.report.lane),
            *(fetch, found.assessment, seconds, found.opinions),
        )
        self.in_flight = (self.writer.submit(commit), fetch, seconds)

    def settle(self) -> bool:
        """Wait for the batch that is being committed; False when another run had moved the offsets,
        and so nothing of it was written."""
        if self.in_flight is None:
            return True
        pending, fetch, seconds = self.in_flight
        began = time.monotonic()
        wait([pending])  # an interrupt here leaves it in flight, for a later call
        self.in_flight = None
        self.reader.collect_for(time.monotonic() - began)
        try:
            committed = pending.result()
        except OffsetsMoved:
            _log.warning("batch not committed, another run was first", extra=_offsets(fetch))
            return False
        self.last_commit_seconds = committed.commit_seconds
        self.positions |= {r.partition: r.next for r in fetch.ranges}
        self._add(fetch, committed)
        busy = (
            *(seconds.fetch, seconds.decode, seconds.score),
            *(committed.write_seconds, committed.commit_seconds),
        )
        for stage, spent in zip(STAGES, busy, strict=True):
            self.report.busy_seconds[stage] += spent
        return True

    def collect_garbage(self) -> None:
        """Free what is in cycles, which is little, and takes milliseconds: Postgres works now."""
        now = time.monotonic()
        if now - self.collected >= _GARBAGE_SECONDS:
            gc.collect()
            self.collected = now

    def reached_bounds(self) -> bool:
        return all(self.positions[bound.partition] >= bound.until_offset for bound in self.bounds)

    def is_awaited(self) -> bool:
        return is_awaited(self.connection, self.report.source.source_id, self.partitions)

    def _add(self, fetch: Fetch, committed: Committed) -> None:
        report, assessment = self.report, committed.assessment
        report.batches += 1
        first = report.batch_ids[0] if report.batch_ids else committed.batch_id
        report.batch_ids = (first, committed.batch_id)
        report.gaps += sum(map(len, fetch.gaps))
        report.value_bytes += fetch.value_bytes
        report.add_problems(committed.shadow_errors)
        report.tiers.update(assessment.tier_counts())
        report.reasons.update(assessment.reason_counts())
        report.ranges |= {
            r.partition: (report.ranges.get(r.partition, (r.first, r.next))[0], r.next)
            for r in fetch.ranges
        }
        report.latency_buckets = [
            total + new
            for total, new in zip(report.latency_buckets, committed.latency_buckets, strict=True)
        ]
        # At 25 a second it would fill disks, and the ledger has it anyway.
        _log.debug(
            "batch committed",
            extra={
                "batch_id": committed.batch_id,
                **_offsets(fetch),
                "scored": len(assessment.scored_at),
                "rejected": len(assessment.rejected_at),
            },
        )


def _offsets(fetch: Fetch) -> dict[str, Any]:
    return {"offsets": {r.partition: (r.first, r.next) for r in fetch.ranges}}
