"""The rollup by segment: every application once, whenever it runs."""

from typing import Any

import psycopg
import pytest

from credit_risk_dagster.settings import WarehouseSettings
from resources.warehouse import Warehouse
from tests.dashboard.conftest import ELEVATED, LOW, WATCHLIST, Commit

pytestmark = pytest.mark.integration

COLUMNS = "purpose, grade, addr_state, term_months, amount_from"
ROLLED_UP = f"""
    SELECT {COLUMNS}, sum(applications), sum(elevated), sum(watchlist), sum(loan_amnt),
        sum(watchlist_amnt)
    FROM segments_by_hour JOIN segments USING (segment_id) GROUP BY {COLUMNS} ORDER BY {COLUMNS}
"""
COUNTED = f"""
    SELECT {COLUMNS}, count(*), count(*) FILTER (WHERE risk_tier = 'Elevated'),
        count(*) FILTER (WHERE risk_tier = 'Watchlist'), sum(loan_amnt),
        coalesce(sum(loan_amnt) FILTER (WHERE risk_tier = 'Watchlist'), 0)
    FROM application_segments GROUP BY {COLUMNS} ORDER BY {COLUMNS}
"""


def rows(connection: psycopg.Connection[Any], query: Any) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def roll_up(connection: psycopg.Connection[Any], **options: str) -> int:
    row = connection.execute(
        "SELECT roll_up_segments(%s::interval)", (options.get("keep", "15 days"),)
    ).fetchone()
    return int(row[0]) if row else -1


def age(connection: psycopg.Connection[Any], by: str) -> None:
    connection.execute("UPDATE scored_applications SET scored_at = scored_at - %s::interval", (by,))


def test_every_application_is_added_once(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW, LOW, ELEVATED, WATCHLIST, LOW | {"loan_amnt": 25_000, "term": " 60 months"})
    assert roll_up(warehouse) == 0  # they are younger than ten seconds
    age(warehouse, "1 hour")
    warehouse.execute("UPDATE segments_progress SET rolled_up_to = '-infinity'")
    assert roll_up(warehouse) == 5
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    assert roll_up(warehouse) == 0
    commit(LOW, WATCHLIST)
    warehouse.execute(
        "UPDATE scored_applications SET scored_at = scored_at - interval '20 seconds'"
        " WHERE scored_at > now() - interval '1 minute'"
    )
    warehouse.execute(
        "UPDATE segments_progress SET rolled_up_to = rolled_up_to - interval '5 minutes'"
    )
    assert roll_up(warehouse) == 2
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)


def test_an_open_transaction_holds_it_back(
    warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings, commit: Commit
) -> None:
    commit(LOW)
    age(warehouse, "1 hour")
    roll_up(warehouse)
    with Warehouse(warehouse_settings).connect(autocommit=False) as drain:
        began = drain.execute("SELECT now()").fetchone()
        warehouse.execute(
            "UPDATE segments_progress SET rolled_up_to = rolled_up_to - interval '1 day'"
        )
        roll_up(warehouse)
        (until,) = rows(warehouse, "SELECT rolled_up_to FROM segments_progress")
        assert began is not None
        assert until[0] <= began[0]


def test_what_is_not_known_is_still_counted(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW | {"purpose": None, "grade": None, "addr_state": None, "term": "48 months"})
    assert rows(warehouse, f"SELECT {COLUMNS} FROM application_segments") == [
        ("", "", "", 0, 10_000)
    ]


def test_old_hours_are_merged_to_days(warehouse: psycopg.Connection[Any], commit: Commit) -> None:
    commit(LOW, WATCHLIST)
    for by in ("3 hours", "5 hours", "2 days"):
        age(warehouse, by)
        commit(LOW, WATCHLIST)
    age(warehouse, "1 hour")
    warehouse.execute("UPDATE segments_progress SET rolled_up_to = '-infinity'")
    assert roll_up(warehouse, keep="1 day") == 8
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    (merged,) = rows(warehouse, "SELECT merged_to FROM segments_progress")
    hours = rows(
        warehouse,
        "SELECT DISTINCT hour FROM segments_by_hour WHERE hour < (SELECT"
        " merged_to FROM segments_progress)",
    )
    assert hours
    assert {hour[0].hour for hour in hours} == {0}
    # Once more, later: what is merged stays, what became old is merged.
    assert roll_up(warehouse, keep="0 days") == 0
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    (later,) = rows(warehouse, "SELECT merged_to FROM segments_progress")
    assert later[0] > merged[0]
