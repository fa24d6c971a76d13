"""Committed offsets that the archive cannot get any more, and who answers for that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row

from resources.kafka.reader import OffsetRange


@dataclass(frozen=True)
class Unarchivable:
    """Offsets whose events are in no archive and never will be: the broker lost them first, or
    their topic went with them. `events` of the range are concerned."""

    source_id: int
    topic: str
    epoch: int
    partition: int
    first_offset: int
    next_offset: int
    events: int

    @property
    def range(self) -> OffsetRange:
        return OffsetRange(self.partition, self.first_offset, self.next_offset)

    def __str__(self) -> str:
        return (
            f"source {self.source_id} (epoch {self.epoch} of {self.topic}) partition "
            f"{self.partition}: {self.events:,} of offsets {self.first_offset} to "
            f"{self.next_offset - 1} were never archived"
        )


class AbandonedOffsets:
    """What was given up, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def waiting(self) -> list[Unarchivable]:
        """What the archive cannot get, and nobody gave up yet. It keeps retention from dropping."""
        with self._connection.cursor(row_factory=class_row(Unarchivable)) as cursor:
            return cursor.execute(_WAITING).fetchall()

    def abandon(self, source_id: int, ranges: Sequence[OffsetRange], by: str, why: str) -> None:
        """Record that somebody gives ranges of a source up, and why; for ever."""
        self._connection.execute(
            _ABANDON,
            {
                "source_id": source_id,
                "partitions": [given_up.partition for given_up in ranges],
                "first": [given_up.first for given_up in ranges],
                "next": [given_up.next for given_up in ranges],
                "by": by,
                "why": why,
            },
        )


# A tail is beyond reach when a newer source has the topic's name.
_WAITING: LiteralString = """
SELECT u.source_id, topic, epoch, u.partition, u.first_offset, u.next_offset, u.events
FROM (
    SELECT source_id, partition, first_offset, next_offset, lost AS events
    FROM archive_objects WHERE lost > 0
    UNION ALL
    SELECT source_id, partition, archived, next_offset, next_offset - archived
    FROM (
        SELECT o.source_id, o.partition, o.next_offset, coalesce(
            (SELECT max(a.next_offset) FROM archive_objects a
                WHERE a.source_id = o.source_id AND a.partition = o.partition),
            o.first_offset) AS archived
        FROM stream_offsets o JOIN sources s USING (source_id)
        WHERE EXISTS (SELECT FROM sources n
            WHERE n.topic = s.topic AND n.source_id > s.source_id)
    ) AS tails WHERE archived < next_offset
) AS u JOIN sources USING (source_id)
WHERE NOT EXISTS (
    SELECT FROM abandoned_offsets b WHERE b.source_id = u.source_id AND b.partition = u.partition
        AND b.first_offset <= u.first_offset AND b.next_offset >= u.next_offset
)
ORDER BY u.source_id, u.partition, u.first_offset
"""

_ABANDON: LiteralString = """
INSERT INTO abandoned_offsets
    (source_id, partition, first_offset, next_offset, abandoned_by, why)
SELECT %(source_id)s, p, f, n, %(by)s, %(why)s
FROM unnest(%(partitions)s::int[], %(first)s::bigint[], %(next)s::bigint[]) AS range (p, f, n)
ON CONFLICT DO NOTHING
"""
