"""The Overview page as a viewer meets it."""

from typing import Any

import psycopg
import pytest
from streamlit.testing.v1 import AppTest

from credit_risk_dagster.settings import PROJECT_ROOT, WarehouseSettings
from tests.dashboard.conftest import ELEVATED, LOW, REJECTED, WATCHLIST, Commit, point_at

pytestmark = pytest.mark.integration


def open_page(period: str | None = None) -> AppTest:
    page = AppTest.from_file(PROJECT_ROOT / "dashboard" / "app.py", default_timeout=60)
    if period is not None:
        page.query_params["period"] = period
    return page.run()


def figures(page: AppTest) -> dict[str, tuple[str, str]]:
    """Each key figure and what stands below it, by its label without the coloured square."""
    return {m.label.rpartition(")")[2].strip(): (m.value, m.delta) for m in page.metric}


def test_an_empty_database_says_how_to_fill_it(warehouse: psycopg.Connection[Any]) -> None:
    page = open_page()
    assert not page.exception
    assert "No applications yet" in page.info[0].value
    assert "make demo" in page.info[0].value
    assert figures(page)["Applications scored"] == ("0", "in the last 24 hours")
    assert "No application was flagged" in page.main.markdown[-1].value


def test_a_filled_database_shows_figures_charts_and_watchlist(commit: Commit) -> None:
    commit(*[LOW] * 1_200, *[ELEVATED] * 300, WATCHLIST, REJECTED)
    page = open_page()
    assert not page.exception
    assert not page.info
    assert figures(page) == {
        "Applications scored": ("1,501", "in the last 24 hours"),
        "Watchlist": ("1", "0.1 % of scored"),
        "Elevated": ("300", "20.0 % of scored"),
        "Low": ("1,200", "79.9 % of scored"),
        "Throughput, events/s": ("25.0", "in the last minute"),
    }
    assert len(page.get("vega_lite_chart")) == 2
    table = page.dataframe[0].value
    assert table["loan_id"].tolist() == ["2500"]
    assert list(table["reasons"][0]) == ["DTI ≥ 30 %", "Delinquencies > 0"]
    assert table["purpose"].tolist() == ["Small business"]
    status = next(text.value for text in page.markdown if "Last commit" in text.value)
    assert "Live" in status
    assert "1,501 scored, 1 rejected (0.1 %)" in status


def test_a_period_without_events_says_so(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(WATCHLIST)
    for table, column in (
        ("risk_by_minute", "minute"),
        ("scored_applications", "scored_at"),
        ("batches", "committed_at"),
    ):
        warehouse.execute(f"UPDATE {table} SET {column} = {column} - interval '2 hours'")
    page = open_page()
    assert figures(page)["Watchlist"] == ("1", "100.0 % of scored")
    assert "Idle" in next(text.value for text in page.markdown if "Last commit" in text.value)
    page.segmented_control(key="period").set_value("1 h").run()
    assert not page.exception
    assert "Nothing was scored in the last hour" in page.info[0].value
    assert figures(page)["Watchlist"] == ("0", "– of scored")


def test_the_period_is_part_of_the_address(warehouse: psycopg.Connection[Any]) -> None:
    page = open_page("7 d")
    assert figures(page)["Applications scored"] == ("0", "in the last 7 days")


def test_a_server_that_is_down_is_named_and_the_password_is_not(unreachable: None) -> None:
    page = open_page()
    assert not page.exception
    assert not page.metric
    assert "The warehouse does not answer" in page.warning[0].value
    assert "127.0.0.1:1/credit_risk" in page.code[0].value
    assert "secret" not in page.code[0].value


def test_a_database_without_tables_says_how_to_make_them(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(database_url, monkeypatch)
    page = open_page()
    assert not page.exception
    assert "no tables yet" in page.warning[0].value
    assert "credit-risk migrate" in page.warning[0].value


def test_the_page_comes_back_with_the_server(
    unreachable: None,
    warehouse_settings: WarehouseSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = open_page()
    assert page.warning
    monkeypatch.setenv("DATABASE_URL", warehouse_settings.database_url.get_secret_value())
    page.run()
    assert not page.warning
    assert page.metric


def test_a_wrong_setting_is_named(
    warehouse: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at("postgresql://127.0.0.1:1/x", monkeypatch)
    monkeypatch.setenv("CREDIT_RISK_SCHEMA", "no schema")
    page = open_page()
    assert not page.exception
    assert "configuration is not valid" in page.warning[0].value
    assert "CREDIT_RISK_SCHEMA" in page.code[0].value
