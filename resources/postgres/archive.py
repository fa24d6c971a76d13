"""Progress of the archive, in Postgres: what is on S3, and the upload in progress.

All SQL that writes the archive's tables is here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row, dict_row

from resources.kafka.reader import OffsetRange


class ArchiveMoved(Exception):
    """The archive of the partition is no longer where the range starts."""


@dataclass(frozen=True)
class PlannedObject:
    """An object that is about to be stored, or was when its run died."""

    partition: int
    first_offset: int
    next_offset: int
    rows: int
    dt: date
    key: str
    bytes: int
    sha256: str

    @property
    def range(self) -> OffsetRange:
        return OffsetRange(self.partition, self.first_offset, self.next_offset)


@dataclass(frozen=True)
class ArchivedObject:
    """A range that is archived; `lost` of its events were gone from the broker by then.

    dt, key, bytes and sha256 are None for a range without any events left.
    """

    source_id: int
    partition: int
    first_offset: int
    next_offset: int
    rows: int
    lost: int
    dt: date | None
    key: str | None
    bytes: int | None
    sha256: str | None
    archived_at: Any
    verified_at: Any

    @property
    def range(self) -> OffsetRange:
        return OffsetRange(self.partition, self.first_offset, self.next_offset)


class ArchiveLedger:
    """What is archived of the stream, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def try_lock(self, source_id: int, partition: int) -> bool:
        """Take a partition's archive for this connection, unless another one has it."""
        row = self._connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(format('%%s.archive.%%s.%%s',"
            " current_schema(), %(source_id)s::int, %(partition)s::int), 0))",
            {"source_id": source_id, "partition": partition},
        ).fetchone()
        return bool(row and row[0])

    def folder(self, source_id: int) -> str | None:
        """Where the source's objects go; None before it was first archived."""
        row = self._connection.execute(
            "SELECT archive_folder FROM sources WHERE source_id = %(source_id)s",
            {"source_id": source_id},
        ).fetchone()
        return row[0] if row else None

    def choose_folder(self, source_id: int, wanted: str | None, otherwise: str) -> str:
        """Give the source a folder of its own, once: `wanted`, unless another source has it."""
        self._connection.execute(
            "UPDATE sources SET archive_folder = CASE WHEN EXISTS"
            " (SELECT FROM sources WHERE archive_folder = %(wanted)s)"
            " THEN %(otherwise)s ELSE coalesce(%(wanted)s, %(otherwise)s) END"
            " WHERE source_id = %(source_id)s AND archive_folder IS NULL",
            {"source_id": source_id, "wanted": wanted, "otherwise": otherwise},
        )
        folder = self.folder(source_id)
        assert folder is not None  # noqa: S101 (it is set by now, if not by this connection)
        return folder

    def backlog(self, source_id: int) -> list[OffsetRange]:
        """What is committed and not archived, by partition; ranges may be empty."""
        rows = self._connection.execute(_BACKLOG, {"source_id": source_id})
        return [OffsetRange(*row) for row in rows]

    def plan(self, source_id: int, partition: int) -> PlannedObject | None:
        """The upload in progress of a partition."""
        with self._connection.cursor(row_factory=class_row(PlannedObject)) as cursor:
            return cursor.execute(
                "SELECT partition, first_offset, next_offset, rows, dt, key, bytes, sha256"
                " FROM archive_plans WHERE source_id = %(source_id)s AND partition = %(partition)s",
                {"source_id": source_id, "partition": partition},
            ).fetchone()

    def record_plan(self, source_id: int, plan: PlannedObject) -> None:
        """Say what is about to be stored, so that whoever comes next finishes the same object."""
        self._connection.execute(
            "INSERT INTO archive_plans AS p (source_id, partition, first_offset, next_offset, rows,"
            " dt, key, bytes, sha256) VALUES (%(source_id)s, %(partition)s, %(first_offset)s,"
            " %(next_offset)s, %(rows)s, %(dt)s, %(key)s, %(bytes)s, %(sha256)s)"
            " ON CONFLICT (source_id, partition) DO UPDATE SET rows = excluded.rows,"
            " bytes = excluded.bytes, sha256 = excluded.sha256"
            " WHERE p.key = excluded.key",
            {"source_id": source_id, **vars(plan)},
        )

    def confirm(self, source_id: int, plan: PlannedObject) -> int:
        """Record that the planned object is stored; returns how many events were lost to it.

        Raises:
            ArchiveMoved: something else is archived in its place.
        """
        with self._connection.transaction():
            lost = self._insert(
                source_id, plan.range, plan.rows, plan.dt, plan.key, plan.bytes, plan.sha256
            )
            self._drop_plan(source_id, plan.partition)
        return lost

    def record_absent(self, source_id: int, missing: OffsetRange) -> int:
        """Record a range of which the broker has no event; returns how many are thereby lost.

        Offsets that the drain already recorded as gaps are none.

        Raises:
            ArchiveMoved: something else is archived in its place.
        """
        with self._connection.transaction():
            lost = self._insert(source_id, missing, 0, None, None, None, None)
            self._drop_plan(source_id, missing.partition)
        return lost

    def _insert(
        self,
        source_id: int,
        covered: OffsetRange,
        rows: int,
        dt: date | None,
        key: str | None,
        size: int | None,
        sha256: str | None,
    ) -> int:
        inserted = self._connection.execute(
            _INSERT,
            {
                "source_id": source_id,
                "partition": covered.partition,
                "first": covered.first,
                "next": covered.next,
                "rows": rows,
                "dt": dt,
                "key": key,
                "bytes": size,
                "sha256": sha256,
            },
        ).fetchone()
        if inserted is None:
            raise ArchiveMoved(f"partition {covered.partition} is not archived to {covered.first}")
        return int(inserted[0])

    def _drop_plan(self, source_id: int, partition: int) -> None:
        self._connection.execute(
            "DELETE FROM archive_plans WHERE source_id = %(source_id)s AND partition ="
            " %(partition)s",
            {"source_id": source_id, "partition": partition},
        )

    def objects(
        self,
        source_id: int | None = None,
        *,
        since: date | None = None,
        until: date | None = None,
        recent: bool = False,
    ) -> list[ArchivedObject]:
        """What is archived, by source, partition and offset.

        Args:
            source_id: of one source only.
            since, until: days, both inclusive; ranges without events are then left out.
            recent: only what was archived within a day.
        """
        with self._connection.cursor(row_factory=class_row(ArchivedObject)) as cursor:
            return cursor.execute(
                _OBJECTS,
                {"source_id": source_id, "since": since, "until": until, "recent": recent},
            ).fetchall()

    def adopt(self, source_id: int, folder: str, objects: Sequence[ArchivedObject]) -> None:
        """Record objects of a source that another warehouse archived; archiving goes on there."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(
                "UPDATE sources SET archive_folder = %(folder)s WHERE source_id = %(source_id)s",
                {"folder": folder, "source_id": source_id},
            )
            cursor.executemany(
                "INSERT INTO archive_objects (source_id, partition, first_offset, next_offset,"
                " rows, lost, dt, key, bytes, sha256) VALUES (%(source_id)s, %(partition)s,"
                " %(first_offset)s, %(next_offset)s, %(rows)s, %(lost)s, %(dt)s, %(key)s,"
                " %(bytes)s, %(sha256)s) ON CONFLICT DO NOTHING",
                [vars(found) for found in objects],
            )

    def account(self, source_id: int) -> list[dict[str, Any]]:
        """By partition, what is committed against what is archived.

        Returns:
            partition, committed (offsets), archived, pending, events (archived rows), lost (and not
            given up by name), and wrong: offsets in holes or overlaps, and events that neither are
            archived nor counted as lost.
        """
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(_ACCOUNT, {"source_id": source_id}).fetchall()

    def mark_verified(self, source_id: int, verified: Sequence[OffsetRange]) -> None:
        """Record that the checksums of these ranges' objects were computed and equal."""
        self._connection.execute(
            "UPDATE archive_objects SET verified_at = clock_timestamp() FROM"
            " unnest(%(partitions)s::int[], %(first)s::bigint[]) AS v (p, f)"
            " WHERE source_id = %(source_id)s AND partition = p AND first_offset = f",
            {
                "partitions": [v.partition for v in verified],
                "first": [v.first for v in verified],
                "source_id": source_id,
            },
        )


_BACKLOG: LiteralString = """
SELECT o.partition, coalesce(max(a.next_offset), o.first_offset), o.next_offset
FROM stream_offsets o LEFT JOIN archive_objects a USING (source_id, partition)
WHERE o.source_id = %(source_id)s
GROUP BY o.partition, o.first_offset, o.next_offset ORDER BY o.partition
"""

_INSERT: LiteralString = """
INSERT INTO archive_objects
    (source_id, partition, first_offset, next_offset, rows, dt, key, bytes, sha256, lost)
SELECT source_id, partition, %(first)s, %(next)s, %(rows)s,
    %(dt)s::date, %(key)s::text, %(bytes)s::bigint, %(sha256)s::text,
    %(next)s - %(first)s - %(rows)s - (
        SELECT coalesce(sum(
            least(g.next_offset, %(next)s) - greatest(g.first_offset, %(first)s)), 0)
        FROM offset_gaps g WHERE g.source_id = o.source_id AND g.partition = o.partition
        AND g.first_offset < %(next)s AND g.next_offset > %(first)s
    )
FROM stream_offsets o
WHERE source_id = %(source_id)s AND partition = %(partition)s AND next_offset >= %(next)s
    AND %(first)s = coalesce(
        (SELECT max(a.next_offset) FROM archive_objects a
            WHERE a.source_id = o.source_id AND a.partition = o.partition),
        o.first_offset)
RETURNING lost
"""

_OBJECTS: LiteralString = """
SELECT source_id, partition, first_offset, next_offset, rows, lost, dt, key, bytes, sha256,
    archived_at, verified_at
FROM archive_objects
WHERE (%(source_id)s::int IS NULL OR source_id = %(source_id)s)
    AND (%(since)s::date IS NULL OR dt >= %(since)s)
    AND (%(until)s::date IS NULL OR dt <= %(until)s)
    AND (NOT %(recent)s OR archived_at > now() - interval '1 day')
ORDER BY source_id, partition, first_offset
"""

_ACCOUNT: LiteralString = """
WITH chained AS (
    SELECT *, lag(next_offset) OVER (PARTITION BY partition ORDER BY first_offset) AS before,
        EXISTS (SELECT FROM abandoned_offsets b WHERE b.source_id = a.source_id
            AND b.partition = a.partition AND b.first_offset <= a.first_offset
            AND b.next_offset >= a.next_offset) AS given_up
    FROM archive_objects a WHERE source_id = %(source_id)s
), archived AS (
    SELECT partition, max(next_offset) AS until, sum(next_offset - first_offset) AS offsets,
        sum(rows) AS events, sum(lost) AS lost, min(first_offset) AS first,
        sum(lost) FILTER (WHERE given_up) AS given_up,
        coalesce(sum(abs(first_offset - before)), 0) AS misplaced
    FROM chained GROUP BY partition
), gone AS (
    SELECT g.partition, sum(least(g.next_offset, a.until) - g.first_offset) AS gaps
    FROM offset_gaps g JOIN archived a ON a.partition = g.partition AND g.first_offset < a.until
    WHERE g.source_id = %(source_id)s GROUP BY g.partition
)
SELECT o.partition, o.next_offset - o.first_offset AS committed,
    coalesce(offsets, 0)::bigint AS archived,
    (o.next_offset - coalesce(until, o.first_offset))::bigint AS pending,
    coalesce(events, 0)::bigint AS events,
    (coalesce(archived.lost, 0) - coalesce(given_up, 0))::bigint AS lost,
    (coalesce(misplaced, 0) + abs(coalesce(first, o.first_offset) - o.first_offset)
        + abs(coalesce(offsets - events - archived.lost, 0) - coalesce(gone.gaps, 0))
    )::bigint AS wrong
FROM stream_offsets o LEFT JOIN archived USING (partition) LEFT JOIN gone USING (partition)
WHERE o.source_id = %(source_id)s ORDER BY o.partition
"""
