"""The benchmark of the queries measures what the pages ask."""

import os
import re
import subprocess
import sys

import pytest

from credit_risk_dagster.pipelines.loans import BUILTIN_LOANS
from credit_risk_dagster.settings import PROJECT_ROOT, WarehouseSettings
from resources.postgres.connection import Warehouse
from tests.benchmarks import dashboard

pytestmark = pytest.mark.slow

ROWS = 3_000


def test_a_small_table_is_filled_and_every_page_measured(
    warehouse_settings: WarehouseSettings,
) -> None:
    with Warehouse(warehouse_settings).connect() as warehouse:
        dashboard.fill(warehouse, warehouse_settings, ROWS)
        counts = warehouse.execute(
            "SELECT (SELECT count(*) FROM scored_applications), (SELECT sum(scored) FROM"
            " stream_offsets), (SELECT sum(applications) FROM risk_by_minute"
            " WHERE risk_tier <> 'Rejected'), (SELECT sum(applications) FROM segments_by_hour)"
            " + (SELECT count(*) FROM scored_applications, segments_progress"
            " WHERE scored_at >= rolled_up_to)"
        ).fetchone()
    assert counts is not None
    assert len(set(counts)) == 1
    assert ROWS < counts[0] <= ROWS + BUILTIN_LOANS


def test_the_command_measures_every_page_and_says_which_bar_is_missed() -> None:
    command = (sys.executable, "-m", "tests.benchmarks.dashboard")
    done = subprocess.run(
        [*command, "--rows", "1000", "--rounds", "1", "--no-plans", "--sessions", "0"],
        cwd=PROJECT_ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = [[*map(str.strip, line.split("│"))][1:-1] for line in done.stdout.splitlines()]
    rows = {row[0]: row[1:] for row in told if row}
    pages = [view.name for view in dashboard.views()]
    assert [name for name in rows if name in pages] == pages, done.stderr
    assert len(pages) == 14
    for name in pages:
        queries, *milliseconds, scans = rows[name]
        assert int(queries) > 0
        assert [figure.isdigit() for figure in milliseconds] == [True, True]
        # Of a table as small as this one, the planner may well read a partition as a whole.
        assert re.fullmatch(r"none|scored_applications_\d{4}_\d\d", scans)
    bars = {name.partition(" (")[0]: row[2] for name, row in rows.items() if len(row) == 3}
    assert {"slowest first paint", "slowest refresh", "sequential scans of scored_applications"} | {
        *("policy lab, read", "policy lab, answer")
    } <= bars.keys()
    assert done.returncode == int("missed" in bars.values())


def test_a_sequential_scan_is_noticed() -> None:
    scan = {"Node Type": "Seq Scan", "Relation Name": "scored_applications_2026_11"}
    empty = {"Node Type": "Seq Scan", "Relation Name": "scored_applications_2026_12"}
    plan = {
        "Node Type": "Append",
        "Plans": [{**scan, "Plan Rows": 5_000_000}, {**empty, "Plan Rows": 1}],
    }
    assert dashboard.sequential_scans(plan) == ["scored_applications_2026_11"]
