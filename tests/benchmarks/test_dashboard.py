"""The benchmark of the queries measures what the pages ask."""

from typing import Any

import psycopg
import pytest

from credit_risk_dagster.pipelines.loans import BUILTIN_LOANS
from credit_risk_dagster.settings import WarehouseSettings
from tests.benchmarks import dashboard

pytestmark = pytest.mark.integration

ROWS = 3_000


def test_a_small_table_is_filled_and_every_page_measured(
    warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings
) -> None:
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
    section = dashboard.measure(rounds=1, show_plans=False)
    assert section.results.keys() == {view.name for view in dashboard.views()}
    assert all(found["first_ms"] > 0 for found in section.results.values())


def test_a_sequential_scan_is_noticed() -> None:
    scan = {"Node Type": "Seq Scan", "Relation Name": "scored_applications_2026_11"}
    empty = {"Node Type": "Seq Scan", "Relation Name": "scored_applications_2026_12"}
    plan = {
        "Node Type": "Append",
        "Plans": [{**scan, "Plan Rows": 5_000_000}, {**empty, "Plan Rows": 1}],
    }
    assert dashboard.sequential_scans(plan) == ["scored_applications_2026_11"]
