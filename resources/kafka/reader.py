"""Reading bounded batches of a topic from exact offsets.

Progress is not kept here: no consumer group, no committed offsets. Those are in
`resources.postgres.micro_batch`.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import LogTruncationError

from credit_risk_dagster.domain.record_time import CLOCKS, NO_TIME, UNKNOWN_CLOCK, record_times
from credit_risk_dagster.domain.repeats import Marks, marks
from credit_risk_dagster.settings import DrainSettings
from resources.kafka.client import ConsumerRecord, answer_within, poll
from resources.kafka.errors import TopicMissing, TopicReplaced, UnreadableBatch, changed, diverged
from resources.kafka.watch import Identity, TopicState

# How long a broker may keep a question that it has no event for: three tenths of the time in which
# none came, within these bounds. Kafka answers when one comes; Tansu looks again after half of the
# time, and so is asked often while events come.
_WAIT_MS, _QUIET_WAIT_MS = 20, 300
_OF_THE_QUIET_MS = 300  # for a second

# For so many seconds at most a batch is collected while the one before it is taken.
_MOST_COLLECTED = 0.1

Worked = TypeVar("Worked")


@dataclass(frozen=True)
class OffsetRange:
    """Offsets first <= offset < next of one partition."""

    partition: int
    first: int
    next: int

    def __len__(self) -> int:
        return self.next - self.first


@dataclass(frozen=True)
class Fetch:
    """A batch of records: everything that the broker had in some offset ranges.

    Attributes:
        ranges: one for each partition that moved, by partition.
        gaps: ranges within them that hold no record (compaction, transaction markers, aborted
            transactions).
        partitions, offsets, timestamps: int32, int64 and int64 (milliseconds since the epoch, or
            `NO_TIME` where the record has none that can be true) arrays of shape (n,).
        keys, values: n raw byte strings or None.
        value_bytes: size of the values together.
        ends: partition to where it ended when that was fetched, as far as the broker told.
        seconds: processor time of receiving, which leaves out the waiting for events.
        rest: what else the records have, where that was asked for.
        marks: by which a repeated record is known, see `domain.repeats`; None when none has one.
    """

    ranges: list[OffsetRange] = field(default_factory=list)
    gaps: list[OffsetRange] = field(default_factory=list)
    partitions: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    offsets: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    timestamps: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    value_bytes: int = 0
    ends: Mapping[int, int] = field(default_factory=dict)
    rest: "Rest | None" = None
    marks: Marks | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Rest:
    """What records have that is not scored: their time as it was written, whose clock that is (0
    the producer's, 1 the broker's, 2 unknown), and their headers."""

    written: npt.NDArray[np.int64]
    clocks: npt.NDArray[np.int64]
    headers: list[Any]

    @classmethod
    def of(cls, records: list[ConsumerRecord]) -> "Rest":
        """Of columns of records, partition after partition."""
        written = [at for r in records for at in r.timestamp]
        try:
            times = np.array(written, np.int64)
        except (OverflowError, TypeError):  # a sum beyond 64 bits; none in the oldest format
            times = np.array(
                [at if at and abs(at) < 2**63 else NO_TIME for at in written], np.int64
            )
        clocks = [t if t in CLOCKS else len(CLOCKS) for r in records for t in r.timestamp_type]
        headers = [headers or None for r in records for headers in r.headers]
        return cls(times, np.array(clocks, np.int64), headers)


class Reader:
    """Reads the assigned partitions in order, in batches of bounded size. Not thread-safe.

    Attributes:
        partitions: those that the topic had when it was last asked: at each fetch.
    """

    def __init__(
        self,
        topic: str,
        consumer: KafkaConsumer,
        identity: Identity,
        limits: DrainSettings,
        inspect: Callable[[Mapping[int, int]], TopicState],
        *,
        of: TopicState | None = None,
        whole: bool = False,
    ) -> None:
        self._whole = whole
        self._topic = topic
        self._consumer = consumer
        self._identity = identity
        cluster_id, topic_id, self.partitions = identity.ask()
        self._bound_to = (of.cluster_id, of.topic_id) if of else (cluster_id, topic_id)
        self._require_bound(cluster_id, topic_id)
        self._limits = limits
        self._inspect = inspect
        self._until: Mapping[int, int] = {}
        self.clock = UNKNOWN_CLOCK  # whose the newest record's time is of
        self._next_fetch = self._last_record = self._collect = 0.0

    def inspect(self, committed: Mapping[int, int]) -> TopicState:
        """As `Broker.inspect`, of the topic that the reader is bound to: what is recorded of its
        offsets is recorded of no other.

        Raises:
            TopicReplaced: it is another one now, or ends before a committed offset.
        """
        state = self._inspect(committed)
        self._require_bound(state.cluster_id, state.topic_id)
        return state

    def seek(self, positions: Mapping[int, int], until: Mapping[int, int] | None = None) -> None:
        """Read from these offsets (partition to offset), up to and without those in `until`."""
        tps = {TopicPartition(self._topic, partition): at for partition, at in positions.items()}
        self._until = until or {}
        self._consumer.assign(list(tps))
        self._consumer.resume(*tps)  # the client keeps a partition paused that is assigned again
        for tp, at in tps.items():
            self._consumer.seek(tp, at)
            self._stop_at_bound(tp, at)

    def collect_for(self, waited: float) -> None:
        """Whoever takes the batches had to be waited for, for so many seconds: collect longer from
        now on, and so larger batches, until that is as slow. It settles where little is waited."""
        self._collect = min(0.9 * self._collect + 0.5 * waited, _MOST_COLLECTED)

    def fetch(self, patience: float | None = None) -> Fetch:
        """As `fetch_and`, and nothing is done with it yet."""
        return self.fetch_and(lambda _: None, patience)[0]

    def fetch_and(
        self, work: Callable[[Fetch], Worked], patience: float | None = None
    ) -> tuple[Fetch, Worked]:
        """What arrived since the fetch before, at most a full batch, and empty when nothing did;
        and what the work made of it, while the broker was asked who it is. So work may not let
        anything of it out.

        Fetches with records are a poll interval apart at least, and the first record after a quiet
        time is returned at once.

        Args:
            work: what to do meanwhile.
            patience: seconds to wait for a record; one poll interval by default, which is the
                least.

        Raises:
            TopicReplaced: the records are not from the topic that the reader was opened on, or the
                topic ends before the position, or lost what was read of it.
            TopicMissing: the topic was deleted.
            UnreadableBatch: a batch that this process cannot take apart.
            kafka.errors.OffsetOutOfRangeError: the broker no longer has the position (retention).
        """
        try:
            return self._fetch_and(work, patience or 0.0)
        except LogTruncationError as error:
            # Of a topic that was created again, the client may say that first.
            self._check_identity(self._identity.asking(), {}, {})
            raise TopicReplaced(diverged(self._topic, error)) from error

    def _fetch_and(self, work: Callable[[Fetch], Worked], patience: float) -> tuple[Fetch, Worked]:
        before = {tp: self._consumer.position(tp) for tp in self._consumer.assignment()}
        busy = time.thread_time()
        columns = self._poll(patience)
        after = {tp: self._consumer.position(tp) for tp in before}
        told = {tp: self._consumer.highwater(tp) for tp in after}
        answer = self._identity.asking()
        fetched = self._to_fetch(columns, before, after)
        ends = {tp.partition: max(end, after[tp]) for tp, end in told.items() if end is not None}
        fetched = replace(fetched, ends=ends, seconds=time.thread_time() - busy)
        worked = work(fetched)
        self._check_identity(answer, after, told)
        return fetched, worked

    def _poll(self, patience: float) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Records of each partition, as a `ConsumerRecord` of columns for each answer."""
        limits = self._limits
        interval = limits.poll_interval_ms / 1000
        started = time.monotonic()
        deadline = max(self._next_fetch, started + self._collect)
        columns: dict[TopicPartition, list[ConsumerRecord]] = {}
        count = size = 0
        while count < limits.max_batch_events and size < limits.max_batch_bytes:
            # Until something is here, wait for it; then only to the deadline, and after that take
            # what has already arrived.
            until = deadline if count else max(deadline, started + max(interval, patience))
            now = time.monotonic()
            left = round(1000 * max(0.0, until - now))
            quiet = round(_OF_THE_QUIET_MS * (now - self._last_record))
            answer_within(self._consumer, question := min(max(quiet, _WAIT_MS), _QUIET_WAIT_MS))
            try:
                polled = poll(
                    self._consumer,
                    # Until the question is the longest: each call wakes the client's thread.
                    timeout_ms=left if question == _QUIET_WAIT_MS else min(left, question),
                    max_records=limits.max_batch_events - count,
                )
            except UnreadableBatch:
                if not count:
                    raise
                break  # what came before it is whole; the next call says what is wrong
            if not polled:
                if time.monotonic() >= until:
                    break
                continue
            for tp, records in polled.items():
                # A record is a tuple: one zip takes all the columns apart.
                some = ConsumerRecord(*zip(*records, strict=True))
                columns.setdefault(tp, []).append(some)
                count += len(records)
                sizes = some.serialized_key_size, some.serialized_value_size
                size += sum(map(sum, (*sizes, some.serialized_header_size)))
        now = time.monotonic()
        self._next_fetch = now + interval
        if count:
            self._last_record = now
        return columns

    def _check_identity(
        self,
        answer: Callable[[], tuple[str, str | None, list[int]]],
        positions: Mapping[TopicPartition, int],
        told: Mapping[TopicPartition, int | None],
    ) -> None:
        """Fence: what was fetched belongs to the source only if the broker is still the same.

        A client reconnects silently, also to another cluster behind the same address. Asked after
        the fetch and before anything of it is committed, so nothing foreign gets through.
        """
        try:
            cluster_id, topic_id, self.partitions = answer()
        except TopicMissing as error:
            raise TopicMissing(
                f"topic {self._topic} was deleted while it was read. What is committed stays; when "
                "it was created again on purpose, `credit-risk topic new-epoch` starts over"
            ) from error
        self._require_bound(cluster_id, topic_id)
        # The high watermark that came with records may lie before them: it is a reason to ask, over
        # other connections, which know nothing of it, and no more.
        suspect = {
            tp.partition: position
            for tp, position in positions.items()
            if (end := told[tp]) is not None and end < position
        }
        if suspect:
            self.inspect(suspect)

    def _require_bound(self, cluster_id: str, topic_id: str | None) -> None:
        if (cluster_id, topic_id) != self._bound_to:
            raise TopicReplaced(changed(self._topic, self._bound_to, (cluster_id, topic_id)))

    def _to_fetch(
        self,
        columns: Mapping[TopicPartition, list[ConsumerRecord]],
        before: Mapping[TopicPartition, int],
        after: Mapping[TopicPartition, int],
    ) -> Fetch:
        ranges: list[OffsetRange] = []
        gaps: list[OffsetRange] = []
        parts: list[tuple[int, npt.NDArray[np.int64], ConsumerRecord]] = []
        for tp in sorted(before):
            first, end = before[tp], after[tp]
            bound = self._until.get(tp.partition)
            records = columns.get(tp, [])
            if bound is not None and end > bound:
                records = [found for some in records if (found := _before(some, bound)).offset]
                end = max(first, bound)
                self._consumer.seek(tp, end)
            if bound is not None:
                self._stop_at_bound(tp, end)
            if end == first:
                continue
            ranges.append(OffsetRange(tp.partition, first, end))
            offsets = [np.array(some.offset, np.int64) for some in records]
            parts += [(tp.partition, at, some) for at, some in zip(offsets, records, strict=True)]
            if records:
                self.clock = CLOCKS.get(records[-1].timestamp_type[-1], UNKNOWN_CLOCK)
            every = np.concatenate([np.empty(0, np.int64), *offsets])
            gaps.extend(offsets_missing(tp.partition, first, end, every))
        if not parts:
            return Fetch(ranges=ranges, gaps=gaps)
        keys = [key for _, _, r in parts for key in r.key]
        values = [value for _, _, r in parts for value in r.value]
        headers = [headers for _, _, r in parts for headers in r.headers]
        return Fetch(
            ranges=ranges,
            gaps=gaps,
            partitions=np.concatenate([np.full(len(at), p, np.int32) for p, at, _ in parts]),
            offsets=np.concatenate([at for _, at, _ in parts]),
            timestamps=np.concatenate([record_times(r.timestamp) for _, _, r in parts]),
            keys=keys,
            values=values,
            value_bytes=sum(max(n, 0) for _, _, r in parts for n in r.serialized_value_size),
            rest=Rest.of([r for _, _, r in parts]) if self._whole else None,
            marks=None if self._whole else marks(self._limits.deduplicate, keys, values, headers),
        )

    def _stop_at_bound(self, tp: TopicPartition, position: int) -> None:
        if position >= self._until.get(tp.partition, position + 1):
            self._consumer.pause(tp)


def _before(records: ConsumerRecord, bound: int) -> ConsumerRecord:
    """Columns of the records before an offset."""
    return ConsumerRecord(*(column[: bisect_left(records.offset, bound)] for column in records))


def offsets_missing(
    partition: int, first: int, end: int, offsets: npt.NDArray[np.int64]
) -> Iterator[OffsetRange]:
    """The ranges of first..end that are not among the (ascending) offsets."""
    if len(offsets) == end - first:
        return
    edges = np.concatenate(([first - 1], offsets, [end]))
    for at in np.flatnonzero(np.diff(edges) > 1):
        yield OffsetRange(partition, int(edges[at]) + 1, int(edges[at + 1]))
