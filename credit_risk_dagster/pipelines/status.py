"""What is committed and what is still to do, from the broker and the warehouse."""

from typing import Any

from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse
from resources.postgres.ledger import Ledger
from resources.postgres.lost import LostEvents
from resources.postgres.sources import Sources


def partition_status(
    kafka: KafkaSettings | None = None, warehouse: WarehouseSettings | None = None
) -> dict[str, Any]:
    """Offsets by partition.

    Returns:
        cluster_id, topic, epoch (None before the first drain), lost_unacknowledged (events that the
        broker removed before they were read, and nobody acknowledged), and partitions: for each,
        partition, first, committed, end, lag, scored, rejected, gaps, lost.

    Raises:
        BrokerUnavailable, TopicMissing, TopicReplaced, WarehouseUnavailable, NotMigrated.
    """
    topic = Broker(kafka or KafkaSettings()).inspect()
    with Warehouse(warehouse or WarehouseSettings()).session() as connection:
        source = Sources(connection).find(topic)
        progress = Ledger(connection).progress(source.source_id) if source else []
        lost = LostEvents(connection).unacknowledged(source.source_id) if source else 0
    by_partition = {p.partition: p for p in progress}
    partitions = []
    for partition, (beginning, end) in topic.offsets.items():
        p = by_partition.get(partition)
        committed = p.next_offset if p else beginning
        partitions.append(
            {
                "partition": partition,
                "first": p.first_offset if p else beginning,
                "committed": committed,
                "end": end,
                "lag": end - committed,
                "scored": p.scored if p else 0,
                "rejected": p.rejected if p else 0,
                "gaps": p.gaps if p else 0,
                "lost": p.lost if p else 0,
            }
        )
    return {
        "cluster_id": topic.cluster_id,
        "topic": topic.topic,
        "epoch": source.epoch if source else None,
        "lost_unacknowledged": lost,
        "partitions": partitions,
    }
