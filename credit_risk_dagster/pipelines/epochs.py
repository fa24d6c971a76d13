"""Starting over with a topic: what is left of it is a new source, from its first offset on.

What was scored stays, and what the topic still has is scored again. That is right for a topic that
was recreated or truncated, and for no other; so it is refused for those.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.drain import HANDOVER_SECONDS
from resources.kafka.broker import Broker
from resources.kafka.errors import TopicMissing, TopicReplaced
from resources.kafka.watch import TopicState
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.lanes import lock_partitions
from resources.postgres.ledger import Ledger
from resources.postgres.sources import Source, Sources


class EpochRefused(PlatformError):
    """A new epoch that would score events again for nothing."""


@dataclass(frozen=True)
class NewEpoch:
    """The epoch that began; `events` are on the topic, and are scored from now on."""

    topic: TopicState
    epoch: int

    @property
    def events(self) -> int:
        return sum(end - first for first, end in self.topic.offsets.values())


@dataclass(frozen=True)
class AtStake:
    """What goes with a topic that is deleted: events that are not scored, or not archived."""

    unscored: int
    unarchived: int


def start_epoch(
    broker: Broker, warehouse: Warehouse, session_seconds: float, *, force: bool = False
) -> NewEpoch:
    """Start over with a topic that was replaced, when no run drains it.

    Args:
        session_seconds: so long a run may keep the topic; it is waited for.
        force: also when the topic is the one whose offsets are committed: its events are then
            scored again.

    Raises:
        EpochRefused: the topic was not replaced, or nothing of it was ever committed.
        LaneBusy: a run drains the topic for longer than a session lasts.
        BrokerUnavailable, TopicMissing, WarehouseUnavailable, NotMigrated: as their names say.
    """
    with warehouse.session("new epoch") as connection:
        topic = broker.inspect()
        newest = Sources(connection).newest(topic.cluster_id, topic.topic)
        if newest is None:
            raise EpochRefused(
                f"nothing of topic {topic.topic} on cluster {topic.cluster_id} was ever committed: "
                "the next run begins with its first offset, without a new epoch"
            )
        if not force:
            _require_replaced(broker, connection)
        with _undrained(connection, newest, session_seconds):
            if not force:
                _require_replaced(broker, connection)  # nobody was faster
            topic = broker.inspect()
            return NewEpoch(topic, Sources(connection).new_epoch(topic))


def at_stake(broker: Broker, warehouse: Warehouse) -> AtStake:
    """What would go with the topic; of one that is missing, or was never read, what it has.

    Raises:
        BrokerUnavailable, WarehouseUnavailable, NotMigrated: as their names say.
    """
    with warehouse.session("topic") as connection:
        try:
            topic = broker.inspect()
        except TopicMissing:
            return AtStake(0, 0)
        newest = Sources(connection).newest(topic.cluster_id, topic.topic)
        progress = Ledger(connection).progress(newest.source_id) if newest else []
        same = newest is not None and newest.topic_id in (None, topic.topic_id)
        committed = {p.partition: p.next_offset for p in progress} if same else {}
        unscored = sum(
            max(end - max(first, committed.get(partition, first)), 0)
            for partition, (first, end) in topic.offsets.items()
        )
        backlog = ArchiveLedger(connection).backlog(newest.source_id) if newest and same else []
        return AtStake(unscored, sum(map(len, backlog)))


@contextmanager
def starting_over(
    broker: Broker, warehouse: Warehouse, session_seconds: float
) -> Iterator[psycopg.Connection[Any]]:
    """Keep every run away from the topic, which may be missing, for as long as it is replaced.

    Raises:
        LaneBusy, BrokerUnavailable, WarehouseUnavailable, NotMigrated: as `start_epoch`.
    """
    with warehouse.session("topic") as connection:
        try:
            topic = broker.inspect()
        except TopicMissing:
            yield connection
            return
        newest = Sources(connection).newest(topic.cluster_id, topic.topic)
        if newest is None:
            yield connection
            return
        with _undrained(connection, newest, session_seconds):
            yield connection


@contextmanager
def _undrained(
    connection: psycopg.Connection[Any], source: Source, session_seconds: float
) -> Iterator[None]:
    """No run commits to the source meanwhile: they lock its partitions, too, and look which epoch
    is the newest when they have them."""
    partitions = [p.partition for p in Ledger(connection).progress(source.source_id)]
    patience = session_seconds + 2 * HANDOVER_SECONDS
    lock_partitions(connection, source.source_id, partitions, patience)
    yield  # the locks end with the connection, which has nothing else to do


def _require_replaced(broker: Broker, connection: psycopg.Connection[Any]) -> None:
    try:
        topic = broker.inspect()
        source = Sources(connection).find(topic)
        progress = Ledger(connection).progress(source.source_id) if source else []
        topic = broker.inspect({p.partition: p.next_offset for p in progress})
    except TopicReplaced:
        return
    committed = sum(p.next_offset - p.first_offset for p in progress)
    held = sum(end - first for first, end in topic.offsets.values())
    raise EpochRefused(
        f"topic {topic.topic} on cluster {topic.cluster_id} is the one of which {committed:,} "
        f"offsets are committed: a new epoch would score its {held:,} events again. Nothing was "
        "changed; --force does it all the same"
    )
