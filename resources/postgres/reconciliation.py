"""Whether every committed offset is stored exactly once, counted in the tables."""

from typing import Any, LiteralString

import psycopg

from resources.postgres.connection import fetch_all


def reconcile(
    connection: psycopg.Connection[Any], source_id: int, run_id: str | None = None
) -> list[dict[str, Any]]:
    """Count the stored rows against the committed offsets, by partition.

    Args:
        source_id: the source.
        run_id: count only the ranges that this run committed (cheap, for a check after each
            run); None counts everything.

    Returns:
        partition, first_offset, next_offset, and the rows actually stored in that range:
        scored, rejected, gaps, dropped (by retention; only when everything is counted), and
        difference = next - first - scored - rejected - gaps - dropped.
    """
    return fetch_all(connection, _RECONCILE, {"source_id": source_id, "run_id": run_id})


def record_reconciliation(
    connection: psycopg.Connection[Any], source_id: int, run_id: str, offsets: int, difference: int
) -> None:
    """Keep the outcome of a run's check, for the metrics: so many offsets, so many of them
    missing or doubled."""
    connection.execute(
        "INSERT INTO reconciliations (source_id, run_id, offsets, difference)"
        " VALUES (%(source_id)s, %(run_id)s, %(offsets)s, %(difference)s) ON CONFLICT"
        " (source_id) DO UPDATE SET checked_at = DEFAULT,"
        " run_id = excluded.run_id, offsets = excluded.offsets,"
        " difference = excluded.difference",
        {"source_id": source_id, "run_id": run_id, "offsets": offsets, "difference": difference},
    )


_RECONCILE: LiteralString = """
WITH scope AS (
    SELECT partition, first_offset, next_offset FROM stream_offsets
    WHERE source_id = %(source_id)s AND %(run_id)s::text IS NULL
    UNION ALL
    SELECT partition, min(first_offset), max(next_offset)
    FROM batches, unnest(partitions, first_offsets, next_offsets)
        AS r (partition, first_offset, next_offset)
    WHERE source_id = %(source_id)s AND run_id = %(run_id)s::text
    GROUP BY partition
), counted AS (
    SELECT scope.*,
        (SELECT count(*) FROM scored_applications t WHERE t.source_id = %(source_id)s
            AND t.partition = scope.partition
            AND t."offset" >= scope.first_offset AND t."offset" < scope.next_offset) AS scored,
        (SELECT count(*) FROM rejected_events t WHERE t.source_id = %(source_id)s
            AND t.partition = scope.partition
            AND t."offset" >= scope.first_offset AND t."offset" < scope.next_offset) AS rejected,
        (SELECT coalesce(sum(least(t.next_offset, scope.next_offset)
                             - greatest(t.first_offset, scope.first_offset)), 0)::bigint
            FROM offset_gaps t WHERE t.source_id = %(source_id)s
            AND t.partition = scope.partition AND t.first_offset < scope.next_offset
            AND t.next_offset > scope.first_offset) AS gaps,
        (SELECT coalesce(sum(t.scored + t.rejected), 0)::bigint FROM dropped_rows t
            WHERE %(run_id)s::text IS NULL AND t.source_id = %(source_id)s
            AND t.partition = scope.partition) AS dropped
    FROM scope
)
SELECT *, next_offset - first_offset - scored - rejected - gaps - dropped AS difference
FROM counted ORDER BY partition
"""
