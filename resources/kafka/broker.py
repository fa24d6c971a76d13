"""The broker: what a topic holds, and reading bounded batches of it from exact offsets.

Progress is not kept here: no consumer group, no committed offsets. See `resources.postgres.ledger`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DrainSettings, KafkaSettings

# What goes wrong arrives as an exception; the client also logs it, with each of its attempts.
logging.getLogger("kafka").setLevel(logging.CRITICAL)

# A batch is closed after `max_batch_bytes`; one fetch response more may be in memory beside it.
_PARTITION_FETCH_BYTES = 4 * 2**20
# A watch looks at single records, and does not wait for those to come.
_WATCH = {"fetch_max_wait_ms": 1, "fetch_max_bytes": 2**16, "max_partition_fetch_bytes": 2**14}


class BrokerUnavailable(PlatformError):
    """The broker does not answer, or refuses the client."""

    def __init__(self, bootstrap_servers: str, cause: BaseException) -> None:
        reason = " ".join(str(cause).split()) or type(cause).__name__
        super().__init__(f"Kafka broker at {bootstrap_servers} does not answer: {reason}")


class TopicMissing(PlatformError):
    """The topic does not exist."""


class TopicReplaced(PlatformError):
    """The topic is not the one whose offsets were committed: recreated, truncated, or elsewhere."""


@dataclass(frozen=True)
class TopicState:
    """A topic as the broker has it now.

    Attributes:
        topic_id: changes when a topic is deleted and created again; None from brokers before 2.8.
        offsets: partition to (first offset that the broker still has, high watermark).
    """

    cluster_id: str
    topic: str
    topic_id: str | None
    offsets: Mapping[int, tuple[int, int]]


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
        partitions, offsets, timestamps: int32, int64 and int64 (broker's milliseconds since the
            epoch) arrays of shape (n,).
        keys, values: n raw byte strings or None.
        value_bytes: size of the values together.
        seconds: processor time of receiving, which leaves out the waiting for events.
    """

    ranges: list[OffsetRange] = field(default_factory=list)
    gaps: list[OffsetRange] = field(default_factory=list)
    partitions: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    offsets: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    timestamps: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    value_bytes: int = 0
    seconds: float = 0.0


Client = TypeVar("Client", KafkaAdminClient, KafkaConsumer, KafkaProducer)


@contextmanager
def open_client(kind: type[Client], settings: KafkaSettings, **options: Any) -> Iterator[Client]:
    """A client of kafka-python with the settings' options, closed at the end.

    A client that cannot reach its broker raises in its constructor and leaves its network thread
    and sockets behind; the sensor makes one every few seconds. So the network is held here.
    A server that hangs keeps it waiting for ever in a TLS handshake, which no timeout of the
    client covers.
    """
    networks: list[KafkaNetClient] = []
    gave_up = threading.Event()

    def make_network(**configs: Any) -> KafkaNetClient:
        networks.append(KafkaNetClient(**configs))
        return networks[-1]

    def give_up() -> None:
        gave_up.set()
        for network in networks:
            network._net.stop()

    patience = threading.Timer(2 * settings.timeout_ms / 1000, give_up)
    patience.start()
    try:
        client = kind(**settings.client_options(), **options, kafka_client=make_network)
    except BaseException as error:
        for network in networks:
            network._net.stop()
            network.close()
        if gave_up.is_set():
            raise KafkaTimeoutError(f"no answer within {patience.interval:g} s") from error
        raise
    finally:
        patience.cancel()
    try:
        yield client
    finally:
        client.close()


class Broker:
    """A topic of a Kafka-API broker."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.topic = settings.topic

    def inspect(self) -> TopicState:
        """Ask for the topic's identity and offsets.

        Raises:
            BrokerUnavailable: no answer within the configured time, or access is refused.
            TopicMissing: the topic does not exist.
        """
        with self.watch() as watch:
            return watch.state()

    @contextmanager
    def watch(self) -> Iterator["Watch"]:
        """Keep connections for asking for the topic's state again and again."""
        with self.errors(), self.identity() as identity, self._consumer(**_WATCH) as consumer:
            yield Watch(self.topic, consumer, identity, self._settings.timeout_ms)

    @contextmanager
    def reader(self, limits: DrainSettings) -> Iterator["Reader"]:
        """Open a reader; it is bound to the topic that it first sees."""
        with (
            self.errors(),
            self.identity() as identity,
            self._consumer(
                fetch_max_bytes=limits.max_batch_bytes,
                max_partition_fetch_bytes=min(limits.max_batch_bytes, _PARTITION_FETCH_BYTES),
            ) as consumer,
        ):
            yield Reader(self.topic, consumer, identity, limits)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the client's errors into BrokerUnavailable."""
        try:
            yield
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(self._settings.bootstrap_servers, error) from error

    @contextmanager
    def identity(self) -> Iterator["Identity"]:
        """A connection for asking who the broker is."""
        timeout_ms = self._settings.timeout_ms
        with open_client(KafkaAdminClient, self._settings, request_timeout_ms=timeout_ms) as admin:
            yield Identity(self.topic, admin)

    @contextmanager
    def _consumer(self, **options: Any) -> Iterator[KafkaConsumer]:
        with open_client(
            KafkaConsumer,
            self._settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",  # an aborted transaction's events never happened
            metrics_enabled=False,
            **{"fetch_max_wait_ms": 100, **options},
        ) as consumer:
            yield consumer


class Identity:
    """Who the broker says it is; one or two milliseconds a question."""

    def __init__(self, topic: str, admin: KafkaAdminClient) -> None:
        self._topic = topic
        self._admin = admin

    def ask(self) -> tuple[str, str | None, list[int]]:
        """Cluster id, topic id and partitions. Raises TopicMissing."""
        cluster_id = self._admin.describe_cluster()["cluster_id"]
        (described,) = self._admin.describe_topics([self._topic])
        if described["error_code"]:
            raise TopicMissing(
                f"topic {self._topic} does not exist on cluster {cluster_id}: "
                "`credit-risk produce` or `credit-risk topic reset` creates it"
            )
        partitions = sorted(p["partition_index"] for p in described["partitions"])
        topic_id = str(described["topic_id"] or "") or None
        return cluster_id, topic_id, partitions


class Watch:
    """Looks at a topic from outside, over connections that stay. Not thread-safe."""

    def __init__(
        self, topic: str, consumer: KafkaConsumer, identity: Identity, timeout_ms: int
    ) -> None:
        self._topic = topic
        self._consumer = consumer
        self._identity = identity
        self._timeout_ms = timeout_ms

    def state(self) -> TopicState:
        """The topic's identity and offsets now. Raises TopicMissing."""
        cluster_id, topic_id, partitions = self._identity.ask()
        consumer, timeout_ms = self._consumer, self._timeout_ms
        tps = [TopicPartition(self._topic, partition) for partition in partitions]
        beginnings = consumer.beginning_offsets(tps, timeout_ms=timeout_ms)
        latest = consumer.end_offsets(tps, timeout_ms=timeout_ms)
        # Not every broker's ListOffsets counts the records inside its last batch (Tansu's does
        # not). The high watermark of a fetch does, everywhere; it starts where that left off.
        self._seek({tp: latest[tp] for tp in tps})
        self._poll_until(
            lambda: all(consumer.highwater(tp) is not None for tp in tps), "no high watermark"
        )
        offsets = {
            tp.partition: (beginnings[tp], max(latest[tp], consumer.highwater(tp))) for tp in tps
        }
        return TopicState(cluster_id, self._topic, topic_id, offsets)

    def timestamps(self, positions: Mapping[int, int]) -> dict[int, float]:
        """Unix time of the first record at or after each position (partition to offset), where
        there is one."""
        waited = {TopicPartition(self._topic, p): at for p, at in positions.items()}
        found: dict[int, float] = {}
        self._seek(waited)

        def look(polled: Mapping[TopicPartition, list[ConsumerRecord]]) -> None:
            for tp, records in polled.items():
                found.setdefault(tp.partition, records[0].timestamp / 1000)
                self._consumer.pause(tp)

        def at_end(tp: TopicPartition) -> bool:
            end = self._consumer.highwater(tp)
            return end is not None and self._consumer.position(tp) >= end

        self._poll_until(
            lambda: all(tp.partition in found or at_end(tp) for tp in waited), "no record", look
        )
        return found

    def _seek(self, positions: Mapping[TopicPartition, int]) -> None:
        # A partition that stays assigned keeps the high watermark and the buffer of the last time.
        self._consumer.assign([])
        self._consumer.assign(list(positions))
        self._consumer.resume(*positions)
        for tp, at in positions.items():
            self._consumer.seek(tp, at)

    def _poll_until(
        self,
        done: Callable[[], bool],
        otherwise: str,
        look: Callable[[Mapping[TopicPartition, list[ConsumerRecord]]], None] = lambda _: None,
    ) -> None:
        deadline = time.monotonic() + self._timeout_ms / 1000
        while not done():
            if time.monotonic() > deadline:
                raise KafkaError(f"{otherwise} of {self._topic} within {self._timeout_ms} ms")
            look(self._consumer.poll(timeout_ms=20))


class Reader:
    """Reads the assigned partitions in order, in batches of bounded size. Not thread-safe."""

    def __init__(
        self, topic: str, consumer: KafkaConsumer, identity: Identity, limits: DrainSettings
    ) -> None:
        self._topic = topic
        self._consumer = consumer
        self._identity = identity
        self._bound_to = identity.ask()[:2]
        self._limits = limits
        self._until: Mapping[int, int] = {}
        self._next_fetch = 0.0

    def seek(self, positions: Mapping[int, int], until: Mapping[int, int] | None = None) -> None:
        """Read from these offsets (partition to offset), up to and without those in `until`."""
        tps = {TopicPartition(self._topic, partition): at for partition, at in positions.items()}
        self._until = until or {}
        self._consumer.assign(list(tps))
        self._consumer.resume(*tps)  # the client keeps a partition paused that is assigned again
        for tp, at in tps.items():
            self._consumer.seek(tp, at)
            self._stop_at_bound(tp, at)

    def fetch(self) -> Fetch:
        """Collect records for one poll interval, or until a batch is full; empty when idle.

        The first record after a quiet interval is returned at once.

        Raises:
            TopicReplaced: the records are not from the topic that the reader was opened on, or the
                topic ends before the position.
            kafka.errors.OffsetOutOfRangeError: the broker no longer has the position (retention).
        """
        limits = self._limits
        interval = limits.poll_interval_ms / 1000
        started = time.monotonic()
        deadline = max(self._next_fetch, started)
        columns: dict[TopicPartition, list[Any]] = {}
        before = {tp: self._consumer.position(tp) for tp in self._consumer.assignment()}
        count = size = 0
        busy = time.thread_time()
        while count < limits.max_batch_events and size < limits.max_batch_bytes:
            # Until something is here, wait a whole interval for it; then only to the deadline, and
            # after that take what has already arrived.
            until = deadline if count else max(deadline, started + interval)
            wait = max(0.0, until - time.monotonic())
            polled = self._consumer.poll(
                timeout_ms=round(wait * 1000), max_records=limits.max_batch_events - count
            )
            if not polled:
                if time.monotonic() >= until:
                    break
                continue
            for tp, records in polled.items():
                columns.setdefault(tp, []).extend(records)
                count += len(records)
                size += sum(record.serialized_value_size for record in records)
        self._next_fetch = time.monotonic() + interval
        after = {tp: self._consumer.position(tp) for tp in before}
        self._check_identity(after)
        fetched = self._to_fetch(columns, before, after)
        return replace(fetched, seconds=time.thread_time() - busy)

    def _check_identity(self, positions: Mapping[TopicPartition, int]) -> None:
        """Fence: what was fetched belongs to the source only if the broker is still the same.

        A client reconnects silently, also to another cluster behind the same address. Asked after
        the fetch and before anything of it is committed, so nothing foreign gets through.
        """
        cluster_id, topic_id, _ = self._identity.ask()
        if (cluster_id, topic_id) != self._bound_to:
            raise TopicReplaced(
                f"topic {self._topic} changed under the run: cluster {self._bound_to[0]} topic id "
                f"{self._bound_to[1]} is now cluster {cluster_id} topic id {topic_id}"
            )
        for tp, position in positions.items():
            end = self._consumer.highwater(tp)
            if end is not None and end < position:
                raise TopicReplaced(truncated(self._topic, tp.partition, position, end))

    def _to_fetch(
        self,
        columns: Mapping[TopicPartition, list[Any]],
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
                records = [record for record in records if record.offset < bound]
                end = max(first, bound)
                self._consumer.seek(tp, end)
            if bound is not None:
                self._stop_at_bound(tp, end)
            if end == first:
                continue
            ranges.append(OffsetRange(tp.partition, first, end))
            offsets = np.empty(0, np.int64)
            if records:
                # A record is a tuple: one zip takes all the columns apart.
                record = ConsumerRecord(*zip(*records, strict=True))
                offsets = np.array(record.offset, np.int64)
                parts.append((tp.partition, offsets, record))
            gaps.extend(offsets_missing(tp.partition, first, end, offsets))
        if not parts:
            return Fetch(ranges=ranges, gaps=gaps)
        return Fetch(
            ranges=ranges,
            gaps=gaps,
            partitions=np.concatenate([np.full(len(at), p, np.int32) for p, at, _ in parts]),
            offsets=np.concatenate([at for _, at, _ in parts]),
            timestamps=np.concatenate([np.array(r.timestamp, np.int64) for _, _, r in parts]),
            keys=[key for _, _, r in parts for key in r.key],
            values=[value for _, _, r in parts for value in r.value],
            value_bytes=sum(max(n, 0) for _, _, r in parts for n in r.serialized_value_size),
        )

    def _stop_at_bound(self, tp: TopicPartition, position: int) -> None:
        if position >= self._until.get(tp.partition, position + 1):
            self._consumer.pause(tp)


def truncated(topic: str, partition: int, committed: int, end: int) -> str:
    """The message for a topic that ends before what was committed of it."""
    return (
        f"topic {topic} partition {partition} ends at offset {end}, before the committed offset "
        f"{committed}: it was recreated or truncated. Nothing was skipped. When that is intended, "
        "`credit-risk topic new-epoch` starts over with the topic as it is now"
    )


def offsets_missing(
    partition: int, first: int, end: int, offsets: npt.NDArray[np.int64]
) -> Iterator[OffsetRange]:
    """The ranges of first..end that are not among the (ascending) offsets."""
    if len(offsets) == end - first:
        return
    edges = np.concatenate(([first - 1], offsets, [end]))
    for at in np.flatnonzero(np.diff(edges) > 1):
        yield OffsetRange(partition, int(edges[at]) + 1, int(edges[at + 1]))
