"""What the lake's tables have, as a mirror in Postgres, for who reads Postgres alone.

All SQL that writes the archive's tables is here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from resources.kafka.reader import OffsetRange


@dataclass(frozen=True)
class ArchivedRange:
    """A range that the raw events' table has, in which file; a range without events has none."""

    partition: int
    first_offset: int
    next_offset: int
    rows: int
    dt: date | None
    key: str | None
    bytes: int | None
    sha256: str | None

    @property
    def range(self) -> OffsetRange:
        return OffsetRange(self.partition, self.first_offset, self.next_offset)


class ArchiveLedger:
    """What is archived of the stream, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def try_lock(self, uri: str, patience: int = 0) -> bool:
        """Be the only run of this database that adds to a table, whatever its schema, for as long
        as the connection lives. It saves work, and whoever forgets needs it: then no file is about
        to be added.

        Args:
            uri: of the table of raw events.
            patience: seconds to wait for another one's end.
        """
        which = {"name": f"archive {uri}"}
        row = self._connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0))", which
        ).fetchone()
        if row and row[0]:
            return True
        if patience:
            with (
                suppress(psycopg.errors.LockNotAvailable),
                self._connection.transaction(),
            ):
                self._connection.execute(f"SET LOCAL lock_timeout = '{patience}s'".encode())
                self._connection.execute(
                    "SELECT pg_advisory_lock(hashtextextended(%(name)s, 0))", which
                )
                return True
        return False

    def lossy(self) -> set[str]:
        """Keys of the files in whose range an event is lost."""
        rows = self._connection.execute(
            "SELECT key FROM archive_objects WHERE lost > 0 AND key IS NOT NULL"
        )
        return {key for (key,) in rows}

    def saw(self, source_id: int) -> bool:
        """Whether the table was ever seen to have something of a source."""
        row = self._connection.execute(
            "SELECT FROM lake_progress WHERE source_id = %(source_id)s AND raw_events IS NOT NULL"
            " LIMIT 1",
            {"source_id": source_id},
        ).fetchone()
        return row is not None

    def committed(self, source_id: int) -> list[OffsetRange]:
        """What is committed, by partition."""
        rows = self._connection.execute(
            "SELECT partition, first_offset, next_offset FROM stream_offsets"
            " WHERE source_id = %(source_id)s ORDER BY partition",
            {"source_id": source_id},
        )
        return [OffsetRange(*row) for row in rows]

    def rows(self) -> int:
        """Of all sources, the events that the mirror's files have."""
        row = self._connection.execute(
            "SELECT coalesce(sum(rows), 0)::bigint FROM archive_objects"
        ).fetchone()
        assert row is not None  # noqa: S101 (a sum)
        return int(row[0])

    def backlog(self, source_id: int) -> list[OffsetRange]:
        """What is committed and not archived, by partition; ranges may be empty."""
        rows = self._connection.execute(_BACKLOG, {"source_id": source_id})
        return [OffsetRange(*row) for row in rows]

    def mirror(
        self, source_id: int, held: Sequence[ArchivedRange], progress: Mapping[int, int]
    ) -> None:
        """Make this be what the table has, as far as it is committed here.

        Args:
            held: ranges with rows, by partition and offset.
            progress: the table's, by partition; up to there, what is between is without events.
        """
        wanted = {
            (it.partition, it.first_offset, it.next_offset, it.key, it.rows, it.bytes): it
            for part in self.committed(source_id)
            for it in _without_holes(part, held, progress.get(part.partition, part.first))
        }
        rows = self._connection.execute(
            "SELECT partition, first_offset, next_offset, key, rows, bytes FROM archive_objects"
            " WHERE source_id = %(source_id)s AND lost = 0",
            {"source_id": source_id},
        )
        here = set(rows.fetchall())
        with self._connection.transaction(), self._connection.cursor() as cursor:
            # What is lost is counted anew: it may have been forgotten since.
            cursor.execute(
                "DELETE FROM archive_objects WHERE source_id = %(source_id)s AND lost > 0",
                {"source_id": source_id},
            )
            cursor.executemany(
                "DELETE FROM archive_objects WHERE source_id = %(source_id)s"
                " AND partition = %(partition)s AND first_offset = %(first)s",
                [{"source_id": source_id, "partition": p, "first": first}
                 for p, first, *_ in here - set(wanted)],
            )  # fmt: skip
            cursor.executemany(
                _INSERT,
                [_parameters(source_id, it) for at, it in wanted.items() if at not in here],
            )

    def mirror_progress(
        self,
        source_id: int,
        table: str,
        progress: Mapping[int, int],
        redriven: int | None = None,
    ) -> None:
        """Make this be how far a table is; a partition without progress has none here either.

        Args:
            table: raw_events or decisions.
            progress: the table's, by partition.
            redriven: of the decisions, microseconds since the epoch.
        """
        self._connection.execute(
            _PROGRESS[table],
            {
                "source_id": source_id,
                "partitions": list(progress),
                "next": list(progress.values()),
                "redriven": None if redriven is None else moment_of(redriven),
            },
        )

    def confirm(self, source_id: int, stored: ArchivedRange) -> int:
        """Mirror a range that was just committed to the table; returns how many events are lost to
        it. Where this is not in step with the table, the next `mirror` is."""
        row = self._connection.execute(_INSERT, _parameters(source_id, stored)).fetchone()
        return int(row[0]) if row else 0

    def account(self, source_id: int) -> list[dict[str, Any]]:
        """By partition, what is committed against what is archived.

        Returns:
            partition, committed (offsets), archived, pending, undecided (offsets whose decisions
            are pending), events (archived rows), lost (and not given up by name), and wrong:
            offsets in holes or overlaps, and events that neither are archived nor counted as lost.
        """
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(_ACCOUNT, {"source_id": source_id}).fetchall()


def moment_of(micros: int) -> datetime:
    """The time so many microseconds after the epoch."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def _without_holes(
    part: OffsetRange, held: Sequence[ArchivedRange], until: int
) -> Iterator[ArchivedRange]:
    """Ranges of a partition that follow each other from its first offset on, up to what is
    committed."""
    position = part.first
    until = min(until, part.next)
    for it in held:
        if it.partition != part.partition or it.next_offset <= position:
            continue
        if it.next_offset > until:
            break
        if it.first_offset > position:
            yield _nothing(part.partition, position, it.first_offset)
        yield replace(it, first_offset=position) if it.first_offset < position else it
        position = it.next_offset
    else:
        if position < until:
            yield _nothing(part.partition, position, until)


def _nothing(partition: int, first: int, following: int) -> ArchivedRange:
    return ArchivedRange(partition, first, following, 0, None, None, None, None)


def _parameters(source_id: int, it: ArchivedRange) -> dict[str, Any]:
    return {
        **vars(it),
        "source_id": source_id,
        "first": it.first_offset,
        "next": it.next_offset,
    }


_BACKLOG: LiteralString = """
SELECT o.partition, coalesce(max(a.next_offset), o.first_offset), o.next_offset
FROM stream_offsets o LEFT JOIN archive_objects a USING (source_id, partition)
WHERE o.source_id = %(source_id)s
GROUP BY o.partition, o.first_offset, o.next_offset ORDER BY o.partition
"""

_PROGRESS: dict[str, LiteralString] = {
    "raw_events": """
INSERT INTO lake_progress (source_id, partition, raw_events)
SELECT o.source_id, o.partition, n.next FROM stream_offsets o
LEFT JOIN unnest(%(partitions)s::int[], %(next)s::bigint[]) AS n (p, next) ON n.p = o.partition
WHERE o.source_id = %(source_id)s
ON CONFLICT (source_id, partition) DO UPDATE SET raw_events = excluded.raw_events
""",
    "decisions": """
INSERT INTO lake_progress (source_id, partition, decisions, redriven)
SELECT o.source_id, o.partition, n.next, %(redriven)s FROM stream_offsets o
LEFT JOIN unnest(%(partitions)s::int[], %(next)s::bigint[]) AS n (p, next) ON n.p = o.partition
WHERE o.source_id = %(source_id)s
ON CONFLICT (source_id, partition) DO UPDATE
SET decisions = excluded.decisions, redriven = excluded.redriven
""",
}

_INSERT: LiteralString = """
INSERT INTO archive_objects
    (source_id, partition, first_offset, next_offset, rows, dt, key, bytes, sha256, lost)
SELECT source_id, partition, %(first)s, %(next)s, %(rows)s,
    %(dt)s::date, %(key)s::text, %(bytes)s::bigint,
    CASE WHEN %(key)s::text IS NOT NULL THEN coalesce(%(sha256)s::text, '') END,
    greatest(%(next)s - %(first)s - %(rows)s - (
        SELECT coalesce(sum(
            least(g.next_offset, %(next)s) - greatest(g.first_offset, %(first)s)), 0)
        FROM offset_gaps g WHERE g.source_id = o.source_id AND g.partition = o.partition
        AND g.first_offset < %(next)s AND g.next_offset > %(first)s
    ) - (
        SELECT count(*) FROM forgotten_offsets f
        WHERE f.source_id = o.source_id AND f.partition = o.partition
        AND f."offset" >= %(first)s AND f."offset" < %(next)s
    ), 0)
FROM stream_offsets o
WHERE source_id = %(source_id)s AND partition = %(partition)s AND next_offset >= %(next)s
ON CONFLICT DO NOTHING RETURNING lost
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
), left_out AS (  -- of what was forgotten; what is not done yet in the lake may still be there
    SELECT f.partition, count(*) AS forgotten,
        count(*) FILTER (WHERE EXISTS (SELECT FROM forgettings
            WHERE forgettings.forgetting_id = f.forgetting_id AND lake_at IS NOT NULL)) AS done
    FROM forgotten_offsets f
    JOIN archived a ON a.partition = f.partition AND f."offset" < a.until AND f."offset" >= a.first
    WHERE f.source_id = %(source_id)s GROUP BY f.partition
), unseen AS (
    SELECT partition, offsets - events - archived.lost - coalesce(gaps, 0) AS missing,
        coalesce(done, 0) AS least, coalesce(forgotten, 0) AS most
    FROM archived LEFT JOIN gone USING (partition) LEFT JOIN left_out USING (partition)
)
SELECT o.partition, o.next_offset - o.first_offset AS committed,
    coalesce(offsets, 0)::bigint AS archived,
    (o.next_offset - coalesce(until, o.first_offset))::bigint AS pending,
    (o.next_offset - least(o.next_offset, coalesce(l.decisions, o.first_offset)))::bigint
        AS undecided,
    coalesce(events, 0)::bigint AS events,
    (coalesce(archived.lost, 0) - coalesce(given_up, 0))::bigint AS lost,
    (coalesce(misplaced, 0) + abs(coalesce(first, o.first_offset) - o.first_offset)
        + greatest(coalesce(least - missing, 0), coalesce(missing - most, 0), 0)
    )::bigint AS wrong
FROM stream_offsets o LEFT JOIN archived USING (partition) LEFT JOIN unseen USING (partition)
    LEFT JOIN lake_progress l USING (source_id, partition)
WHERE o.source_id = %(source_id)s ORDER BY o.partition
"""
