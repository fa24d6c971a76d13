"""The ledger of a schema that is rebuilt: days in any order, by several runs at once.

What a partition has between the first and the last offset that were rebuilt, and what is not
rebuilt, is a gap: so the equation holds after each batch. A batch takes its offsets out of the
gaps, and only from there, so that none is written twice.
"""

from typing import Any, LiteralString

import numpy as np
import numpy.typing as npt
import psycopg

from credit_risk_dagster.domain.scoring import Assessment
from resources.kafka.reader import Fetch, OffsetRange
from resources.postgres.micro_batch import Ledger, OffsetsMoved

NOT_REBUILT = "not rebuilt"


class RebuiltLedger(Ledger):
    """The same, but a batch may have any offsets: `Fetch.ranges` are runs without holes."""

    def absent(
        self, source_id: int, partition: int, offsets: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Which of the offsets are not rebuilt yet."""
        rows = self._connection.execute(
            _ABSENT,
            {
                "source_id": source_id,
                "partition": partition,
                "first": int(offsets.min()),
                "next": int(offsets.max()) + 1,
                "reason": NOT_REBUILT,
            },
        ).fetchall()
        found = np.zeros(len(offsets), np.bool_)
        for first, following in rows:
            found |= (offsets >= first) & (offsets < following)
        return found

    def cover(self, source_id: int, whole: OffsetRange) -> None:
        """A partition has these offsets: what is not rebuilt of them, is a gap."""
        with self._connection.transaction():
            self._take(source_id, 0, whole.partition, [whole], taken=[])

    def _move_offsets(
        self,
        source_id: int,
        fetch: Fetch,
        assessment: Assessment | None,
        lost: object = (),
    ) -> psycopg.Cursor[Any]:
        # The offsets move at the end: other days of the partition do not wait while rows are sent.
        return self._connection.execute(
            "SELECT %(ranges)s::int, nextval(pg_get_serial_sequence('batches', 'batch_id'))",
            {"ranges": len(fetch.ranges)},
        )

    def _account(self, source_id: int, batch_id: int, fetch: Fetch, assessment: Assessment) -> None:
        counts = [
            np.bincount(fetch.partitions[at], minlength=int(fetch.partitions.max()) + 1)
            for at in (assessment.scored_at, assessment.rejected_at)
        ]
        for partition in np.unique(fetch.partitions).tolist():
            ranges = [r for r in fetch.ranges if r.partition == partition]
            scored, rejected = (int(count[partition]) for count in counts)
            self._take(source_id, batch_id, partition, ranges, scored, rejected)
        super()._account(source_id, batch_id, fetch, assessment)

    def _take(
        self,
        source_id: int,
        batch_id: int,
        partition: int,
        ranges: list[OffsetRange],
        scored: int = 0,
        rejected: int = 0,
        taken: list[OffsetRange] | None = None,
    ) -> None:
        taken = ranges if taken is None else taken
        named = {
            "source_id": source_id,
            "partition": partition,
            "batch_id": batch_id,
            "first": min(r.first for r in ranges),
            "next": max(r.next for r in ranges),
            "firsts": [r.first for r in taken],
            "nexts": [r.next for r in taken],
            "scored": scored,
            "rejected": rejected,
            "reason": NOT_REBUILT,
        }
        self._connection.execute(_BEGIN, named)
        row = self._connection.execute(_LOCK, named).fetchone()
        assert row is not None  # noqa: S101 (it is there, or was just inserted)
        named |= {"had_first": row[0], "had_next": row[1]}
        row = self._connection.execute(_TAKE, named).fetchone()
        if row is None or row[0] != scored + rejected:
            raise OffsetsMoved(f"offsets of partition {partition} were rebuilt by another run")
        self._connection.execute(_MOVE, named)


# What is absent of first..next: gaps, and what lies beyond both ends.
_ABSENT: LiteralString = """
WITH known AS (
    SELECT coalesce(range_agg(int8range(first_offset, next_offset)), '{}') AS offsets
    FROM stream_offsets WHERE source_id = %(source_id)s AND partition = %(partition)s
), gaps AS (
    SELECT coalesce(range_agg(int8range(first_offset, next_offset)), '{}') AS offsets
    FROM offset_gaps WHERE source_id = %(source_id)s AND partition = %(partition)s
        AND reason = %(reason)s AND first_offset < %(next)s AND next_offset > %(first)s
), absent AS (
    SELECT unnest(int8multirange(int8range(%(first)s, %(next)s)) - (k.offsets - g.offsets)) AS range
    FROM known k, gaps g
)
SELECT lower(range), upper(range) FROM absent
"""

_BEGIN: LiteralString = """
INSERT INTO stream_offsets (source_id, partition, first_offset, next_offset)
VALUES (%(source_id)s, %(partition)s, %(first)s, %(first)s) ON CONFLICT DO NOTHING
"""

_LOCK: LiteralString = """
SELECT first_offset, next_offset FROM stream_offsets
WHERE source_id = %(source_id)s AND partition = %(partition)s FOR UPDATE
"""

# The gaps that the ranges lie in, and what the partition grows by at either end, less the ranges.
# Answers how many offsets that made less.
_TAKE: LiteralString = """
WITH old AS (
    DELETE FROM offset_gaps WHERE source_id = %(source_id)s AND partition = %(partition)s
        AND reason = %(reason)s AND first_offset <= %(next)s AND next_offset >= %(first)s
    RETURNING int8range(first_offset, next_offset) AS range
), open AS (
    SELECT coalesce(range_agg(range), '{}') AS offsets FROM (
        SELECT range FROM old
        UNION ALL SELECT int8range(%(first)s, greatest(%(first)s, %(had_first)s))
        UNION ALL SELECT int8range(least(%(next)s, %(had_next)s), %(next)s)
    ) AS found
), taken AS (
    SELECT coalesce(range_agg(int8range(f, n)), '{}') AS offsets
    FROM unnest(%(firsts)s::bigint[], %(nexts)s::bigint[]) AS t (f, n)
), remaining AS (
    SELECT unnest(o.offsets - t.offsets) AS range FROM open o, taken t
), kept AS (
    INSERT INTO offset_gaps (source_id, partition, first_offset, next_offset, batch_id, reason)
    SELECT %(source_id)s, %(partition)s, lower(range), upper(range), %(batch_id)s, %(reason)s
    FROM remaining
)
SELECT coalesce((SELECT sum(upper(r) - lower(r)) FROM open, unnest(open.offsets) AS r), 0)
    - coalesce((SELECT sum(upper(range) - lower(range)) FROM remaining), 0)
"""

_MOVE: LiteralString = """
UPDATE stream_offsets
SET first_offset = least(first_offset, %(first)s), next_offset = greatest(next_offset, %(next)s),
    scored = scored + %(scored)s, rejected = rejected + %(rejected)s,
    gaps = greatest(next_offset, %(next)s) - least(first_offset, %(first)s)
        - (scored + %(scored)s) - (rejected + %(rejected)s) - lost - forgotten,
    updated_at = clock_timestamp()
WHERE source_id = %(source_id)s AND partition = %(partition)s
"""
