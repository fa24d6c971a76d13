"""The strip on the first screen, with what it asks really there, or away."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import streamlit as st

from dashboard.data.strip import strip
from resources.postgres.management import Management
from resources.postgres.risk_reports import add_report
from tests.dashboard.conftest import LOW, WATCHLIST, Commit, open_view, point_at

LINES = [
    *("Pipeline", "Population", "Policy and outcomes", "Model", "Limits", "Work", "Checks"),
    "Since yesterday",
]
PORTFOLIO = {
    "performance": None,
    "limits": {"watchlist_share": {"value": 0.2}, "largest_state": {"of": "CA", "value": 0.1}},
}


@pytest.fixture(autouse=True)
def _no_dagster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDIT_RISK_DAGSTER_URL", "http://127.0.0.1:1")


def levels() -> dict[str, str]:
    return {line.name: line.level for line in strip()}


def test_a_source_that_is_away_is_grey_and_stops_no_other_line(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(*[LOW] * 8, *[WATCHLIST] * 2)
    add_report(warehouse, "portfolio", "p", PORTFOLIO, "run")
    assert [line.name for line in strip()] == LINES
    assert levels() == {
        "Pipeline": "grey",  # no broker
        "Population": "grey",
        "Policy and outcomes": "grey",
        "Model": "grey",
        "Limits": "red",
        "Work": "green",
        "Checks": "grey",  # no Dagster
        "Since yesterday": "green",
    }
    page = open_view("overview")
    assert not page.exception
    (drawn,) = (h.proto.body for h in page.get("html") if "signals" in h.proto.body)
    assert drawn.count("<li>") == len(LINES)
    assert 'href="portfolio"' in drawn
    assert "Watchlist 20.0 %, red from 10.0 %" in drawn
    assert "Dagster does not answer" in drawn


def test_a_warehouse_that_is_away_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("postgresql://user:secret@127.0.0.1:1/credit_risk", monkeypatch)
    found = strip()
    assert {line.level for line in found} == {"grey"}
    assert len({line.why for line in found if line.name != "Checks"}) == 1
    assert "secret" not in "".join(line.why for line in found)


def test_a_file_of_limits_that_is_none_is_said_on_its_line(
    warehouse: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text("largest_stat: {amber: 1, red: 2}")
    monkeypatch.setenv("CREDIT_RISK_LIMITS_FILE", str(file))
    (line,) = (line for line in strip() if line.name == "Limits")
    assert line.level == "grey"
    assert "largest_stat is no limit: write largest_state" in line.why


def test_since_yesterday_counts_loans_and_not_decisions(
    warehouse: psycopg.Connection[Any], commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest decision says what a loan is; of too many, decisions are counted and named."""
    commit(*[LOW | {"id": "7"}] * 4, WATCHLIST | {"id": "7"}, LOW | {"id": "8"})

    def said() -> str:
        st.cache_data.clear()
        (line,) = (line for line in strip() if line.name == "Since yesterday")
        return line.why

    assert said() == "2 applications, none the day before"
    until = datetime.now(UTC) + timedelta(minutes=1)
    found = Management(warehouse).volume(until - timedelta(days=1), until)
    assert (found.low, found.watchlist, found.once) == (1, 1, True)
    assert found.loan_amnt == 2 * found.watchlist_amnt
    monkeypatch.setattr("resources.postgres.management.MOST_DECISIONS", 5)
    assert said() == "6 decisions, none the day before"
