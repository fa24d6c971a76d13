"""What the lake calls the topic that is archived. The table numbers the epochs: a Postgres that was
lost or restored counts them anew, and would use the number of other events."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from credit_risk_dagster.domain.lake_rows import SourceKey
from credit_risk_dagster.errors import PlatformError
from resources.kafka.watch import TopicState
from resources.lake_tables import DataFile, LakeTable, Snapshot
from resources.postgres.archive import ArchiveLedger
from resources.postgres.sources import Source, Sources

Event = dict[str, Any]
EventAt = Callable[[int, int], Event | None]
"""A record of the topic as a row of the table, by partition and offset; None without one."""


class LakeAhead(PlatformError):
    """The table has a later epoch of the topic than Postgres knows."""


def recognized(
    connection: psycopg.Connection[Any],
    table: LakeTable,
    source: Source,
    topic: TopicState,
    event_at: EventAt,
) -> tuple[Source, SourceKey]:
    """The source under the number that the table has for it, and what the table calls it.

    One of which Postgres saw nothing in the table yet is looked for there: by the topic's id, and
    from brokers that give none, by the last event. Where it is not, its number is the next one.

    Raises:
        LakeAhead: the table has a later epoch, of which nobody can say whether it is this topic.
        BrokerUnavailable, LakeUnavailable, LakeRefused, LakeDamaged, ObjectMissing.
    """
    snapshot = table.create()
    others = [other for other in Sources(connection).all() if other != source]
    same = [key for key in snapshot.sources() if key.cluster_id == source.cluster_id]
    known = {other.key for other in others}
    strange = [key for key in same if key.epoch >= source.epoch and key not in known]
    if not strange:
        return source, source.key
    strange.sort(key=lambda key: -key.epoch)
    if ArchiveLedger(connection).saw(source.source_id):
        newest = strange[0]
        if newest.epoch <= source.epoch:
            return source, source.key
        if newest.topic_id and newest.topic_id == source.topic_id:
            return source, newest
        raise _ahead(source, newest)
    for key in strange:
        if _is_it(table, snapshot, source, key, topic, event_at):
            return _numbered(connection, source, key.epoch)
    here = [other.epoch for other in others if other.topic == source.topic]
    return _numbered(connection, source, max(strange[0].epoch, *here, 0) + 1)


def _ahead(source: Source, newest: SourceKey) -> LakeAhead:
    return LakeAhead(
        f"the lake has epoch {newest.epoch} of topic {source.topic} on cluster {source.cluster_id},"
        f" and Postgres knows none after {source.epoch}: it was restored to before a new epoch. "
        "`credit-risk topic new-epoch` until they agree, or restore a later backup"
    )


def _numbered(
    connection: psycopg.Connection[Any], source: Source, epoch: int
) -> tuple[Source, SourceKey]:
    if epoch != source.epoch:
        Sources(connection).renumber(source.source_id, epoch)
        source = replace(source, epoch=epoch)
    return source, source.key


def _is_it(
    table: LakeTable,
    snapshot: Snapshot,
    source: Source,
    key: SourceKey,
    topic: TopicState,
    event_at: EventAt,
) -> bool:
    if key.topic_id and source.topic_id:
        return key.topic_id == source.topic_id
    same = _has_the_same(table, snapshot.files(key), topic, event_at)
    if same is None and key.epoch > source.epoch:
        raise _ahead(source, key)
    return same is not False


def _has_the_same(
    table: LakeTable, files: Sequence[DataFile], topic: TopicState, event_at: EventAt
) -> bool | None:
    """Whether the topic has the last event of a partition's files; None where it has none of them
    any more."""
    for partition, file in _last(files).items():
        first, end = topic.offsets.get(partition, (0, 0))
        columns = ("offset", "timestamp_ms", "key", "value")
        rows = deque(table.read([file], columns), maxlen=1).pop()
        (event,) = rows.slice(len(rows) - 1).to_pylist()
        if event["offset"] >= end:
            return False
        if event["offset"] >= first and (there := event_at(partition, event["offset"])):
            return event == {name: there[name] for name in event}
    return None


def _last(files: Iterable[DataFile]) -> dict[int, DataFile]:
    """The file with the greatest offset of each partition."""
    at = {file: (file.partitions, file.offsets) for file in files}
    ordered = sorted(
        (offsets[1], partitions[0], file)
        for file, (partitions, offsets) in at.items()
        if partitions and offsets
    )
    return {partition: file for _, partition, file in ordered}
