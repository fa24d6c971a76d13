"""The ledger: committed offsets, and the micro-batch that moves them with its rows.

All SQL that writes these tables is here.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from operator import itemgetter
from typing import Any, LiteralString

import numpy as np
import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from credit_risk_dagster.domain.decoding import reason_code
from credit_risk_dagster.domain.latency import histogram
from credit_risk_dagster.domain.record_time import NO_TIME
from credit_risk_dagster.domain.scoring import Assessment
from credit_risk_dagster.domain.shadow import Opinion
from resources.kafka.reader import Fetch, OffsetRange
from resources.postgres.cases import open_cases
from resources.postgres.columns import copy_batch, insert_batch
from resources.postgres.repeats import Repeats
from resources.postgres.scored_rows import rejected_rows, scored_rows
from resources.postgres.shadow import record_opinions
from resources.postgres.unstorable import (
    REFUSALS,
    BatchRefused,
    refusal_of,
    refused_rows,
    tell,
)


class OffsetsMoved(Exception):
    """Another run committed these offsets first; nothing of the batch was written."""


@dataclass(frozen=True)
class Progress:
    """What is committed of one partition: next_offset - first_offset = scored + rejected + gaps +
    lost + forgotten."""

    partition: int
    first_offset: int
    next_offset: int
    scored: int
    rejected: int
    gaps: int
    lost: int
    forgotten: int
    idle_seconds: float


@dataclass(frozen=True)
class Committed:
    """A committed batch: its id, what was stored of it, its latency histogram (see
    `domain.latency`), the seconds until its rows were there, and those that its books and the
    commit took, and what was wrong with shadows."""

    batch_id: int
    assessment: Assessment
    latency_buckets: list[int]
    write_seconds: float
    commit_seconds: float
    shadow_errors: Sequence[str] = ()


@dataclass(frozen=True)
class StageSeconds:
    """How long a batch took before its commit; commit is the previous batch's (a transaction
    cannot record its own), None for the first of a session."""

    fetch: float
    decode: float
    score: float
    commit: float | None


class Ledger:
    """Progress of the stream, over one connection.

    Args:
        repeats: knows what was sent before.
        case_within: for how long a case of the Watchlist may be open; without it, none is opened.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        repeats: Repeats | None = None,
        case_within: timedelta | None = None,
    ) -> None:
        self._connection = connection
        self._repeats = repeats
        self._case_within = case_within

    def progress(self, source_id: int) -> list[Progress]:
        """What is committed, by partition."""
        with self._connection.cursor(row_factory=class_row(Progress)) as cursor:
            return cursor.execute(
                "SELECT partition, first_offset, next_offset, scored, rejected, gaps, lost,"
                " forgotten,"
                " extract(epoch FROM clock_timestamp() - updated_at)::float8 AS idle_seconds"
                " FROM stream_offsets WHERE source_id = %(source_id)s ORDER BY partition",
                {"source_id": source_id},
            ).fetchall()

    def stored(self) -> tuple[int, int]:
        """Scored and rejected events of all sources that the tables have."""
        row = self._connection.execute(
            "SELECT coalesce(sum(scored), 0)::bigint - (SELECT coalesce(sum(scored), 0)::bigint"
            " FROM dropped_rows), coalesce(sum(rejected), 0)::bigint - (SELECT"
            " coalesce(sum(rejected), 0)::bigint FROM dropped_rows) FROM stream_offsets"
        ).fetchone()
        assert row is not None  # noqa: S101 (sums)
        return int(row[0]), int(row[1])

    def silent_seconds(self, source_id: int) -> float | None:
        """Seconds since an application of the source was scored; None when none ever was."""
        row = self._connection.execute(
            "SELECT extract(epoch FROM clock_timestamp() - committed_at)::float8 FROM batches"
            " WHERE source_id = %(source_id)s AND scored > 0 ORDER BY committed_at DESC LIMIT 1",
            {"source_id": source_id},
        ).fetchone()
        return float(row[0]) if row else None

    def start_partitions(self, source_id: int, beginnings: Mapping[int, int]) -> dict[int, int]:
        """The next offset of each partition; a new partition starts at its beginning."""
        self._connection.execute(
            "INSERT INTO stream_offsets (source_id, partition, first_offset, next_offset)"
            " SELECT %(source_id)s, p, o, o"
            " FROM unnest(%(partitions)s::int[], %(offsets)s::bigint[]) AS new (p, o)"
            " ON CONFLICT DO NOTHING",
            {
                "source_id": source_id,
                "partitions": list(beginnings),
                "offsets": list(beginnings.values()),
            },
        )
        committed = {p.partition: p.next_offset for p in self.progress(source_id)}
        return {partition: committed[partition] for partition in beginnings}

    def session_seconds(self, run_ids: Sequence[str]) -> dict[str, float]:
        """Seconds since each run's first commit; runs that committed nothing are left out."""
        rows = self._connection.execute(
            "SELECT run_id, extract(epoch FROM clock_timestamp() - min(committed_at))::float8"
            " FROM batches WHERE run_id = ANY (%(run_ids)s) GROUP BY run_id",
            {"run_ids": list(run_ids)},
        )
        return dict(rows.fetchall())

    def commit(
        self,
        source_id: int,
        policy_id: int,
        run_id: str,
        lane: int,
        fetch: Fetch,
        assessment: Assessment,
        seconds: StageSeconds,
        opinions: Sequence[Opinion] = (),
    ) -> Committed:
        """Write a micro-batch and move the offsets, in one transaction. Records that repeat others
        are rejected; those that Postgres refuses are looked for then, and rejected as unstorable.

        Raises:
            OffsetsMoved: the offsets are no longer where the batch started. Nothing is written.
            BatchRefused: Postgres refuses it, and no record is at fault. Nothing is written.
        """
        batch = (source_id, policy_id, run_id, lane)
        if self._repeats:
            assessment = self._repeats.reject(source_id, fetch, assessment)
        try:
            return self._commit(*batch, fetch, assessment, seconds, opinions)
        except REFUSALS as error:
            refusal_of(error)
        fetch, assessment = self._storable(source_id, policy_id, fetch, assessment)
        try:
            return self._commit(*batch, fetch, assessment, seconds, opinions)
        except REFUSALS as error:
            raise BatchRefused(
                f"Postgres refuses the batch, and none of its records alone: "
                f"{refusal_of(error).names}"
            ) from error

    def _commit(
        self,
        source_id: int,
        policy_id: int,
        run_id: str,
        lane: int,
        fetch: Fetch,
        assessment: Assessment,
        seconds: StageSeconds,
        opinions: Sequence[Opinion],
    ) -> Committed:
        connection = self._connection
        started = time.perf_counter()
        # Each block is one round trip, and a COPY is two.
        with _rolled_back(connection):
            with connection.pipeline():
                connection.execute("BEGIN")
                moved = self._move_offsets(source_id, fetch, assessment)
            batch_id = _batch_id(fetch, moved)
            if len(assessment.scored_at):
                rows = scored_rows(source_id, batch_id, policy_id, fetch, assessment)
                copy_batch(connection, "scored_applications", rows)
            wrong = record_opinions(connection, source_id, fetch, assessment, opinions)
            written = time.perf_counter()
            # The clock is read as late as a transaction can.
            known = fetch.timestamps[fetch.timestamps != NO_TIME]
            latencies = np.maximum(time.time() - known / 1000, 0.0)
            buckets: list[int] = histogram(latencies).tolist()
            tiers = assessment.tier_counts()
            with connection.pipeline():
                self._account(source_id, batch_id, fetch, assessment)
                connection.execute(
                    _INSERT_BATCH,
                    {
                        **_of_batch(batch_id, source_id, policy_id, run_id, lane, fetch.ranges),
                        "lost": 0,
                        "scored": len(assessment.scored_at),
                        "rejected": len(assessment.rejected_at),
                        "gaps": sum(map(len, fetch.gaps)),
                        "watchlist": tiers["Watchlist"],
                        "elevated": tiers["Elevated"],
                        "low": tiers["Low"],
                        "reject_reasons": Jsonb(assessment.reason_counts()),
                        "value_bytes": fetch.value_bytes,
                        "fetch_ms": seconds.fetch * 1000,
                        "decode_ms": seconds.decode * 1000,
                        "score_ms": seconds.score * 1000,
                        "copy_ms": (written - started) * 1000,
                        "commit_ms": None if seconds.commit is None else seconds.commit * 1000,
                        "latency_buckets": buckets,
                        "latency_sum_s": float(latencies.sum()),
                    },
                )
                connection.execute("COMMIT")
        return Committed(
            *(batch_id, assessment, buckets),
            *(written - started, time.perf_counter() - written, wrong),
        )

    def _account(self, source_id: int, batch_id: int, fetch: Fetch, assessment: Assessment) -> None:
        """What of the transaction comes after the scored rows."""
        if len(assessment.rejected_at):
            rows = rejected_rows(source_id, batch_id, fetch, assessment)
            insert_batch(self._connection, "rejected_events", rows)
        if self._case_within and assessment.tier_counts()["Watchlist"]:
            open_cases(self._connection, self._case_within, batch_id)
        self._insert_gaps(source_id, batch_id, fetch.gaps, "not delivered by the broker")
        self._roll_up(source_id, assessment)

    def record_lost(
        self,
        source_id: int,
        policy_id: int,
        run_id: str,
        lane: int,
        lost: Sequence[OffsetRange],
        reason: str = "removed by the broker's retention",
    ) -> None:
        """Move on over ranges whose events cannot be had any more, as a batch of their own.

        Raises:
            OffsetsMoved: the offsets are no longer where the ranges start.
        """
        with self._connection.transaction():
            gone = Fetch(ranges=[*lost])
            batch_id = _batch_id(gone, self._move_offsets(source_id, gone, None, lost))
            self._insert_gaps(source_id, batch_id, lost, reason, lost=True)
            self._connection.execute(
                _INSERT_BATCH,
                {
                    **dict.fromkeys(_COUNTS, 0),
                    **_of_batch(batch_id, source_id, policy_id, run_id, lane, lost),
                    "lost": sum(map(len, lost)),
                    "reject_reasons": Jsonb({}),
                    "commit_ms": None,
                    "latency_buckets": histogram(np.empty(0)).tolist(),
                },
            )

    def _move_offsets(
        self,
        source_id: int,
        fetch: Fetch,
        assessment: Assessment | None,
        lost: Sequence[OffsetRange] = (),
    ) -> psycopg.Cursor[Any]:
        """Compare-and-set the offsets of the batch, for `_batch_id` to read what came of it."""
        last = max((r.partition for r in fetch.ranges), default=-1) + 1
        scored, rejected = np.zeros(last, np.int64), np.zeros(last, np.int64)
        if assessment is not None:
            scored += np.bincount(fetch.partitions[assessment.scored_at], minlength=last)
            rejected += np.bincount(fetch.partitions[assessment.rejected_at], minlength=last)
        gaps, gone = np.zeros(last, np.int64), np.zeros(last, np.int64)
        for counts, ranges in ((gaps, fetch.gaps), (gone, lost)):
            for found in ranges:
                counts[found.partition] += len(found)
        at = [r.partition for r in fetch.ranges]
        return self._connection.execute(
            _MOVE_OFFSETS,
            {
                "source_id": source_id,
                "partitions": at,
                "first": [r.first for r in fetch.ranges],
                "next": [r.next for r in fetch.ranges],
                "scored": scored[at].tolist(),
                "rejected": rejected[at].tolist(),
                "gaps": gaps[at].tolist(),
                "lost": gone[at].tolist(),
                "ends": [fetch.ends.get(partition) for partition in at],
            },
        )

    def _storable(
        self, source_id: int, policy_id: int, fetch: Fetch, assessment: Assessment
    ) -> tuple[Fetch, Assessment]:
        """The batch with those records rejected whose rows Postgres refuses; and without the bytes
        of those that it refuses even so."""
        unscored = refused_rows(
            self._connection,
            "scored_applications",
            len(assessment.scored_at),
            lambda some: scored_rows(source_id, 0, policy_id, fetch, assessment, some),
        )
        told = {int(assessment.scored_at[at]): refusal for at, refusal in unscored.items()}
        assessment = assessment.rejecting({at: r.reason for at, r in unscored.items()})
        unkept = refused_rows(
            self._connection,
            "rejected_events",
            len(assessment.rejected_at),
            lambda some: rejected_rows(source_id, 0, fetch, assessment, some),
        )
        if unkept:
            reasons = assessment.reasons.copy()
            keys, values = list(fetch.keys), list(fetch.values)
            for at, refusal in unkept.items():
                record = int(assessment.rejected_at[at])
                keys[record] = values[record] = None
                reasons[at] = reason_code(refusal.reason)
                told[record] = refusal
            fetch = replace(fetch, keys=keys, values=values)
            assessment = replace(assessment, reasons=reasons)
        tell(
            {
                (int(fetch.partitions[at]), int(fetch.offsets[at])): refusal
                for at, refusal in sorted(told.items(), key=itemgetter(0))
            }
        )
        return fetch, assessment

    def _insert_gaps(
        self,
        source_id: int,
        batch_id: int,
        gaps: Sequence[OffsetRange],
        reason: str,
        *,
        lost: bool = False,
    ) -> None:
        if gaps:
            self._connection.execute(
                "INSERT INTO offset_gaps"
                " (source_id, partition, first_offset, next_offset, batch_id, reason, lost)"
                " SELECT %(source_id)s, p, f, n, %(batch_id)s, %(reason)s, %(lost)s"
                " FROM unnest(%(partitions)s::int[], %(first)s::bigint[], %(next)s::bigint[]) AS"
                " gap (p, f, n)",
                {
                    "source_id": source_id,
                    "batch_id": batch_id,
                    "reason": reason,
                    "lost": lost,
                    "partitions": [g.partition for g in gaps],
                    "first": [g.first for g in gaps],
                    "next": [g.next for g in gaps],
                },
            )

    def _roll_up(self, source_id: int, assessment: Assessment) -> None:
        counts = assessment.tier_counts()
        self._connection.execute(
            _ROLL_UP,
            {
                "source_id": source_id,
                "tiers": [*counts, "Rejected"],
                "counts": [*counts.values(), len(assessment.rejected_at)],
                "amounts": [*assessment.tier_amounts(), 0.0],
            },
        )


@contextmanager
def _rolled_back(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """What begins a transaction in this block, and commits it along with its last statements,
    leaves nothing when it fails."""
    try:
        yield
    except BaseException:
        with suppress(psycopg.OperationalError):  # the connection may be what failed
            connection.rollback()
        raise


def _batch_id(fetch: Fetch, moved: psycopg.Cursor[Any]) -> int:
    """The new batch's id, after its offsets were moved."""
    row = moved.fetchone()
    assert row is not None  # noqa: S101 (an aggregate always has a row)
    partitions, batch_id = row
    if partitions != len(fetch.ranges):
        raise OffsetsMoved(
            f"{len(fetch.ranges) - partitions} of {len(fetch.ranges)} partitions were moved by "
            "another run"
        )
    return int(batch_id)


_MOVE_OFFSETS: LiteralString = """
WITH moved AS (
    UPDATE stream_offsets AS o
    SET next_offset = b.next, scored = o.scored + b.scored, rejected = o.rejected + b.rejected,
        gaps = o.gaps + b.gaps, lost = o.lost + b.lost, updated_at = clock_timestamp(),
        end_offset = coalesce(b.end_offset, o.end_offset),
        end_seen_at = CASE WHEN b.end_offset IS NULL THEN end_seen_at ELSE clock_timestamp() END
    FROM unnest(%(partitions)s::int[], %(first)s::bigint[], %(next)s::bigint[],
                %(scored)s::bigint[], %(rejected)s::bigint[], %(gaps)s::bigint[],
                %(lost)s::bigint[], %(ends)s::bigint[])
        AS b (partition, first, next, scored, rejected, gaps, lost, end_offset)
    WHERE o.source_id = %(source_id)s AND o.partition = b.partition AND o.next_offset = b.first
    RETURNING 1
)
SELECT count(*), nextval(pg_get_serial_sequence('batches', 'batch_id')) FROM moved
"""

_INSERT_BATCH: LiteralString = """
INSERT INTO batches (
    batch_id, source_id, policy_id, run_id, lane, partitions, first_offsets, next_offsets,
    scored, rejected, gaps, lost, watchlist, elevated, low, reject_reasons, value_bytes,
    fetch_ms, decode_ms, score_ms, copy_ms, commit_ms, latency_buckets, latency_sum_s
) VALUES (
    %(batch_id)s, %(source_id)s, %(policy_id)s, %(run_id)s, %(lane)s,
    %(partitions)s, %(first_offsets)s, %(next_offsets)s,
    %(scored)s, %(rejected)s, %(gaps)s, %(lost)s, %(watchlist)s, %(elevated)s, %(low)s,
    %(reject_reasons)s, %(value_bytes)s,
    %(fetch_ms)s, %(decode_ms)s, %(score_ms)s, %(copy_ms)s, %(commit_ms)s,
    %(latency_buckets)s, %(latency_sum_s)s
)
"""

# What is nothing in a batch that has no events.
_COUNTS = (
    *("scored", "rejected", "gaps", "watchlist", "elevated", "low", "value_bytes"),
    *("fetch_ms", "decode_ms", "score_ms", "copy_ms", "latency_sum_s"),
)

# Rows are updated in the order of their key, so that two lanes cannot deadlock on one minute.
_ROLL_UP: LiteralString = """
INSERT INTO risk_by_minute AS total (minute, source_id, risk_tier, applications, loan_amnt)
SELECT date_trunc('minute', now()), %(source_id)s, tier, n, amount
FROM unnest(%(tiers)s::text[], %(counts)s::bigint[], %(amounts)s::float8[])
    AS b (tier, n, amount)
WHERE n > 0 ORDER BY tier
ON CONFLICT (minute, source_id, risk_tier) DO UPDATE
SET applications = total.applications + excluded.applications,
    loan_amnt = total.loan_amnt + excluded.loan_amnt
"""


def _of_batch(
    batch_id: int,
    source_id: int,
    policy_id: int,
    run_id: str,
    lane: int,
    ranges: Sequence[OffsetRange],
) -> dict[str, Any]:
    """The columns that say which batch it is, and of which offsets."""
    return {
        "batch_id": batch_id,
        "source_id": source_id,
        "policy_id": policy_id,
        "run_id": run_id,
        "lane": lane,
        "partitions": [r.partition for r in ranges],
        "first_offsets": [r.first for r in ranges],
        "next_offsets": [r.next for r in ranges],
    }
