"""`make bench-dashboard`: the time and the plan of every query of the dashboard on a big table.

Fills scored_applications in the database, by generate_series from the 10,000 built-in loans, with
the values of the segments drawn independently of each other: more segments than real loans have.
"""

import json
import time
from typing import Any, LiteralString

import numpy as np
import psycopg
from rich.console import Console

from credit_risk_dagster.domain.events import decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.producer import BUILTIN_LOANS, builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from dashboard import queries
from resources.broker import Fetch, OffsetRange, TopicState
from resources.warehouse import StageSeconds, Warehouse

FULL = 10_000_000
DAYS = 30
BATCH = 500
FIRST_PAINT_MS, REFRESH_MS = 1_500.0, 500.0
BIG = "scored_applications"
SMALL_BUSINESS = queries.Segment(purpose=("small_business",), addr_state=("CA", "TX"))

out = Console()


def fill(connection: psycopg.Connection[Any], settings: WarehouseSettings, rows: int) -> None:
    """Fill a migrated, empty database: rows of the last `DAYS`, evenly, and all that goes with
    them. One in a hundred events is rejected."""
    _commit_loans(settings)
    connection.execute("SELECT setseed(0.5)")
    for statement in _FILL:
        connection.execute(
            statement, {"rows": rows, "loans": BUILTIN_LOANS, "days": DAYS, "batch": BATCH}
        )
    connection.execute("UPDATE segments_progress SET rolled_up_to = '-infinity'")
    connection.execute("SELECT roll_up_segments()")
    connection.execute("ANALYZE")


def _commit_loans(settings: WarehouseSettings) -> None:
    """The built-in loans, as a drain commits them."""
    policy = load_policy(DEFAULT_POLICY)
    loans = [json.dumps(dict(loan)).encode() for loan in builtin_loans()]
    with Warehouse(settings).ledger() as ledger:
        source = ledger.register_source(TopicState("bench", "loans", None, {0: (0, 0)}))
        ledger.start_partitions(source.source_id, {0: 0})
        count = len(loans)
        ledger.commit(
            source.source_id,
            ledger.register_policy(policy),
            "00000000-0000-0000-0000-000000000000",
            0,
            Fetch(
                ranges=[OffsetRange(0, 0, count)],
                partitions=np.zeros(count, np.int32),
                offsets=np.arange(count),
                timestamps=np.full(count, int(time.time() * 1000)),
                keys=[None] * count,
                values=[*loans],
            ),
            assess(decode(loans), policy),
            StageSeconds(0, 0, 0, None),
        )


# The loans themselves are the oldest; offsets go on after the loans themselves.
_FILL: tuple[LiteralString, ...] = (
    """
    CREATE TEMPORARY TABLE loan AS
    SELECT (row_number() OVER () - 1)::int AS n, s.* FROM scored_applications s
    """,
    """
    UPDATE scored_applications SET scored_at = now() - make_interval(days => %(days)s)
    """,
    """
    UPDATE batches SET committed_at = now() - make_interval(days => %(days)s)
    """,
    """
    UPDATE risk_by_minute SET minute = date_trunc('minute', now() - make_interval(days => %(days)s))
    """,
    """
    INSERT INTO scored_applications (
        source_id, partition, "offset", scored_at, batch_id, policy_id, recorded_at, event_time,
        loan_id, loan_amnt, annual_inc, dti, int_rate, revol_util, delinq_2yrs, inq_last_6mths,
        credit_history_years, emp_length_yrs, term_months, issue_d, purpose, grade, addr_state,
        home_ownership, loan_status, dti_band, util_band, rate_band, early_warning, risk_tier,
        reasons, pd
    )
    SELECT l.source_id, 0, %(loans)s + g,
        now() - make_interval(days => %(days)s) * ((%(rows)s - g)::float8 / %(rows)s),
        2 + g / %(batch)s, l.policy_id, now(), now(), (10000000 + g)::text, a.loan_amnt,
        l.annual_inc, l.dti, l.int_rate, l.revol_util, l.delinq_2yrs, l.inq_last_6mths,
        l.credit_history_years, l.emp_length_yrs, a.term_months, l.issue_d, p.purpose, l.grade,
        s.addr_state, l.home_ownership, l.loan_status, l.dti_band, l.util_band, l.rate_band,
        l.early_warning, l.risk_tier, l.reasons, 0.05 + 0.3 * ((g %% 997) / 997.0)
    FROM generate_series(1, %(rows)s) g
    JOIN loan l ON l.n = g %% (SELECT count(*) FROM loan)
    JOIN loan a ON a.n = (g * 7919::bigint) %% 9001
    JOIN loan p ON p.n = (g * 104729::bigint) %% 8999
    JOIN loan s ON s.n = (g * 1299709::bigint) %% 8969
    ORDER BY g
    """,
    """
    INSERT INTO rejected_events (
        source_id, partition, "offset", rejected_at, batch_id, recorded_at, reason, value
    )
    SELECT 1, 0, %(loans)s + %(rows)s + g,
        now() - make_interval(days => %(days)s) * ((%(rows)s / 100 - g)::float8 * 100 / %(rows)s),
        2 + g * 100 / %(batch)s, now(),
        (ARRAY['missing_required:dti', 'invalid_json', 'invalid_value:int_rate'])[1 + g %% 3], '{}'
    FROM generate_series(1, %(rows)s / 100) g
    """,
    """
    INSERT INTO batches (
        batch_id, committed_at, source_id, policy_id, run_id, lane, partitions, first_offsets,
        next_offsets, scored, rejected, gaps, watchlist, elevated, low, reject_reasons, value_bytes,
        fetch_ms, decode_ms, score_ms, copy_ms, commit_ms, latency_buckets, latency_sum_s
    )
    SELECT 2 + b,
        now() - make_interval(days => %(days)s)
            * ((%(rows)s - (b + 1) * %(batch)s)::float8 / %(rows)s),
        1, 1, md5((b / 100)::text)::uuid::text, 0, '{0}', ARRAY[b * %(batch)s],
        ARRAY[(b + 1) * %(batch)s], %(batch)s, 5, 0, 40, 100, 360, '{}', 100000, 1, 2, 3, 4, 5,
        first.latency_buckets, 1
    FROM generate_series(0, %(rows)s / %(batch)s - 1) b, (SELECT * FROM batches LIMIT 1) AS first
    """,
    """
    INSERT INTO risk_by_minute AS t (minute, source_id, risk_tier, applications, loan_amnt)
    SELECT date_trunc('minute', scored_at), source_id, risk_tier, count(*), sum(loan_amnt)
    FROM scored_applications WHERE "offset" >= %(loans)s GROUP BY 1, 2, 3
    UNION ALL
    SELECT date_trunc('minute', rejected_at), source_id, 'Rejected', count(*), 0
    FROM rejected_events WHERE "offset" >= %(loans)s GROUP BY 1, 2
    ON CONFLICT (minute, source_id, risk_tier) DO UPDATE
    SET applications = t.applications + excluded.applications,
        loan_amnt = t.loan_amnt + excluded.loan_amnt
    """,
    """
    UPDATE stream_offsets SET next_offset = next_offset + %(rows)s + %(rows)s / 100,
        scored = scored + %(rows)s, rejected = rejected + %(rows)s / 100
    """,
)
