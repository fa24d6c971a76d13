"""A long history of one source, in time partitions: as if the stream had flowed for a year.

What was drained of the source before is copied, over and over under other loan ids, into the time
before; offsets below those of the topic are theirs. Each partition is filled before it has indexes,
which are then built at once. Its segments are summed by the day, as the rollup leaves them of what
is over eight days old: by the hour, nearly every application is a row of its own.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from resources.postgres.partitions import Span

Connect = Callable[[], psycopg.Connection[Any]]

PARTITIONS = 4
BATCH_EVENTS = 20  # of a stream that is never far behind
# Of every 100 offsets of a partition, one is of a rejected event.
GRAIN = 100 * PARTITIONS
AT_ONCE = 2
# Of segments: more than the eight days that the rollup keeps by the hour.
BY_HOUR = timedelta(days=9)


@dataclass(frozen=True)
class _Part:
    """A time of the history: events of all partitions, numbered through from the oldest."""

    first: int
    events: int
    starts: datetime
    ends: datetime
    of_its_own: bool
    """Whether its time partitions are made for it."""


def fill(connect: Connect, events: int, span: Span, spans: int, recent: int) -> None:
    """Fill a database into which something of source 1 was drained.

    Args:
        connect: opens a connection to it.
        events: of the history; rounded down to a multiple of 400 a partition.
        span: what a partition covers.
        spans: how many there are of the history, which ends where those of the database begin.
        recent: events of the last 24 hours beside them.
    """
    with closing(connect()) as connection:
        parts = _parts(connection, events, span, spans, recent)
        total = sum(part.events for part in parts)
        by_hour = (parts[-1].ends - BY_HOUR).astimezone(UTC)
        by_hour = by_hour.replace(hour=0, minute=0, second=0, microsecond=0)
        columns = _prepare(connection, by_hour)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            fillings = [
                pool.submit(_fill, connect, part, total, columns, by_hour) for part in parts
            ]
            for filling in fillings:
                filling.result()
        which = {"partitions": PARTITIONS, "each": total // PARTITIONS}
        for statement in (_COUNT, _COUNTED, "DROP TABLE history_loan", "ANALYZE"):
            connection.execute(statement, which)
        connection.execute("SELECT roll_up_segments_until(%s, '8 days')", (parts[-1].ends,))
        connection.execute("VACUUM")


def _parts(
    connection: psycopg.Connection[Any], events: int, span: Span, spans: int, recent: int
) -> list[_Part]:
    each = events // spans // GRAIN * GRAIN
    edges = connection.execute(
        "SELECT min(starts) - n * ('1 ' || %(span)s)::interval FROM time_partitions,"
        " generate_series(%(spans)s::int, 0, -1) AS n WHERE parent = 'batches' GROUP BY n"
        " ORDER BY n DESC",
        {"span": span, "spans": spans if each else 0},
    ).fetchall()
    parts = [
        _Part(number * each, each, starts, ends, of_its_own=True)
        for number, ((starts,), (ends,)) in enumerate(pairwise(edges))
    ]
    ((yesterday, now),) = connection.execute("SELECT now() - interval '1 day', now()").fetchall()
    return [
        *parts,
        _Part(len(parts) * each, recent // GRAIN * GRAIN, yesterday, now, of_its_own=False),
    ]


def _prepare(connection: psycopg.Connection[Any], by_hour: datetime) -> sql.Composed:
    """Number the loans to be copied; returns the columns that are copied as they are."""
    connection.execute(
        "CREATE UNLOGGED TABLE history_loan AS"
        " SELECT (row_number() OVER () - 1)::int AS n, s.* FROM scored_applications s"
    )
    connection.execute("CREATE UNIQUE INDEX ON history_loan (n)")
    connection.execute("ANALYZE history_loan")
    connection.execute(
        "INSERT INTO segments (purpose, grade, addr_state, term_months, amount_from)"
        " SELECT DISTINCT purpose, grade, addr_state, term_months, amount_from"
        " FROM application_segments ON CONFLICT DO NOTHING"
    )
    connection.execute(
        "UPDATE segments_progress SET (rolled_up_to, merged_to) = (%(by_hour)s, %(by_hour)s)",
        {"by_hour": by_hour},
    )
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'scored_applications'::regclass"
        " AND attnum > 0 AND NOT attisdropped AND attname <> ALL (%s) ORDER BY attnum",
        (["partition", "offset", "scored_at", "batch_id", "recorded_at", "loan_id", "event_time"],),
    )
    return sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows)


def _fill(
    connect: Connect, part: _Part, total: int, columns: sql.Composed, by_hour: datetime
) -> None:
    """Make the rows of a part, in partitions of its own that are attached when they are full."""
    tables = ("scored_applications", "rejected_events", "batches")
    names = {
        table: f"{table}_{part.starts:%Y_%m_%d}" if part.of_its_own else table for table in tables
    }
    identifiers = {table: sql.Identifier(name) for table, name in names.items()}
    which = {
        "first": part.first,
        "events": part.events,
        "starts": part.starts,
        "ends": part.ends,
        "total": total,
        "partitions": PARTITIONS,
        "batch": BATCH_EVENTS,
        "by_hour": by_hour,
    }
    with closing(connect()) as connection:
        if part.of_its_own:
            for table in tables:
                connection.execute(
                    sql.SQL(
                        "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
                        " INCLUDING STORAGE INCLUDING COMPRESSION)"
                    ).format(identifiers[table], sql.Identifier(table))
                )
        for statement in (_SCORED, _REJECTED, _BATCHES):
            connection.execute(sql.SQL(statement).format(columns=columns, **identifiers), which)
        for statement in (_MINUTES, _CASES):
            connection.execute(sql.SQL(statement).format(**identifiers), which)
        if part.of_its_own:
            for table in tables:
                connection.execute(
                    sql.SQL(_ATTACH).format(
                        sql.Identifier(table), identifiers[table], part.starts, part.ends
                    )
                )
            connection.execute(_DAYS, which)


_ATTACH: LiteralString = "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})"

# Event k of all is of partition k % 4, at offset (k - total) / 4 there: the last one is -1.
_EVENTS: LiteralString = """
SELECT k, (k %% %(partitions)s)::int AS partition,
    (k - k %% %(partitions)s - %(total)s::bigint) / %(partitions)s AS "offset",
    -1 - (%(total)s::bigint - 1 - k) / %(batch)s AS batch_id,
    %(starts)s + (%(ends)s - %(starts)s) * ((k - %(first)s::bigint)::float8 / %(events)s) AS at,
    (k / %(partitions)s) %% 100 = 7 AS rejected
FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(events)s - 1) AS k
"""

# Loan ids come in no order, as from a real system; each is another one.
_SCORED: LiteralString = f"""
INSERT INTO {{scored_applications}}
    (partition, "offset", scored_at, batch_id, recorded_at, loan_id, event_time, {{columns}})
SELECT e.partition, e."offset", e.at, e.batch_id, e.at,
    (1000000000 + k * 48271 %% 2147483647)::text, e.at, {{columns}}
FROM (SELECT partition, "offset", at, batch_id, rejected, k FROM ({_EVENTS}) AS e) AS e
    JOIN (SELECT n, {{columns}} FROM history_loan) AS loan
    ON n = (e.k * 7919) %% (SELECT count(*) FROM history_loan)
WHERE NOT rejected ORDER BY e.k
"""

_REJECTED: LiteralString = f"""
INSERT INTO {{rejected_events}}
    (source_id, partition, "offset", rejected_at, batch_id, recorded_at, reason, value)
SELECT 1, partition, "offset", at, batch_id, at,
    (ARRAY['missing_required:dti', 'invalid_json', 'invalid_value:dti'])[1 + k %% 3], '{{{{}}}}'
FROM ({_EVENTS}) AS e WHERE rejected
"""

_BATCHES: LiteralString = f"""
INSERT INTO {{batches}} (
    batch_id, committed_at, source_id, policy_id, run_id, lane, partitions, first_offsets,
    next_offsets, scored, rejected, gaps, watchlist, elevated, low, reject_reasons, value_bytes,
    fetch_ms, decode_ms, score_ms, copy_ms, commit_ms, latency_buckets, latency_sum_s
)
SELECT batch_id, max(at), 1, 1, 'run ' || batch_id / 1000, 0, '{{{{0}}}}', ARRAY[min("offset")],
    ARRAY[max("offset") + 1], count(*) FILTER (WHERE NOT rejected),
    count(*) FILTER (WHERE rejected), 0, 1, 3, 16, '{{{{}}}}', 90000, 1, 2, 3, 4, 5,
    (SELECT latency_buckets FROM batches WHERE batch_id > 0 LIMIT 1), 1
FROM ({_EVENTS}) AS e GROUP BY batch_id
"""

_MINUTES: LiteralString = """
INSERT INTO risk_by_minute AS t (minute, source_id, risk_tier, applications, loan_amnt)
SELECT date_trunc('minute', scored_at), source_id, risk_tier, count(*), sum(loan_amnt)
FROM {scored_applications} WHERE scored_at >= %(starts)s AND scored_at < %(ends)s
    AND "offset" < 0 GROUP BY 1, 2, 3
UNION ALL
SELECT date_trunc('minute', rejected_at), source_id, 'Rejected', count(*), 0
FROM {rejected_events} WHERE rejected_at >= %(starts)s AND rejected_at < %(ends)s
    AND "offset" < 0 GROUP BY 1, 2
ON CONFLICT (minute, source_id, risk_tier) DO UPDATE
SET applications = t.applications + excluded.applications,
    loan_amnt = t.loan_amnt + excluded.loan_amnt
"""

_DAYS: LiteralString = """
INSERT INTO segments_by_hour
    (hour, segment_id, applications, elevated, watchlist, loan_amnt, watchlist_amnt)
SELECT date_trunc('day', scored_at, 'UTC'), segment_id, count(*),
    count(*) FILTER (WHERE risk_tier = 'Elevated'),
    count(*) FILTER (WHERE risk_tier = 'Watchlist'), sum(loan_amnt),
    coalesce(sum(loan_amnt) FILTER (WHERE risk_tier = 'Watchlist'), 0)
FROM application_segments
    JOIN segments USING (purpose, grade, addr_state, term_months, amount_from)
WHERE scored_at >= %(starts)s AND scored_at < least(%(ends)s, %(by_hour)s) GROUP BY 1, 2
"""

# Of before, somebody looked at each within a day.
_CASES: LiteralString = """
INSERT INTO cases (loan_id, source_id, partition, "offset", opened_at, due_at, decided_at,
    loan_amnt, priority, reasons, policy_id, state, assignee, disposition, reason_code, closed_at,
    closed_by)
SELECT loan_id, source_id, partition, "offset", scored_at, scored_at + interval '72 hours',
    scored_at, loan_amnt, loan_amnt * 0.2, reasons, policy_id, 'closed', 'ana', 'confirmed',
    'as_decided', scored_at + interval '1 day', 'ana'
FROM {scored_applications} WHERE early_warning AND scored_at >= %(starts)s AND scored_at < %(ends)s
    AND scored_at < now() - interval '1 day' AND "offset" < 0
"""

_COUNT: LiteralString = """
UPDATE stream_offsets SET first_offset = -%(each)s::bigint,
    scored = scored + %(each)s::bigint * 99 / 100, rejected = rejected + %(each)s::bigint / 100
"""
_COUNTED: LiteralString = """
INSERT INTO reconciled_offsets (source_id, partition, next_offset)
SELECT 1, p, 0 FROM generate_series(0, %(partitions)s - 1) AS p
"""
