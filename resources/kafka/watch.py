"""Looking at a topic from outside: who it is, and which offsets it has."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import PartitionProducerState
from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    NoError,
    UnknownTopicOrPartitionError,
    for_code,
)

from credit_risk_dagster.domain.record_time import CLOCKS, UNKNOWN_CLOCK, record_times
from credit_risk_dagster.domain.words import counted
from resources.kafka.client import (
    ConsumerRecord,
    answer_within,
    ask_for,
    last_stable_offsets,
    poll,
)
from resources.kafka.errors import (
    TopicMissing,
    TopicReplaced,
    UnreadableBatch,
    changed,
    shrunk,
    truncated,
)

_NOTHING: Mapping[int, int] = {}
# A topic that ends too early is believed when it says so for this long.
_SUSPICION_SECONDS = 2.0
_NEWEST = 10  # records of a partition, among which one is that can be read
_ASKED_AGAIN_SECONDS = 0.1
# How long the broker may keep a question: at first not at all, as what is looked for is there. But
# Tansu answers without what it takes longer to find, and that takes longer the more batches it has.
_POLL_MS, _MOST_WAIT_MS = 20, 500


@dataclass(frozen=True)
class TopicState:
    """A topic as the broker has it now.

    Attributes:
        topic_id: changes when a topic is deleted and created again; None from brokers before 2.8.
        offsets: partition to (first offset that the broker still has, the one after the last that
            can be read).
        open_transactions: of the partitions that hold more than can be read.
    """

    cluster_id: str
    topic: str
    topic_id: str | None
    offsets: Mapping[int, tuple[int, int]]
    open_transactions: Mapping[int, "OpenTransaction"] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Which topic it is, whatever it holds."""
        return f"{self.cluster_id} {self.topic} {self.topic_id}"

    def end(self, partition: int) -> int:
        """The offset that the partition's next record will have (its high watermark); 0 without
        such a partition."""
        if held := self.open_transactions.get(partition):
            return held.next_offset
        return self.offsets.get(partition, (0, 0))[1]


@dataclass(frozen=True)
class OpenTransaction:
    """A transaction of a producer that is not over, as one partition sees it.

    Attributes:
        first_offset, next_offset: what nobody who reads committed events can read until it is over,
            other producers' events behind its first one, too.
        producer_id: None where the broker does not tell.
        last_write: Unix time of the producer's newest record; None where the broker does not tell.
    """

    first_offset: int
    next_offset: int
    producer_id: int | None = None
    last_write: float | None = None

    @property
    def waiting(self) -> int:
        return self.next_offset - self.first_offset

    def __str__(self) -> str:
        who = "a producer" if self.producer_id is None else f"producer {self.producer_id}"
        age = (
            ""
            if self.last_write is None
            else f", which last wrote {max(time.time() - self.last_write, 0):.0f} s ago"
        )
        return (
            f"{counted(self.waiting, 'offset')} from {self.first_offset} on "
            f"wait{'s' * (self.waiting == 1)} for the open transaction of {who}{age}"
        )


class Identity:
    """Who the broker says it is; one or two milliseconds a question."""

    def __init__(self, topic: str, admin: KafkaAdminClient, timeout_ms: int) -> None:
        self._topic = topic
        self._admin = admin
        self._timeout_ms = timeout_ms

    def ask(self) -> tuple[str, str | None, list[int]]:
        """Cluster id, topic id and partitions. Raises TopicMissing.

        A question goes to any of the cluster's brokers, so one that is down costs another try.
        """
        return self.asking()()

    def asking(self) -> Callable[[], tuple[str, str | None, list[int]]]:
        """The same, as a question that is on its way while who asks does something else: calling
        what is returned waits for the answer."""
        answer = ask_for(self._admin, self._topic)

        def patiently() -> tuple[str, str | None, list[int]]:
            nonlocal answer
            deadline = time.monotonic() + self._timeout_ms / 1000
            while True:
                try:
                    return self._read(*answer())
                except (KafkaConnectionError, NodeNotReadyError):
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_ASKED_AGAIN_SECONDS)
                    answer = ask_for(self._admin, self._topic)

        return patiently

    def _read(
        self, cluster_id: str, described: Mapping[str, Any]
    ) -> tuple[str, str | None, list[int]]:
        error = for_code(described["error_code"])
        if error is UnknownTopicOrPartitionError:
            raise TopicMissing(
                f"topic {self._topic} does not exist on cluster {cluster_id}: "
                "`credit-risk topic create` creates it, and so does `credit-risk produce`"
            )
        if error is not NoError:
            raise error
        partitions = sorted(p["partition_index"] for p in described["partitions"])
        topic_id = str(described.get("topic_id") or "") or None
        return cluster_id, topic_id, partitions

    def open_transactions(
        self, held: Mapping[TopicPartition, tuple[int, int]]
    ) -> dict[int, OpenTransaction]:
        """Whose transactions hold back these offsets (first, next) of partitions."""
        producers: Mapping[TopicPartition, PartitionProducerState] = {}
        if held:
            # Brokers before 2.8 and some others do not tell, and some tell only who may know.
            with suppress(KafkaError):
                producers = self._admin.describe_producers(list(held))
        found = {}
        for tp, (first, end) in held.items():
            active = [
                producer
                for producer in (producers[tp].active_producers if tp in producers else ())
                if 0 <= producer.current_transaction_start_offset < end
            ]
            oldest = min(active, key=lambda p: p.current_transaction_start_offset, default=None)
            found[tp.partition] = (
                OpenTransaction(first, end, oldest.producer_id, oldest.last_timestamp / 1000)
                if oldest
                else OpenTransaction(first, end)
            )
        return found


class Watch:
    """Looks at a topic from outside, over connections that stay. Not thread-safe."""

    def __init__(
        self, topic: str, consumer: KafkaConsumer, identity: Identity, timeout_ms: int
    ) -> None:
        self._topic = topic
        self._consumer = consumer
        self._identity = identity
        self._timeout_ms = timeout_ms
        self._unreadable: set[TopicPartition] = set()
        self._stable = last_stable_offsets(consumer)

    def state(self, committed: Mapping[int, int] = _NOTHING) -> TopicState:
        """The topic's identity and offsets now.

        Args:
            committed: the next offset of partitions, read before this question: the topic must
                hold what lies before them.

        Raises:
            TopicMissing: it does not exist.
            TopicReplaced: it became another one meanwhile; or it ends before a committed offset,
                and still does when it was asked again. One such answer proves nothing: a broker may
                give records away before the high watermark that it tells has passed them, and a
                leader that is new learns late how far the one before it was.
        """
        deadline = time.monotonic() + _SUSPICION_SECONDS
        while True:
            state = self._look()
            short = [(p, at) for p, at in committed.items() if state.end(p) < at]
            if not short:
                return state
            if time.monotonic() > deadline:
                partition, at = short[0]
                missing = [p for p, _ in short if p not in state.offsets]
                said = truncated(self._topic, partition, at, state.end(partition))
                said = shrunk(self._topic, missing) if missing else said
                raise TopicReplaced(said, state.identity)
            time.sleep(_ASKED_AGAIN_SECONDS)

    def _look(self) -> TopicState:
        cluster_id, topic_id, partitions = self._identity.ask()
        tps = [TopicPartition(self._topic, partition) for partition in partitions]
        beginnings = self._listed(self._consumer.beginning_offsets, tps)
        stable, high = self._ends(self._listed(self._consumer.end_offsets, tps))
        offsets = {tp.partition: (beginnings[tp], stable[tp]) for tp in tps}
        held = {tp: (stable[tp], high[tp]) for tp in tps if stable[tp] < high[tp]}
        held_by = self._identity.open_transactions(held)
        # The offsets are this topic's only if it still is the one.
        if (now := self._identity.ask()[:2]) != (cluster_id, topic_id):
            raise TopicReplaced(changed(self._topic, (cluster_id, topic_id), now))
        return TopicState(cluster_id, self._topic, topic_id, offsets, held_by)

    def _listed(
        self, ask: Callable[..., dict[TopicPartition, int]], tps: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        deadline = time.monotonic() + self._timeout_ms / 1000
        while True:
            try:
                return ask(tps, timeout_ms=self._timeout_ms)
            except KeyError as error:  # the client leaves out who has no leader, and misses it then
                if time.monotonic() > deadline:
                    raise KafkaError(
                        f"{self._topic} has a partition without a leader: the brokers that have "
                        "its replicas are down"
                    ) from error
                time.sleep(_ASKED_AGAIN_SECONDS)

    def _ends(
        self, listed: Mapping[TopicPartition, int]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Last stable offsets (nothing from them on is given to who reads what is committed) and
        high watermarks. Both from one answer to a fetch at the listed ends, which is the one place
        where every broker tells them: Tansu's lists leave out the records inside its last batch."""
        self._seek(listed)
        highwater = self._consumer.highwater
        self._poll_until(
            lambda: all(highwater(tp) is not None for tp in listed), "no high watermark"
        )
        high = {tp: max(at, highwater(tp)) for tp, at in listed.items()}
        # An answer of the first versions has no last stable offset.
        stable = {tp: max(at, self._stable.get(tp, high[tp])) for tp, at in listed.items()}
        return stable, high

    def timestamps(self, ranges: Mapping[int, tuple[int, int]]) -> dict[int, float]:
        """Unix time of the first record in each range (partition to first and next offset), where
        there is one that can be read, and it has a time."""
        waited = {TopicPartition(self._topic, p): bounds for p, bounds in ranges.items()}
        found: dict[int, float] = {}
        self._seek({tp: first for tp, (first, _) in waited.items()})

        def look(polled: Mapping[TopicPartition, list[ConsumerRecord]]) -> None:
            for tp, records in polled.items():
                (at,) = record_times([records[0].timestamp])
                found.setdefault(tp.partition, at / 1000)
                self._consumer.pause(tp)

        def is_over(tp: TopicPartition, end: int) -> bool:
            return (
                tp.partition in found
                or tp in self._unreadable
                or self._consumer.position(tp) >= end
            )

        self._poll_until(
            lambda: all(is_over(tp, end) for tp, (_, end) in waited.items()), "no record", look
        )
        return {partition: at for partition, at in found.items() if at >= 0}

    def clock(self) -> str:
        """Whose clock the newest records' times are of, as `CLOCKS` says; unknown without any."""
        newest = {
            partition: (max(first, end - _NEWEST), end)
            for partition, (first, end) in self.state().offsets.items()
            if first < end
        }
        types: list[int] = []
        self._seek({TopicPartition(self._topic, p): at for p, (at, _) in newest.items()})

        def look(polled: Mapping[TopicPartition, list[ConsumerRecord]]) -> None:
            types.extend(records[-1].timestamp_type for records in polled.values())

        def is_over(tp: TopicPartition, end: int) -> bool:
            return tp in self._unreadable or self._consumer.position(tp) >= end

        self._poll_until(
            lambda: (
                bool(types)
                or all(is_over(TopicPartition(self._topic, p), e) for p, (_, e) in newest.items())
            ),
            "no record",
            look,
        )
        return CLOCKS.get(types[-1], UNKNOWN_CLOCK) if types else UNKNOWN_CLOCK

    def _seek(self, positions: Mapping[TopicPartition, int]) -> None:
        # A partition that stays assigned keeps the high watermark and the buffer of the last time.
        self._unreadable.clear()
        self._stable.clear()
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
        question = 1
        while not done():
            if time.monotonic() > deadline:
                raise KafkaError(f"{otherwise} of {self._topic} within {self._timeout_ms} ms")
            answer_within(self._consumer, question)
            question = min(2 * question, _MOST_WAIT_MS)
            try:
                look(poll(self._consumer, timeout_ms=_POLL_MS))
            except UnreadableBatch as error:  # whoever reads it will say so
                tp = TopicPartition(self._topic, error.partition)
                self._unreadable.add(tp)
                self._consumer.pause(tp)
