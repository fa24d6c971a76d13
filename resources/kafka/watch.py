"""Looking at a topic from outside: who it is, and which offsets it has."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from credit_risk_dagster.domain.record_time import record_times
from resources.kafka.client import ConsumerRecord
from resources.kafka.errors import TopicMissing, TopicReplaced, truncated

_NOTHING: Mapping[int, int] = {}
# A topic that ends too early is believed when it says so for this long.
_SUSPICION_SECONDS = 2.0
_ASKED_AGAIN_SECONDS = 0.1


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

    def end(self, partition: int) -> int:
        """The offset that the partition's next record will have; 0 without such a partition."""
        return self.offsets.get(partition, (0, 0))[1]


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

    def state(self, committed: Mapping[int, int] = _NOTHING) -> TopicState:
        """The topic's identity and offsets now.

        Args:
            committed: the next offset of partitions, read before this question: the topic must
                hold what lies before them.

        Raises:
            TopicMissing: it does not exist.
            TopicReplaced: it ends before a committed offset, and still does when it was asked
                again. One such answer proves nothing: a broker may give records away before the
                high watermark that it tells has passed them, and a leader that is new learns late
                how far the one before it was.
        """
        deadline = time.monotonic() + _SUSPICION_SECONDS
        while True:
            state = self._look()
            short = [(p, at) for p, at in committed.items() if state.end(p) < at]
            if not short:
                return state
            if time.monotonic() > deadline:
                partition, at = short[0]
                raise TopicReplaced(truncated(self._topic, partition, at, state.end(partition)))
            time.sleep(_ASKED_AGAIN_SECONDS)

    def _look(self) -> TopicState:
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
        there is one, and it has a time."""
        waited = {TopicPartition(self._topic, p): at for p, at in positions.items()}
        found: dict[int, float] = {}
        self._seek(waited)

        def look(polled: Mapping[TopicPartition, list[ConsumerRecord]]) -> None:
            for tp, records in polled.items():
                (at,) = record_times([records[0].timestamp])
                found.setdefault(tp.partition, at / 1000)
                self._consumer.pause(tp)

        def at_end(tp: TopicPartition) -> bool:
            end = self._consumer.highwater(tp)
            return end is not None and self._consumer.position(tp) >= end

        self._poll_until(
            lambda: all(tp.partition in found or at_end(tp) for tp in waited), "no record", look
        )
        return {partition: at for partition, at in found.items() if at >= 0}

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
