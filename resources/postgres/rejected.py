"""Rejected events, and their way to the scored ones after a fix."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg.rows import class_row

from credit_risk_dagster.domain.decoding import DUPLICATE
from credit_risk_dagster.domain.scoring import Assessment
from credit_risk_dagster.errors import PlatformError
from resources.postgres.cases import open_cases
from resources.postgres.columns import constant, copy_batch
from resources.postgres.scored_rows import by_policy
from resources.postgres.unstorable import REFUSALS, refusal_of, refused_rows, tell

PAGE_BYTES = 16 * 2**20  # of keys and values, and one event more


class RedriveRaced(PlatformError):
    """Rejected events are not there any more, or somebody else scores them again."""


@dataclass(frozen=True)
class RejectedEvent:
    """A rejected event; key and value are its exact bytes."""

    source_id: int
    partition: int
    offset: int
    rejected_at: datetime
    recorded_at: datetime
    batch_id: int
    reason: str
    key: bytes | None
    value: bytes | None
    first: str | None = None  # source/partition/offset of the event that it repeats

    @property
    def coordinates(self) -> tuple[int, int, int]:
        return self.source_id, self.partition, self.offset


class RejectedEvents:
    """The events that could not be scored, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def page(
        self,
        *,
        reason: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        repeats: bool = True,
        after: tuple[int, int, int] = (-1, -1, -1),
        limit: int = 5_000,
        max_bytes: int = PAGE_BYTES,
    ) -> list[RejectedEvent]:
        """Rejected events by source, partition and offset; none when there are no more.

        Args:
            reason, partition, offset: only those.
            repeats: also those of applications that another event is of.
            after: (source, partition, offset) of the last one that was seen.
            limit: most events.
            max_bytes: the page ends with the event that reaches so many bytes.
        """
        with self._connection.cursor(row_factory=class_row(RejectedEvent)) as cursor:
            return cursor.execute(
                _REJECTED,
                {
                    "reason": reason,
                    "partition": partition,
                    "offset": offset,
                    "left_out": None if repeats else DUPLICATE,
                    "after_source": after[0],
                    "after_partition": after[1],
                    "after_offset": after[2],
                    "limit": limit,
                    "max_bytes": max_bytes,
                },
            ).fetchall()

    def each(
        self,
        *,
        reason: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
    ) -> Iterator[RejectedEvent]:
        """The same events one by one; of their bytes, a page at most is in memory."""
        after = (-1, -1, -1)
        while page := self.page(reason=reason, partition=partition, offset=offset, after=after):
            after = page[-1].coordinates
            yield from page

    def lock_redrive(self) -> None:
        """Be the only one that scores rejected events again, for as long as the connection lives.

        Raises:
            RedriveRaced: another one does.
        """
        try:
            with self._connection.transaction():
                # The server gives the lock of a connection back only a moment after that ended.
                self._connection.execute("SET LOCAL lock_timeout = '2s'")
                self._connection.execute(
                    "SELECT pg_advisory_lock(hashtextextended(current_schema() || '.redrive', 0))"
                )
        except psycopg.errors.LockNotAvailable as error:
            raise RedriveRaced(
                "another run re-drives rejected events: wait until it is done"
            ) from error

    def redrive(
        self,
        events: Sequence[RejectedEvent],
        assessment: Assessment,
        policy_id: int,
        run_id: str,
        case_within: timedelta | None = None,
    ) -> list[RejectedEvent]:
        """Move those of one partition's rejected events that are now scored, in one transaction.

        They keep their offset and the batch that rejected them, and leave a row of audit. Those
        that Postgres refuses stay where they are.

        Args:
            events: of one source and partition.
            assessment: of the same events, in the same order.
            case_within: for how long a case of the Watchlist may be open; without it, none is.

        Returns:
            Those that were moved.

        Raises:
            RedriveRaced: some of them are no longer there. Nothing is written.
            BatchRefused: Postgres refuses them, and no event is at fault. Nothing is written.
        """
        try:
            return self._move(events, assessment, policy_id, run_id, case_within)
        except REFUSALS as error:
            refusal_of(error)
        scored = [events[at] for at in assessment.scored_at]
        refused = refused_rows(
            self._connection,
            "scored_applications",
            len(scored),
            lambda some: _scored_rows(scored[some], assessment.scored[some], policy_id),
        )
        tell({scored[at].coordinates[1:]: refusal for at, refusal in refused.items()})
        assessment = assessment.rejecting({at: r.reason for at, r in refused.items()})
        return self._move(events, assessment, policy_id, run_id, case_within)

    def _move(
        self,
        events: Sequence[RejectedEvent],
        assessment: Assessment,
        policy_id: int,
        run_id: str,
        case_within: timedelta | None,
    ) -> list[RejectedEvent]:
        moved = [events[at] for at in assessment.scored_at]
        if not moved:
            return []
        which: dict[str, Any] = {
            "source_id": moved[0].source_id,
            "partition": moved[0].partition,
            "offsets": [event.offset for event in moved],
            "rejected_at": [event.rejected_at for event in moved],
            "reasons": [event.reason for event in moved],
            "policy_id": policy_id,
            "run_id": run_id,
            "count": len(moved),
        }
        with self._connection.transaction():
            # First the row that a drain's transaction takes first, too: so none waits in a circle.
            self._connection.execute(_REDRIVE_OFFSETS, which)
            found = self._connection.execute(_REDRIVE_DELETE, which).rowcount
            if found != len(moved):
                raise RedriveRaced(
                    f"{len(moved) - found} of {len(moved)} rejected events of partition "
                    f"{moved[0].partition} are gone meanwhile: start again"
                )
            rows = _scored_rows(moved, assessment.scored, policy_id)
            copy_batch(self._connection, "scored_applications", rows)
            if case_within:
                open_cases(self._connection, case_within)
            self._connection.execute(_REDRIVE_AUDIT, which)
            tiers = assessment.tier_counts()
            self._connection.execute(
                _REDRIVE_ROLL_UP,
                which
                | {
                    "tiers": list(tiers),
                    "counts": list(tiers.values()),
                    "amounts": assessment.tier_amounts(),
                },
            )
        return moved


def _scored_rows(
    moved: Sequence[RejectedEvent], rows: pa.RecordBatch, policy_id: int
) -> pa.RecordBatch:
    coordinates: dict[str, pa.Array] = {
        "source_id": constant(moved[0].source_id, len(moved), pa.int32()),
        "partition": constant(moved[0].partition, len(moved), pa.int32()),
        "offset": pa.array([event.offset for event in moved], pa.int64()),
        "batch_id": pa.array([event.batch_id for event in moved], pa.int64()),
        "recorded_at": pa.array([event.recorded_at for event in moved], pa.timestamp("us", "UTC")),
    }
    rows = by_policy(rows, policy_id)
    return pa.RecordBatch.from_pydict(coordinates | {n: rows[n] for n in rows.schema.names})


_REJECTED: LiteralString = """
SELECT source_id, partition, "offset", rejected_at,
    least(recorded_at, '9999-12-31Z') AS recorded_at, batch_id, reason, key, value,
    first_source_id || '/' || first_partition || '/' || first_offset AS first
FROM (
    SELECT *, sum(coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)) OVER (
        ORDER BY source_id, partition, "offset" ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS bytes_before
    FROM (
        SELECT * FROM rejected_events
        WHERE (%(reason)s::text IS NULL OR reason = %(reason)s)
            AND reason IS DISTINCT FROM %(left_out)s::text
            AND (%(partition)s::int IS NULL OR partition = %(partition)s)
            AND (%(offset)s::bigint IS NULL OR "offset" = %(offset)s)
            AND (source_id, partition, "offset")
                > (%(after_source)s::int, %(after_partition)s::int, %(after_offset)s::bigint)
        ORDER BY source_id, partition, "offset" LIMIT %(limit)s
    ) AS wanted
) AS measured
WHERE coalesce(bytes_before, 0) < %(max_bytes)s
ORDER BY source_id, partition, "offset"
"""

_REDRIVE_OFFSETS: LiteralString = """
UPDATE stream_offsets SET scored = scored + %(count)s, rejected = rejected - %(count)s
WHERE source_id = %(source_id)s AND partition = %(partition)s
"""

_REDRIVE_AUDIT: LiteralString = """
INSERT INTO redriven_events
    (source_id, partition, "offset", reason, rejected_at, policy_id, run_id)
SELECT %(source_id)s, %(partition)s, o, r, t, %(policy_id)s, %(run_id)s
FROM unnest(%(offsets)s::bigint[], %(reasons)s::text[], %(rejected_at)s::timestamptz[])
    AS moved (o, r, t)
"""

_REDRIVE_DELETE: LiteralString = """
DELETE FROM rejected_events USING
    unnest(%(offsets)s::bigint[], %(rejected_at)s::timestamptz[]) AS moved (o, t)
WHERE source_id = %(source_id)s AND partition = %(partition)s
    AND "offset" = moved.o AND rejected_at = moved.t
"""

# In the order of the key, as in _ROLL_UP. A minute that retention removed is not brought back.
_REDRIVE_ROLL_UP: LiteralString = """
WITH change AS (
    SELECT r.minute, r.risk_tier AS tier, -count(*) AS n, 0.0 AS amount
    FROM unnest(%(rejected_at)s::timestamptz[]) AS t
    JOIN risk_by_minute r ON r.source_id = %(source_id)s AND r.risk_tier = 'Rejected'
        AND r.minute = date_trunc('minute', t)
    GROUP BY 1, 2
    UNION ALL
    SELECT date_trunc('minute', now()), tier, n, amount
    FROM unnest(%(tiers)s::text[], %(counts)s::bigint[], %(amounts)s::float8[])
        AS b (tier, n, amount)
    WHERE n > 0
)
INSERT INTO risk_by_minute AS total (minute, source_id, risk_tier, applications, loan_amnt)
SELECT minute, %(source_id)s, tier, n, amount FROM change ORDER BY minute, tier
ON CONFLICT (minute, source_id, risk_tier) DO UPDATE
SET applications = total.applications + excluded.applications,
    loan_amnt = total.loan_amnt + excluded.loan_amnt
"""
