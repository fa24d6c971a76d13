"""`make bench-dashboard`: the time and the plan of every query of the dashboard on a big table.

Fills scored_applications in the database, by generate_series from the 10,000 built-in loans, with
the values of the segments drawn independently of each other: more segments than real loans have.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, LiteralString, cast
from unittest.mock import patch

import numpy as np
import pandas as pd
import psycopg
import streamlit as st
import typer
from rich.console import Console

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.loans import BUILTIN_LOANS, builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from dashboard.data import (
    application,
    cases,
    drift,
    model,
    operations,
    overview,
    reviews,
)
from dashboard.data.connection import snapshot
from dashboard.data.segments import EVERYTHING, Segment, purposes
from infra.embedded.servers import Postgres
from resources.kafka.reader import Fetch, OffsetRange
from resources.kafka.watch import TopicState
from resources.postgres.cases import Wanted
from resources.postgres.connection import Warehouse
from resources.postgres.micro_batch import Ledger, StageSeconds
from resources.postgres.migrate import migrate
from resources.postgres.policies import register_policy
from resources.postgres.sources import Sources
from tests.benchmarks.lab_page import measure_lab
from tests.benchmarks.paint import SESSIONS, measure_paint
from tests.benchmarks.report import Bar, Section, bars_table, exit_code, table

FULL = 10_000_000
DAYS = 30
BATCH = 500
FIRST_PAINT_MS, REFRESH_MS = 1_500.0, 500.0
REPORTS = 500  # of drift, and benchmarks of models
BIG = "scored_applications"
ZONE = "Europe/Berlin"
SEGMENT = Segment(purpose=("small_business",), addr_state=("CA", "TX"))

out = Console()


def fill(connection: psycopg.Connection[Any], settings: WarehouseSettings, rows: int) -> None:
    """Fill a migrated, empty database: rows of the last `DAYS`, evenly, and all that goes with
    them. One in a hundred events is rejected."""
    _commit_loans(settings)
    connection.execute("SELECT setseed(0.5)")
    for statement in _FILL:
        connection.execute(
            statement,
            {
                "rows": rows,
                "loans": BUILTIN_LOANS,
                "days": DAYS,
                "batch": BATCH,
                "reports": REPORTS,
            },
        )
    connection.execute(
        "UPDATE segments_progress SET (rolled_up_to, merged_to) = ('-infinity', '-infinity')"
    )
    connection.execute("SELECT roll_up_segments()")
    connection.execute("VACUUM ANALYZE")  # as the server does by itself, in time


def _commit_loans(settings: WarehouseSettings) -> None:
    """The built-in loans, as a drain commits them."""
    policy = load_policy(DEFAULT_POLICY)
    loans = [json.dumps(dict(loan)).encode() for loan in builtin_loans()]
    with Warehouse(settings).session() as connection:
        ledger = Ledger(connection)
        source = Sources(connection).register(TopicState("bench", "loans", None, {0: (0, 0)}))
        ledger.start_partitions(source.source_id, {0: 0})
        count = len(loans)
        ledger.commit(
            source.source_id,
            register_policy(connection, policy),
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
    "SELECT open_earlier_cases('-infinity', 'infinity', '72 hours')",
    """
    UPDATE stream_offsets SET next_offset = next_offset + %(rows)s + %(rows)s / 100,
        scored = scored + %(rows)s, rejected = rejected + %(rows)s / 100
    """,
    """
    INSERT INTO drift_baselines
        (name, origin, rows, rejected, tiers, tier_counts, content_hash)
    VALUES ('bench', 'bench', 5000, 0, '{Low,Elevated,Watchlist}', '{3,2,1}', 'bench')
    """,
    """
    INSERT INTO approvals (kind, subject_id, action, why)
    VALUES ('baseline', 1, 'activate', 'bench')
    """,
    """
    INSERT INTO drift_baseline_features (baseline_id, feature, kind, edges, shares, counts)
    SELECT 1, 'feature_' || f, 'number', '{1,2,3}', '{0.2,0.2,0.3,0.2,0.1}', '{2,2,3,2,1}'
    FROM generate_series(1, 13) f
    """,
    """
    INSERT INTO drift_reports (baseline_id, source_id, created_at, window_start, window_end, rows,
        rejected, run_id, verdict, tier_shares, tier_verdict, tier_psi, watchlist_share,
        reject_share)
    SELECT 1, 1, now() - r * interval '30 minutes', now() - (r + 1) * interval '30 minutes',
        now() - r * interval '30 minutes', 5000, 0, 'bench', 'stable', '{}', 'stable', 0.01, 0.05,
        0.01
    FROM generate_series(%(reports)s, 1, -1) r
    """,
    """
    INSERT INTO drift_features (report_id, feature, kind, psi, psi_limit, verdict, shares)
    SELECT r, 'feature_' || f, 'number', random() / 10, 0.02, 'stable', '{0.2,0.2,0.3,0.2,0.1}'
    FROM generate_series(1, %(reports)s) r, generate_series(1, 13) f
    """,
    """
    INSERT INTO models (kind, version, run_id, outcome, features, sample, sample_hash, seed, rows,
        bads, code_version, metrics, artifact)
    SELECT 'logistic', 'logistic@' || m, 'bench', 'bench', '{dti}', 'bench', 'bench', 0, 10000, 200,
        'bench', '{"auc": 0.7}', convert_to(repeat('model', 20000), 'utf8')
    FROM generate_series(1, %(reports)s) m
    """,
    """
    INSERT INTO model_benchmarks (benchmark_id, subject, created_at, run_id, outcome, sample,
        sample_hash, policy, rows, bads, verdict, model_id, auc, auc_low, auc_high, gini, ks, gains)
    SELECT b, s, now() - (%(reports)s - b) * interval '1 day', 'bench', 'bench', 'bench',
        'bench', 'bench', 10000, 200, 'bench', b, 0.7, 0.6, 0.8, 0.4, 0.3, '[]'
    FROM generate_series(1, %(reports)s) b, unnest(ARRAY['rules', 'logistic', 'scorecard']) s
    """,
    "SELECT setval('model_benchmark_ids', %(reports)s)",
    """
    INSERT INTO model_curves
    SELECT b, s, c, p, p / 200.0, p / 200.0 FROM generate_series(1, %(reports)s) b,
        unnest(ARRAY['rules', 'logistic', 'scorecard']) s, unnest(ARRAY['roc', 'gains']) c,
        generate_series(0, 200) p
    """,
)


@dataclass(frozen=True)
class View:
    """What a page asks for: when it first appears, and again whenever a part of it refreshes."""

    name: str
    first: tuple[Callable[[], object], ...]
    again: tuple[Callable[[], object], ...]


@dataclass
class Recorder:
    """The statements that were executed, in order: text, parameters and milliseconds."""

    statements: list[tuple[str, Any, float]] = field(default_factory=list)

    @contextmanager
    def recording(self) -> Iterator[None]:
        self.statements = []
        execute = psycopg.Cursor.execute

        def timed(cursor: Any, query: Any, parameters: Any = None, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return execute(cursor, query, parameters, **options)
            finally:
                spent = 1000 * (time.perf_counter() - started)
                if parameters is not None:  # otherwise it is the pool's own
                    self.statements.append((query, parameters, spent))

        with patch.object(psycopg.Cursor, "execute", timed):
            yield

    @property
    def milliseconds(self) -> float:
        return sum(spent for _, _, spent in self.statements)


def views() -> list[View]:
    """Every page with its filters at their default and at their widest."""
    now = pd.Timestamp.now(tz="UTC")

    def risk(name: str, period: str, segment: Segment) -> View:
        figures = partial(overview.overview, period, ZONE, segment)
        parts = partial(overview.breakdown, period, ZONE, segment)
        return View(name, (purposes, figures, parts), (figures,))

    def listed(name: str, wanted: Wanted, sort: str = "Priority") -> View:
        rows = partial(cases.queue, wanted, sort, ZONE)
        newer = partial(cases.newer, now.to_pydatetime())
        first = (cases.reason_codes, cases.assignees, rows, newer)
        return View(name, first, (newer,))

    reports = (
        partial(drift.drift_history, "All", None, ZONE),
        partial(drift.drift_features, REPORTS),
    )
    models = (partial(model.model_history, ZONE), partial(model.model_benchmark, REPORTS, ZONE))
    decision = (partial(application.application, (1, 0, 5_000), ZONE), application.population)
    return [
        risk("Overview, 24 h", "24 h", EVERYTHING),
        risk("Overview, 30 d", "30 d", EVERYTHING),
        risk("Overview, all", "All", EVERYTHING),
        risk("Overview, 24 h, a segment", "24 h", SEGMENT),
        risk("Overview, 30 d, a segment", "30 d", SEGMENT),
        listed("Watchlist", Wanted(state="to_do")),
        listed("Watchlist, overdue, by amount", Wanted(overdue=True), "Largest amount"),
        listed("Watchlist, a rule", Wanted(reasons=("DTI>=30",), priority_from=2_000)),
        listed("Watchlist, a loan", Wanted(loan_id="10005000")),
        View("Watchlist, figures", (partial(reviews.reviews, "90 d", ZONE),), ()),
        View("An application", decision, decision[:1]),
        View(
            "Operations",
            (partial(operations.operations, ZONE),),
            (partial(operations.operations, ZONE),),
        ),
        View("Drift", reports, reports[:1]),
        View("Model", models, models[:1]),
    ]


def measure(rounds: int, show_plans: bool) -> Section:
    """Time each view with empty caches, and its refresh; look for sequential scans."""
    recorder = Recorder()
    grid = table("Query time, ms", "queries", "first paint", "refresh", "scans of the big table")
    results: dict[str, Any] = {}
    for view in views():
        first, again = [], []
        for _ in range(rounds):
            st.cache_data.clear()
            with recorder.recording():
                for ask in view.first:
                    ask()
            first.append(recorder.milliseconds)
            statements = list(recorder.statements)
            for ask in view.again:  # what is kept for a second is over, what is kept longer is not
                getattr(ask, "func", ask).clear()
            with recorder.recording():
                for ask in view.again:
                    ask()
            again.append(recorder.milliseconds)
        plans = [(text, spent, _plan(text, values)) for text, values, spent in statements]
        scans = sorted({scan for _, _, plan in plans for scan in sequential_scans(plan)})
        results[view.name] = {
            "first_ms": median(first),
            "refresh_ms": median(again),
            "scans": scans,
        }
        grid.add_row(
            view.name,
            str(len(statements)),
            *(f"{median(found):,.0f}" for found in (first, again)),
            ", ".join(scans) or "none",
        )
        if show_plans:
            for text, spent, plan in plans:
                out.rule(f"{view.name}: {spent:,.1f} ms", align="left")
                out.print(" ".join(text.split())[:300], markup=False)
                out.print("\n".join(_lines(plan)), markup=False, highlight=False)
    return Section("dashboard", results, grid, _bars(results))


def _bars(results: dict[str, Any]) -> list[Bar]:
    def slowest(figure: str) -> tuple[str, float]:
        return max(((name, found[figure]) for name, found in results.items()), key=lambda f: f[1])

    first, again = slowest("first_ms"), slowest("refresh_ms")
    scans = sum(len(found["scans"]) for found in results.values())
    return [
        Bar(f"slowest first paint ({first[0]})", first[1], FIRST_PAINT_MS, "ms", at_most=True),
        Bar(f"slowest refresh ({again[0]})", again[1], REFRESH_MS, "ms", at_most=True),
        Bar(f"sequential scans of {BIG}", scans, 0, "", at_most=True),
    ]


def _plan(statement: str, parameters: Any) -> dict[str, Any]:
    with snapshot() as db:
        row = db.one(f"EXPLAIN (FORMAT json) {statement}", **parameters)
        return cast("dict[str, Any]", row["QUERY PLAN"][0]["Plan"])


def _nodes(plan: dict[str, Any], depth: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    yield depth, plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child, depth + 1)


def sequential_scans(plan: dict[str, Any]) -> list[str]:
    """Partitions of the big table that a plan reads as a whole, and that are not nearly empty."""
    return [
        node["Relation Name"]
        for _, node in _nodes(plan)
        if node["Node Type"] == "Seq Scan"
        and node["Relation Name"].startswith(BIG)
        and node["Plan Rows"] > 1_000
    ]


def _lines(plan: dict[str, Any]) -> list[str]:
    return [
        "  " * depth
        + node["Node Type"]
        + f" {node.get('Index Name') or node.get('Relation Name') or ''}".rstrip()
        + f" (rows {node['Plan Rows']:,}, cost {node['Total Cost']:,.0f})"
        for depth, node in _nodes(plan)
    ]


def main(
    rows: Annotated[int, typer.Option(min=1_000, help="Scored applications.")] = FULL,
    rounds: Annotated[int, typer.Option(min=1, help="The median of so many counts.")] = 3,
    plans: Annotated[bool, typer.Option(help="Print the plan of every query.")] = True,
    sessions: Annotated[
        int, typer.Option(min=0, help="Open the pages in a browser, alone and as one of so many.")
    ] = SESSIONS,
) -> None:
    """Fill a database of its own, and measure every page of the dashboard on it."""
    for name in ("DATABASE_URL", "DASHBOARD_DATABASE_URL", "CREDIT_RISK_SCHEMA"):
        os.environ.pop(name, None)
    WarehouseSettings.model_config["env_file"] = None
    logging.disable(logging.WARNING)  # Streamlit's, that no server runs
    with (
        TemporaryDirectory(prefix="credit-risk-bench-") as folder,
        Postgres(Path(folder)) as server,
    ):
        server.create_database("bench")
        os.environ["DATABASE_URL"] = server.uri("bench")
        os.environ["DASHBOARD_DATABASE_URL"] = server.uri("bench", "credit_risk_reader")
        settings = WarehouseSettings()
        migrate(settings)
        started = time.perf_counter()
        with Warehouse(settings).connect() as connection:
            fill(connection, settings, rows)
            (sizes,) = connection.execute(
                "SELECT (SELECT count(*) FROM segments_by_hour), (SELECT count(*) FROM segments)"
            ).fetchall()
        out.print(
            f"{rows:,} applications of {DAYS} days in {time.perf_counter() - started:,.0f} s; "
            f"segments_by_hour has {sizes[0]:,} rows of {sizes[1]:,} segments"
        )
        sections = [measure(rounds, plans), measure_lab(rounds)]
        if sessions:
            out.print("opening the pages in a browser")
            sections.append(measure_paint(settings, sessions, rounds))
        st.cache_resource.clear()
    for section in sections:
        out.print(section.table)
    out.print(bars_table(sections))
    raise typer.Exit(exit_code(sections))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
