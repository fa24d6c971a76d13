"""What is committed and what is still to do, from the broker and the warehouse."""

from dataclasses import dataclass
from typing import Any

import psycopg

from credit_risk_dagster.pipelines.policies import policy_status
from credit_risk_dagster.settings import KafkaSettings, Settings, WarehouseSettings
from resources.kafka.broker import Broker
from resources.kafka.watch import TopicState, Watch
from resources.postgres.connection import Warehouse
from resources.postgres.lost import LostEvents
from resources.postgres.micro_batch import Ledger, Progress
from resources.postgres.sources import Source, Sources


@dataclass(frozen=True)
class StreamState:
    """A topic, and what is committed of it: never more than what it holds.

    Attributes:
        source: None before the first drain.
    """

    topic: TopicState
    source: Source | None
    progress: list[Progress]

    def waiting(self) -> dict[int, int]:
        """The offsets of each partition that are not committed."""
        committed = {p.partition: p.next_offset for p in self.progress}
        return {
            partition: max(end - committed.get(partition, first), 0)
            for partition, (first, end) in self.topic.offsets.items()
        }


def stream_state(watch: Watch, connection: psycopg.Connection[Any]) -> StreamState:
    """Compare the broker's offsets with the committed ones.

    The ledger is read first: a drain commits all the time, and what it commits after the broker's
    answer may lie beyond it.

    Raises:
        BrokerUnavailable, TopicMissing, NotMigrated: as their names say.
        TopicReplaced: the topic is not the one whose offsets are committed.
    """
    source = Sources(connection).find(watch.state())
    progress = Ledger(connection).progress(source.source_id) if source else []
    topic = watch.state({p.partition: p.next_offset for p in progress})
    return StreamState(topic, source, progress)


def partition_status(
    kafka: KafkaSettings | None = None, warehouse: WarehouseSettings | None = None
) -> dict[str, Any]:
    """Offsets by partition.

    Returns:
        cluster_id, topic, epoch (None before the first drain), lost_unacknowledged (events that the
        broker removed before they were read, and nobody acknowledged), policy (see
        `policies.policy_status`), and partitions: for each,
        partition, first, committed, end (of what can be read), lag, open_transaction (in words;
        None without one that holds events back), scored, rejected, gaps, lost, forgotten.

    Raises:
        BrokerUnavailable, TopicMissing, TopicReplaced, WarehouseUnavailable, NotMigrated.
    """
    with (
        Broker(kafka or KafkaSettings()).watch() as watch,
        Warehouse(warehouse or WarehouseSettings()).session() as connection,
    ):
        state = stream_state(watch, connection)
        source = state.source
        lost = LostEvents(connection).unacknowledged(source.source_id) if source else 0
        policy = policy_status(connection, Settings())
    topic, waiting, held = state.topic, state.waiting(), state.topic.open_transactions
    by_partition = {p.partition: p for p in state.progress}
    partitions = []
    for partition, (beginning, end) in topic.offsets.items():
        p = by_partition.get(partition)
        partitions.append(
            {
                "partition": partition,
                "first": p.first_offset if p else beginning,
                "committed": p.next_offset if p else beginning,
                "end": end,
                "lag": waiting[partition],
                "open_transaction": str(held[partition]) if partition in held else None,
                "scored": p.scored if p else 0,
                "rejected": p.rejected if p else 0,
                "gaps": p.gaps if p else 0,
                "lost": p.lost if p else 0,
                "forgotten": p.forgotten if p else 0,
            }
        )
    return {
        "cluster_id": topic.cluster_id,
        "topic": topic.topic,
        "epoch": source.epoch if source else None,
        "lost_unacknowledged": lost,
        "policy": policy,
        "partitions": partitions,
    }


def clock_of_timestamps(kafka: KafkaSettings | None = None) -> str:
    """Whose clock the newest records' times, and so the latency, are of: broker, producer, or
    unknown.

    Raises:
        BrokerUnavailable, TopicMissing: as their names say.
    """
    with Broker(kafka or KafkaSettings()).watch() as watch:
        return watch.clock()
