"""Whether every committed offset is stored exactly once, counted in the tables.

It has progress of its own: what a run committed and did not live to count is counted by whoever
comes next. What is found stays, until somebody clears it by name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from credit_risk_dagster.errors import PlatformError
from resources.postgres.connection import fetch_all

# Counted by one statement: a tenth of a second, so that no snapshot is held for long.
SLICE_OFFSETS = 100_000
# Of each partition, in a check after a run: what one commits in a session of ten minutes, and a
# quarter of a minute's work. What is left is for the next one.
MOST_OFFSETS = 20_000_000
EVERYTHING = "the count of everything"


class FindingUnknown(PlatformError):
    """No finding of that number is open."""


@dataclass(frozen=True)
class Finding:
    """Offsets that are not stored exactly once.

    Attributes:
        kind: missing, or doubled.
        offsets: how many there are from first_offset up to and without next_offset.
        found_by: the run that counted.
    """

    finding_id: int
    source_id: int
    partition: int
    kind: str
    first_offset: int
    next_offset: int
    offsets: int
    found_at: datetime
    found_by: str

    def __str__(self) -> str:
        which = f"{self.first_offset:,} to {self.next_offset - 1:,}"
        if self.next_offset - self.first_offset == 1:
            which = f"{self.first_offset:,}"
        return (
            f"finding {self.finding_id}: {self.offsets:,} {self.kind} in source {self.source_id} "
            f"partition {self.partition}, offset {which}"
        )


@dataclass
class Counted:
    """A partition's offsets from first_offset to next_offset, as they are in the tables.

    Attributes:
        scored, rejected: rows; gaps: offsets, those of lost events too.
        forgotten: offsets of applicants who were forgotten.
        dropped: rows that retention dropped.
        missing, doubled: offsets that are in no place (dropped ones too), and in several.
    """

    partition: int
    first_offset: int
    next_offset: int
    scored: int = 0
    rejected: int = 0
    gaps: int = 0
    forgotten: int = 0
    dropped: int = 0
    missing: list[Range[int]] = field(default_factory=list)
    doubled: list[Range[int]] = field(default_factory=list)

    @property
    def difference(self) -> int:
        """How many offsets are not stored exactly once."""
        return abs(_size(self.missing) - self.dropped) + _size(self.doubled)


@dataclass(frozen=True)
class Checked:
    """What a check did.

    Attributes:
        counted: by source id, the ranges that it counted.
        left: offsets that are committed, and that it left for the next check.
        open: every finding that nobody has cleared, older ones too.
    """

    counted: list[tuple[int, Counted]]
    left: int
    open: list[Finding]

    @property
    def offsets(self) -> int:
        """How many offsets it counted."""
        return sum(c.next_offset - c.first_offset for _, c in self.counted)


def reconcile(connection: psycopg.Connection[Any], source_id: int) -> list[dict[str, Any]]:
    """Count all stored rows of a source against its committed offsets, by partition.

    Returns:
        partition, first_offset, next_offset, and what is stored in that range: scored, rejected,
        gaps, forgotten, dropped (by retention), and difference: how many offsets are missing or
        doubled.
    """
    partitions = fetch_all(connection, _PARTITIONS, {"source_id": source_id})
    counts = [
        _count_whole(connection, source_id, p["partition"], p["first_offset"], p["next_offset"])
        for p in partitions
    ]
    places = ("scored", "rejected", "gaps", "forgotten", "dropped", "difference")
    names = ("partition", "first_offset", "next_offset", *places)
    return [{name: getattr(count, name) for name in names} for count in counts]


class Reconciliation:
    """Counts, and keeps what it found, over one connection that commits by itself."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def check_new(self, run_id: str, most: int = MOST_OFFSETS) -> Checked:
        """Count what was committed since it was last counted, of every source, whoever did it.

        At most `most` offsets of each partition. A partition of which retention dropped rows
        meanwhile is left to `check_everything`, which knows how many. Of two at once, the second
        waits for the first, and goes on where that ended.

        It looks into the time partitions since a day before the last count, and into all of them
        where that is not each offset once. So a second row of an offset that says that it is older
        is found by `check_everything` alone.
        """
        counted = []
        for behind in fetch_all(self._connection, _BEHIND):
            with self._connection.transaction():
                (row,) = fetch_all(self._connection, _TAKE, behind)
                until = min(row["committed"], row["reconciled"] + most)
                if row["dropped"] or until <= row["reconciled"]:
                    continue
                count = _count(
                    self._connection,
                    *(behind["source_id"], behind["partition"], row["reconciled"], until),
                    row["since"],
                )
                self._keep(behind["source_id"], count, run_id)
                self._connection.execute(_MOVE, {**behind, "until": until, "everything": False})
            counted.append((behind["source_id"], count))
        left = sum(row["waiting"] for row in fetch_all(self._connection, _LEFT))
        return Checked(counted, left, self.open())

    def check_everything(self) -> Checked:
        """Count every partition of every source from its first offset on, with what retention
        dropped of it. Its cost is that of reading an index of all rows; it holds nothing open for
        longer than a slice takes."""
        counted = []
        for row in fetch_all(self._connection, _PARTITIONS, {"source_id": None}):
            key = {name: row[name] for name in ("source_id", "partition")}
            count = _count_whole(
                self._connection,
                *(row["source_id"], row["partition"], row["first_offset"], row["next_offset"]),
            )
            with self._connection.transaction():
                fetch_all(self._connection, _TAKE, key)
                self._keep(row["source_id"], count, EVERYTHING)
                self._connection.execute(
                    _MOVE, {**key, "until": row["next_offset"], "everything": True}
                )
            counted.append((row["source_id"], count))
        return Checked(counted, 0, self.open())

    def open(self) -> list[Finding]:
        """The findings that nobody has cleared, oldest first."""
        with self._connection.cursor(row_factory=class_row(Finding)) as cursor:
            return cursor.execute(_OPEN).fetchall()

    def recount(self, finding: Finding) -> Counted:
        """Count the range of a finding once more."""
        return _count(
            self._connection,
            *(finding.source_id, finding.partition, finding.first_offset, finding.next_offset),
        )

    def clear(self, finding_id: int, by: str, why: str) -> int:
        """Close a finding, after one more count of its range; who did it, why, and how many of its
        offsets are still wrong is kept with it for ever. Those are accepted by that, and are not
        found again; when none is, what goes wrong there later is a finding of its own.

        Returns:
            How many are still wrong.

        Raises:
            FindingUnknown: there is none of that number, or it is cleared.
        """
        for finding in self.open():
            if finding.finding_id == finding_id:
                break
        else:
            raise FindingUnknown(
                f"no finding {finding_id} is open: `credit-risk reconciliation ls` lists them"
            )
        wrong = self.recount(finding).difference
        self._connection.execute(
            _CLEAR, {"finding_id": finding_id, "by": by, "why": why, "still_wrong": wrong}
        )
        return wrong

    def _keep(self, source_id: int, count: Counted, found_by: str) -> None:
        """Keep those offsets that are wrong and in no finding yet, as findings of this check."""
        key = {"source_id": source_id, "partition": count.partition}
        known = {row["kind"]: row for row in fetch_all(self._connection, _KNOWN, key)}
        wrong = {"missing": Multirange(count.missing), "doubled": Multirange(count.doubled)}
        for kind, ranges in wrong.items():
            new = fetch_all(
                self._connection, _SUBTRACT, {"ranges": ranges, "known": known[kind]["exact"]}
            )[0]["left"]
            found = [(r.lower, r.upper, r.upper - r.lower) for r in new]
            if kind == "missing" and count.dropped:
                # Which offsets retention dropped is not recorded, only how many.
                more = abs(_size(new) - count.dropped) - known[kind]["vague"]
                found = [(count.first_offset, count.next_offset, more)] if more > 0 else []
            for first, following, offsets in found:
                self._connection.execute(
                    _FOUND,
                    {
                        **key,
                        "kind": kind,
                        "first": first,
                        "next": following,
                        "offsets": offsets,
                        "found_by": found_by,
                    },
                )


def _size(ranges: Sequence[Range[int]] | Multirange[int]) -> int:
    return sum((r.upper or 0) - (r.lower or 0) for r in ranges)


def _count_whole(
    connection: psycopg.Connection[Any], source_id: int, partition: int, first: int, following: int
) -> Counted:
    """Count a partition from its first offset on; again, when retention dropped rows meanwhile."""
    key = {"source_id": source_id, "partition": partition}
    while True:
        before = fetch_all(connection, _DROPPED, key)[0]["rows"]
        count = _count(connection, source_id, partition, first, following)
        count.dropped = fetch_all(connection, _DROPPED, key)[0]["rows"]
        if count.dropped == before:
            return count


def _count(
    connection: psycopg.Connection[Any],
    source_id: int,
    partition: int,
    first: int,
    following: int,
    since: datetime | None = None,
) -> Counted:
    """Count a range, with rows since a moment alone where these are all."""
    total = Counted(partition, first, following)
    for start, end in _slices(first, following):
        which: dict[str, Any] = {"source_id": source_id, "partition": partition, "since": since}
        which |= {"first": start, "next": end}
        (found,) = fetch_all(connection, _COUNT, which)
        if since and not found["places"] == found["offsets"] == end - start:
            which["since"] = None
            (found,) = fetch_all(connection, _COUNT, which)
        total.scored += found["scored"]
        total.rejected += found["rejected"]
        total.gaps += found["gaps"]
        total.forgotten += found["forgotten"]
        if found["places"] != found["offsets"] or found["offsets"] != end - start:
            # One more snapshot: in between, a re-drive moved a row at most, as a whole.
            (wrong,) = fetch_all(connection, _WRONG, which)
            total.missing += wrong["missing"]
            total.doubled += wrong["doubled"]
    return total


def _slices(first: int, following: int) -> Iterator[tuple[int, int]]:
    for start in range(first, following, SLICE_OFFSETS):
        yield start, min(start + SLICE_OFFSETS, following)


_PARTITIONS: LiteralString = """
SELECT source_id, partition, first_offset, next_offset FROM stream_offsets
WHERE %(source_id)s::int IS NULL OR source_id = %(source_id)s ORDER BY source_id, partition
"""

_BEHIND: LiteralString = """
WITH new AS (
    INSERT INTO reconciled_offsets (source_id, partition, next_offset)
    SELECT source_id, partition, first_offset FROM stream_offsets
    ON CONFLICT DO NOTHING
)
SELECT source_id, o.partition
FROM stream_offsets o LEFT JOIN reconciled_offsets r USING (source_id, partition)
WHERE coalesce(r.next_offset, o.first_offset) < o.next_offset ORDER BY source_id, o.partition
"""

# Only one counts a partition at a time. Rows that retention drops are days older than the last
# count, unless that is days ago itself.
_TAKE: LiteralString = """
SELECT r.next_offset AS reconciled, o.next_offset AS committed,
    r.checked_at - interval '1 day' AS since,
    r.checked_at < now() - interval '12 hours' AND EXISTS (
        SELECT FROM dropped_rows d WHERE d.source_id = r.source_id AND d.partition = r.partition
            AND d.dropped_at > r.checked_at
    ) AS dropped
FROM reconciled_offsets r JOIN stream_offsets o USING (source_id, partition)
WHERE source_id = %(source_id)s AND r.partition = %(partition)s FOR UPDATE OF r
"""

_MOVE: LiteralString = """
UPDATE reconciled_offsets SET next_offset = greatest(next_offset, %(until)s),
    checked_at = clock_timestamp(),
    everything_at = CASE WHEN %(everything)s THEN clock_timestamp() ELSE everything_at END
WHERE source_id = %(source_id)s AND partition = %(partition)s
"""

_LEFT: LiteralString = """
SELECT o.next_offset - r.next_offset AS waiting
FROM stream_offsets o JOIN reconciled_offsets r USING (source_id, partition)
WHERE r.next_offset < o.next_offset
"""

_DROPPED: LiteralString = """
SELECT coalesce(sum(scored + rejected), 0)::bigint AS rows FROM dropped_rows
WHERE source_id = %(source_id)s AND partition = %(partition)s
"""

# The gap that begins before the slice is the last one before it. Rows are read by the primary keys.
_PLACES: LiteralString = """
WITH gaps AS MATERIALIZED (
    SELECT int8range(greatest(first_offset, %(first)s), least(next_offset, %(next)s)) AS range
    FROM (
        SELECT first_offset, next_offset FROM offset_gaps
        WHERE source_id = %(source_id)s AND partition = %(partition)s
            AND first_offset >= %(first)s AND first_offset < %(next)s
        UNION ALL (
            SELECT first_offset, next_offset FROM offset_gaps
            WHERE source_id = %(source_id)s AND partition = %(partition)s
                AND first_offset < %(first)s
            ORDER BY first_offset DESC LIMIT 1
        )
    ) AS near WHERE next_offset > %(first)s
), gone AS MATERIALIZED (
    SELECT coalesce(range_agg(range), '{}') AS offsets,
        coalesce(sum(upper(range) - lower(range)), 0)::bigint AS places FROM gaps
), rows AS MATERIALIZED (
    SELECT "offset" AS at, 'scored' AS place FROM scored_applications
    WHERE source_id = %(source_id)s AND partition = %(partition)s
        AND "offset" >= %(first)s AND "offset" < %(next)s
        AND scored_at >= coalesce(%(since)s::timestamptz, '-infinity')
    UNION ALL
    SELECT "offset", 'rejected' FROM rejected_events
    WHERE source_id = %(source_id)s AND partition = %(partition)s
        AND "offset" >= %(first)s AND "offset" < %(next)s
        AND rejected_at >= coalesce(%(since)s::timestamptz, '-infinity')
    UNION ALL
    SELECT "offset", 'forgotten' FROM forgotten_offsets
    WHERE source_id = %(source_id)s AND partition = %(partition)s
        AND "offset" >= %(first)s AND "offset" < %(next)s AND counted
)"""

_COUNT: LiteralString = (
    _PLACES  # noqa: S608 (of literals)
    + """
SELECT scored, rejected, forgotten, gone.places AS gaps,
    scored + rejected + forgotten + gone.places AS places,
    gap_offsets + row_offsets AS offsets
FROM gone, (
    SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint AS gap_offsets
    FROM gone, unnest(offsets) AS r
) AS g, (
    SELECT count(*) FILTER (WHERE place = 'scored') AS scored,
        count(*) FILTER (WHERE place = 'rejected') AS rejected,
        count(*) FILTER (WHERE place = 'forgotten') AS forgotten,
        count(DISTINCT at) FILTER (
            WHERE (SELECT isempty(offsets) FROM gone) OR NOT at <@ (SELECT offsets FROM gone)
        ) AS row_offsets
    FROM rows
) AS stored
"""
)

_WRONG: LiteralString = (
    _PLACES  # noqa: S608 (of literals)
    + """, covered AS (
    SELECT range FROM gaps UNION ALL SELECT int8range(at, at + 1) FROM rows
), edges AS (
    SELECT lower(range) AS at, 1 AS step FROM covered
    UNION ALL SELECT upper(range), -1 FROM covered
), depths AS (
    SELECT at, sum(sum(step)) OVER (ORDER BY at) AS depth, lead(at) OVER (ORDER BY at) AS until
    FROM edges GROUP BY at
)
SELECT int8multirange(int8range(%(first)s, %(next)s))
        - coalesce(range_agg(int8range(at, until)) FILTER (WHERE depth > 0), '{}') AS missing,
    coalesce(range_agg(int8range(at, until)) FILTER (WHERE depth > 1), '{}') AS doubled
FROM depths
"""
)

_KNOWN: LiteralString = """
SELECT kind, coalesce(range_agg(int8range(first_offset, next_offset))
        FILTER (WHERE offsets = next_offset - first_offset), '{}') AS exact,
    coalesce(sum(offsets) FILTER (WHERE offsets < next_offset - first_offset), 0)::bigint AS vague
FROM unnest('{missing,doubled}'::text[]) AS k (kind) LEFT JOIN (
    SELECT * FROM reconciliation_findings
    WHERE source_id = %(source_id)s AND partition = %(partition)s
        AND (cleared_at IS NULL OR still_wrong > 0)
) AS f USING (kind)
GROUP BY kind
"""

_SUBTRACT: LiteralString = 'SELECT %(ranges)s::int8multirange - %(known)s::int8multirange AS "left"'

_FOUND: LiteralString = """
INSERT INTO reconciliation_findings
    (source_id, partition, kind, first_offset, next_offset, offsets, found_by)
VALUES (%(source_id)s, %(partition)s, %(kind)s, %(first)s, %(next)s, %(offsets)s, %(found_by)s)
"""

_OPEN: LiteralString = """
SELECT finding_id, source_id, partition, kind, first_offset, next_offset, offsets, found_at,
    found_by
FROM reconciliation_findings WHERE cleared_at IS NULL ORDER BY finding_id
"""

_CLEAR: LiteralString = """
UPDATE reconciliation_findings
SET cleared_at = clock_timestamp(), cleared_by = %(by)s, cleared_why = %(why)s,
    still_wrong = %(still_wrong)s
WHERE finding_id = %(finding_id)s AND cleared_at IS NULL
"""
