"""What the metrics tell of the warehouse. Read-only; its cost does not grow with history."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from credit_risk_dagster.domain.cases import AGES
from resources.postgres.case_figures import BAND, CLOSED

Row = dict[str, Any]

# The sizes of files change slowly, and to ask for them opens each of them.
_SIZES_SECONDS = 60.0
CLOSED_WITHIN = timedelta(days=30)
# What is not archived is hardly ever older.
_UNARCHIVED_WITHIN = timedelta(days=2)


@dataclass(frozen=True)
class Snapshot:
    """The warehouse at one moment.

    Attributes:
        totals: sums over everything that was ever committed: batches, scored, rejected, gaps,
            lost, lost_unknown (of which nobody said to know), forgotten, redriven, watchlist,
            elevated, low, value_bytes, latency_buckets, latency_sum_s, stage_buckets (fetch,
            decode, score, copy and commit, one after the other) and stage_sum_ms; arrays are None
            before the first batch. And last_commit (Unix time), None before it.
        rejected: events by reason, ever.
        partitions: of the newest source of the topic: cluster_id, topic_id, partition,
            first_offset, next_offset, end_offset and end_seen_at (where the topic ended when a
            drain last looked, and the Unix time of that; None before), archived (the next offset to
            archive) and unarchived_since (Unix time that the first event which is not archived was
            committed, None without one).
        reconciliation: of every source: difference (offsets that are missing or doubled, until
            somebody clears them), uncounted (committed offsets), and when offsets were last
            counted: checked_at, and everything_at (Unix time), None before.
        drift: the newest report: created_at and window_end (Unix time), verdict, tier_psi,
            watchlist_share, reject_share; None before the first.
        features: of that report: feature, psi, psi_limit, verdict.
        benchmark: of the newest benchmark: created_at (Unix time), subject, auc, auc_low, auc_high,
            gini, ks, brier.
        portfolio: of the newest report of the portfolio: created_at (Unix time) and limits (what it
            measured of each, by name); None before the first.
        cases: those that are not closed: state, assigned, overdue (whether), band (of their age),
            how many, and opened_at of the oldest (Unix time).
        closed: cases that were closed in 30 days and today, and how many: rule ("" is of all),
            reviewer, disposition.
        acted: what was ever done to cases: action (open is what came in), and how often.
        reviews: of the newest report of reviews: created_at (Unix time) and bad_rates (by whether
            cases were overridden: of, loans, bads and share); None before the first.
        table_bytes: size of each table with its indexes, over all its time partitions.
    """

    totals: Row
    rejected: dict[str, int]
    partitions: list[Row]
    reconciliation: Row
    drift: Row | None
    features: list[Row]
    benchmark: list[Row]
    portfolio: Row | None
    cases: list[Row]
    closed: list[Row]
    acted: list[Row]
    reviews: Row | None
    table_bytes: dict[str, int]


class MetricsLedger:
    """Reads snapshots of a topic's warehouse, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any], topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._sizes: dict[str, int] = {}
        self._sizes_until = 0.0

    def read(self) -> Snapshot:
        """The newest snapshot."""
        if time.monotonic() >= self._sizes_until:
            self._sizes = dict(self._connection.execute(_SIZES).fetchall())
            self._sizes_until = time.monotonic() + _SIZES_SECONDS
        topic = {"topic": self._topic, "since": datetime.now(UTC) - _UNARCHIVED_WITHIN}
        # One round trip for all of them.
        with self._connection.pipeline(), self._connection.transaction():
            totals, rejected, partitions, reconciliation, *reports = (
                # A plan for any moment would be one of every time partition.
                self._connection.cursor(row_factory=dict_row).execute(
                    query, parameters, prepare=False if query is _PARTITIONS else None
                )
                for query, parameters in (
                    (_TOTALS, None),
                    (_REJECTED, None),
                    (_PARTITIONS, topic),
                    (_RECONCILIATION, None),
                    (_DRIFT, None),
                    (_FEATURES, None),
                    (_BENCHMARK, None),
                    (_PORTFOLIO, None),
                    (_CASES, {"edges": list(AGES)}),
                    (CLOSED, {"since": datetime.now(UTC).date() - CLOSED_WITHIN}),
                    (_ACTED, None),
                    (_REVIEWS, None),
                )
            )
            drift, features, benchmark, portfolio, cases, closed, acted, reviews = reports
            of_partitions = partitions.fetchall()
            if any(p["found"] != p["archived"] < p["next_offset"] for p in of_partitions):
                # What is not archived may be older, or it is a gap.
                ever = topic | {"since": datetime.fromtimestamp(0, UTC)}
                partitions = self._connection.cursor(row_factory=dict_row)
                of_partitions = partitions.execute(_PARTITIONS, ever).fetchall()
            return Snapshot(
                totals.fetchone() or {},
                {row["reason"]: row["events"] for row in rejected.fetchall()},
                of_partitions,
                reconciliation.fetchone() or {},
                drift.fetchone(),
                features.fetchall(),
                benchmark.fetchall(),
                portfolio.fetchone(),
                cases.fetchall(),
                closed.fetchall(),
                acted.fetchall(),
                reviews.fetchone(),
                self._sizes,
            )


# Only redriving and forgetting take from stream_offsets.rejected, each in its own transaction; so
# the difference from what was ever rejected tells what was redriven, without counting those rows.
_TOTALS: LiteralString = """
SELECT t.*, gaps, lost, forgotten, last_commit,
    greatest(t.rejected - still_rejected
        - (SELECT coalesce(sum(rejected), 0) FROM forgettings), 0)::bigint AS redriven,
    (SELECT coalesce(sum(events), 0)::bigint FROM lost_events WHERE acknowledged_at IS NULL)
        AS lost_unknown
FROM (
    SELECT coalesce(sum(batches), 0)::bigint AS batches,
        coalesce(sum(scored), 0)::bigint AS scored,
        coalesce(sum(rejected), 0)::bigint AS rejected,
        coalesce(sum(watchlist), 0)::bigint AS watchlist,
        coalesce(sum(elevated), 0)::bigint AS elevated,
        coalesce(sum(low), 0)::bigint AS low,
        coalesce(sum(value_bytes), 0)::bigint AS value_bytes,
        sum_arrays(latency_buckets) AS latency_buckets,
        coalesce(sum(latency_sum_s), 0) AS latency_sum_s,
        sum_arrays(stage_buckets) AS stage_buckets,
        sum_arrays(stage_sum_ms) AS stage_sum_ms
    FROM ledger_totals
) t, (
    SELECT coalesce(sum(gaps), 0)::bigint AS gaps, coalesce(sum(lost), 0)::bigint AS lost,
        coalesce(sum(forgotten), 0)::bigint AS forgotten,
        coalesce(sum(rejected), 0) AS still_rejected,
        extract(epoch FROM max(updated_at))::float8 AS last_commit
    FROM stream_offsets
) o
"""

_REJECTED: LiteralString = (
    "SELECT reason, sum(events)::bigint AS events FROM reject_totals GROUP BY 1"
)

# By the primary keys: a few index probes for each partition; in the time partitions since a moment,
# as to look into each of a year of days costs more than all the rest. `found` is the offset.
_PARTITIONS: LiteralString = """
WITH newest AS (
    SELECT source_id, cluster_id, topic_id FROM sources WHERE topic = %(topic)s
    ORDER BY source_id DESC LIMIT 1
)
SELECT cluster_id, topic_id, o.partition, o.first_offset, o.next_offset, o.end_offset,
    extract(epoch FROM o.end_seen_at)::float8 AS end_seen_at,
    a.next_offset AS archived,
    extract(epoch FROM least(s.at, r.at))::float8 AS unarchived_since,
    least(s."offset", r."offset") AS found
FROM newest JOIN stream_offsets o USING (source_id)
LEFT JOIN lake_progress l USING (source_id, partition)
CROSS JOIN LATERAL (
    SELECT least(o.next_offset, coalesce(l.raw_events, o.first_offset),
        coalesce(l.decisions, o.first_offset)) AS next_offset
) a
LEFT JOIN LATERAL (
    SELECT scored_at AS at, "offset" FROM scored_applications s
    WHERE s.source_id = o.source_id AND s.partition = o.partition
        AND s."offset" >= a.next_offset AND s.scored_at >= %(since)s
    ORDER BY s."offset" LIMIT 1
) s ON true
LEFT JOIN LATERAL (
    SELECT rejected_at AS at, "offset" FROM rejected_events r
    WHERE r.source_id = o.source_id AND r.partition = o.partition
        AND r."offset" >= a.next_offset AND r.rejected_at >= %(since)s
    ORDER BY r."offset" LIMIT 1
) r ON true
ORDER BY o.partition
"""

_RECONCILIATION: LiteralString = """
SELECT (SELECT coalesce(sum(offsets), 0)::bigint FROM reconciliation_findings
        WHERE cleared_at IS NULL) AS difference,
    coalesce(sum(o.next_offset - coalesce(r.next_offset, o.first_offset)), 0)::bigint AS uncounted,
    extract(epoch FROM max(r.checked_at))::float8 AS checked_at,
    extract(epoch FROM max(r.everything_at))::float8 AS everything_at
FROM stream_offsets o LEFT JOIN reconciled_offsets r USING (source_id, partition)
"""

_DRIFT: LiteralString = """
SELECT extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM window_end)::float8 AS window_end,
    verdict, tier_psi, watchlist_share, reject_share
FROM drift_reports ORDER BY created_at DESC, report_id DESC LIMIT 1
"""

_FEATURES: LiteralString = """
SELECT feature, psi, psi_limit, verdict FROM drift_features
WHERE report_id = (
    SELECT report_id FROM drift_reports ORDER BY created_at DESC, report_id DESC LIMIT 1
)
ORDER BY feature
"""

# Each case lies on another page: they are read once.
_CASES: LiteralString = f"""
SELECT state, assignee IS NOT NULL AS assigned, due_at < now() AS overdue, {BAND} AS band,
    count(*) AS cases,
    extract(epoch FROM min(coalesce(
        (SELECT max(at) FROM case_events e
         WHERE e.case_id = cases.case_id AND e.action IN ('assign', 'reopen')), opened_at
    )))::float8 AS opened_at
FROM cases WHERE state <> 'closed' GROUP BY 1, 2, 3, 4
"""  # noqa: S608 (of literals)

_ACTED: LiteralString = """
SELECT action, sum(times)::bigint AS times FROM case_totals GROUP BY 1
"""

_REVIEWS: LiteralString = """
SELECT extract(epoch FROM created_at)::float8 AS created_at, document -> 'bad_rates' AS bad_rates
FROM risk_reports WHERE kind = 'reviews' ORDER BY report_id DESC LIMIT 1
"""

_BENCHMARK: LiteralString = """
SELECT extract(epoch FROM created_at)::float8 AS created_at,
    subject, auc, auc_low, auc_high, gini, ks, brier
FROM model_benchmarks
WHERE benchmark_id = (
    SELECT benchmark_id FROM model_benchmarks ORDER BY created_at DESC, benchmark_id DESC LIMIT 1
)
ORDER BY subject
"""

_PORTFOLIO: LiteralString = """
SELECT extract(epoch FROM created_at)::float8 AS created_at, document -> 'limits' AS limits
FROM risk_reports WHERE kind = 'portfolio' ORDER BY report_id DESC LIMIT 1
"""

_SIZES: LiteralString = """
SELECT c.relname, sum(pg_total_relation_size(coalesce(part.relid, c.oid)))::bigint
FROM pg_class c LEFT JOIN LATERAL pg_partition_tree(c.oid) AS part ON c.relkind = 'p'
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition
GROUP BY c.relname ORDER BY c.relname
"""
