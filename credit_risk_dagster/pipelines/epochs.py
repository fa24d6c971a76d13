"""Starting over with a topic: what is left of it is a new source, from its first offset on.

What was scored stays, and what the topic still has is scored again. That is right for a topic that
was recreated or truncated, and for no other; so it is refused for those.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.archive import archive
from credit_risk_dagster.settings import ArchiveSettings
from resources.kafka.broker import Broker
from resources.kafka.errors import TopicMissing, TopicReplaced
from resources.kafka.reader import OffsetRange
from resources.kafka.watch import TopicState
from resources.lake import Lake
from resources.postgres.abandoned import AbandonedOffsets
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.lanes import wait_for_lane
from resources.postgres.micro_batch import Ledger
from resources.postgres.repeats import forget_all
from resources.postgres.sources import Source, Sources


class EpochRefused(PlatformError):
    """A new epoch that would score events again for nothing."""


class Unarchived(PlatformError):
    """What is committed would go before it is archived, and nobody gave it up."""


@dataclass(frozen=True)
class Abandonment:
    """Who gives up what cannot be archived any more, and why."""

    by: str
    why: str

    @staticmethod
    def of(by: str, why: str) -> "Abandonment":
        """Raises PlatformError unless both say something, in 200 and 2,000 characters."""
        for what, text, limit in (("--by", by.strip(), 200), ("--why", why.strip(), 2_000)):
            if not 0 < len(text) <= limit:
                raise PlatformError(f"{what} has {len(text)} characters: it needs 1 to {limit}")
        return Abandonment(by.strip(), why.strip())


@dataclass(frozen=True)
class NewEpoch:
    """The epoch that began; `events` are on the topic, and are scored from now on. Of what was
    committed before, so many offsets are abandoned."""

    topic: TopicState
    epoch: int
    abandoned: int

    @property
    def events(self) -> int:
        return sum(end - first for first, end in self.topic.offsets.values())


def start_epoch(
    broker: Broker,
    warehouse: Warehouse,
    lake: Lake,
    session_seconds: float,
    *,
    force: bool = False,
    abandon: Abandonment | None = None,
) -> NewEpoch:
    """Start over with a topic that was replaced, when no run drains it, and what was committed of
    it is archived.

    Args:
        session_seconds: so long a run may keep the topic; it is waited for.
        force: also when the topic is the one whose offsets are committed: its events are then
            scored again.
        abandon: gives up what cannot be archived.

    Raises:
        EpochRefused: the topic was not replaced, or nothing of it was ever committed.
        Unarchived: of what was committed, something cannot be archived.
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
        _keep_undrained(connection, newest, session_seconds)
        if not force:
            _require_replaced(broker, connection)  # nobody was faster
        left = _archived(broker, warehouse, lake, connection, newest, abandon)
        topic = broker.inspect()
        return _begin(connection, topic, newest, left, abandon, again=force)


def unscored(broker: Broker, warehouse: Warehouse) -> int:
    """How many events would go with the topic that are not scored; of one that was never read, all.

    Raises:
        BrokerUnavailable, WarehouseUnavailable, NotMigrated: as their names say.
    """
    with warehouse.session("topic") as connection:
        try:
            topic = broker.inspect()
        except TopicMissing:
            return 0
        newest = Sources(connection).newest(topic.cluster_id, topic.topic)
        progress = Ledger(connection).progress(newest.source_id) if newest else []
        same = newest is not None and newest.topic_id in (None, topic.topic_id)
        committed = {p.partition: p.next_offset for p in progress} if same else {}
        return sum(
            max(end - max(first, committed.get(partition, first)), 0)
            for partition, (first, end) in topic.offsets.items()
        )


def start_empty(
    broker: Broker,
    warehouse: Warehouse,
    lake: Lake,
    session_seconds: float,
    reset: Callable[[], int],
    *,
    abandon: Abandonment | None = None,
) -> NewEpoch:
    """Delete the topic, which may be missing, and start over with an empty one, when no run drains
    it and what was committed of it is archived.

    Args:
        reset: deletes the topic and creates it again. If that fails, no epoch begins.
        session_seconds, abandon: as of `start_epoch`.

    Raises:
        Unarchived, LaneBusy, BrokerUnavailable, WarehouseUnavailable, NotMigrated: as
            `start_epoch`.
    """
    with warehouse.session("topic") as connection:
        newest: Source | None = None
        left: list[OffsetRange] = []
        with suppress(TopicMissing):
            topic = broker.inspect()
            newest = Sources(connection).newest(topic.cluster_id, topic.topic)
        if newest is not None:
            _keep_undrained(connection, newest, session_seconds)
            left = _archived(broker, warehouse, lake, connection, newest, abandon)
        reset()
        topic = broker.inspect()
        if newest is None and (newest := Sources(connection).newest(topic.cluster_id, topic.topic)):
            left = _archived(broker, warehouse, lake, connection, newest, abandon)  # it was missing
        return _begin(connection, topic, newest, left, abandon, again=False)


def _archived(
    broker: Broker,
    warehouse: Warehouse,
    lake: Lake,
    connection: psycopg.Connection[Any],
    source: Source,
    abandon: Abandonment | None,
) -> list[OffsetRange]:
    """Archive what is committed of a source; returns what cannot be, if somebody gives it up.

    Raises:
        Unarchived: nobody does.
    """

    def backlog() -> list[OffsetRange]:
        return [r for r in ArchiveLedger(connection).backlog(source.source_id) if len(r)]

    because = "another run archives it"
    if backlog():
        try:
            archive(
                broker,
                warehouse,
                lake,
                ArchiveSettings(),
                run_id=f"topic-{uuid.uuid4().hex}",
                log=logging.getLogger(__name__),
            )
        except PlatformError as error:
            because = str(error)
    left = backlog()
    if left and abandon is None:
        first = left[0]
        raise Unarchived(
            f"{counted(sum(map(len, left)), 'committed offset')} of topic {source.topic} cannot be "
            f"archived now, first {first.first} of partition {first.partition}: {because}. "
            "No epoch was begun; --abandon with --by and --why gives them up for ever"
        )
    return left


def _begin(
    connection: psycopg.Connection[Any],
    topic: TopicState,
    before: Source | None,
    left: Sequence[OffsetRange],
    abandon: Abandonment | None,
    *,
    again: bool,
) -> NewEpoch:
    """Begin the epoch, and record in the same step what of the one before is given up. What is to
    be scored again is no repeat of what was."""
    with connection.transaction():
        if again:
            forget_all(connection)
        if before and left and abandon:
            AbandonedOffsets(connection).abandon(before.source_id, left, abandon.by, abandon.why)
        epoch = Sources(connection).new_epoch(topic)
    return NewEpoch(topic, epoch, sum(map(len, left)))


def _keep_undrained(
    connection: psycopg.Connection[Any], source: Source, session_seconds: float
) -> None:
    """No run commits to the source meanwhile: they lock its partitions, too, and look which epoch
    is the newest when they have them."""
    partitions = [p.partition for p in Ledger(connection).progress(source.source_id)]
    wait_for_lane(connection, source.source_id, partitions, session_seconds)
    # the locks end with the connection, which has nothing else to do


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
        f"topic {topic.topic} on cluster {topic.cluster_id} is the one of which "
        f"{counted(committed, 'offset is', 'offsets are')} committed: a new epoch would score "
        f"its {counted(held, 'event')} again. Nothing was "
        "changed; --force does it all the same"
    )
