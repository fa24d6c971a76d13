"""The Overview page as a viewer meets it."""

from typing import Any

import pandas as pd
import psycopg
import pytest
import streamlit as st

from credit_risk_dagster.settings import WarehouseSettings
from dashboard.data import loans
from dashboard.data import overview as queries
from dashboard.data.overview import breakdown
from dashboard.data.segments import Segment
from dashboard.parts.lag import Lag
from dashboard.parts.states import TILES
from dashboard.views import overview
from tests.dashboard.conftest import (
    ELEVATED,
    LOW,
    REJECTED,
    WATCHLIST,
    Commit,
    figures,
    open_view,
    point_at,
    words,
)


def test_an_empty_database_says_how_to_fill_it(warehouse: psycopg.Connection[Any]) -> None:
    page = open_view("overview")
    assert not page.exception
    assert "No applications yet" in page.info[0].value
    assert "make demo" in page.info[0].value
    assert figures(page)["Applications"] == "0"
    assert figures(page)["Watchlist share"] == "–"
    assert not page.get("vega_lite_chart")


def test_a_filled_database_shows_figures_and_charts(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(*[LOW] * 120, *[ELEVATED] * 30, *[WATCHLIST] * 10, REJECTED)
    warehouse.execute("UPDATE scored_applications SET recommendation = 'refer' WHERE dti = 35")
    page = open_view("overview")
    assert not page.exception
    assert not page.info
    assert figures(page) == {
        "Applications": "160",
        "Approved": "93.8 %",
        "Referred": "6.2 %",
        "Declined": "0.0 %",
        "Watchlist share": "6.2 %",
        "Elevated share": "18.8 %",
        "Amount requested, Watchlist": "$100 K",
        "Unreadable events": "0.62 %",
    }
    (share,) = (m for m in page.metric if m.label.endswith("Watchlist share"))
    assert share.proto.delta_description == "10 of 160; 95 %: 3.4–11.1\u00a0%"
    # Volume, mix, and the risk by purpose, state, grade, amount and term.
    assert len(page.get("vega_lite_chart")) == 7
    assert "Live" in words(page)
    assert "160 decisions, 1 rejected event (0.62 %)" in words(page)
    # In five minutes; the stream itself is on the page Operations alone.
    assert figures(open_view("operations"))["Throughput, events/s"] == "0.5"
    drawn = "".join(html.proto.body for html in page.get("html"))
    assert "Course of Applications" in drawn
    assert "Course of Watchlist share" not in drawn  # of one bucket there is no line


def test_figures_change_against_the_period_before(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(*[LOW] * 6, *[WATCHLIST] * 2)
    warehouse.execute("UPDATE risk_by_minute SET minute = minute - interval '80 minutes'")
    warehouse.execute(
        "UPDATE scored_applications SET scored_at = scored_at - interval '80 minutes'"
    )
    commit(*[LOW] * 9, *[WATCHLIST] * 3)
    page = open_view("overview", period="1 h")
    deltas = {m.label.rpartition(")")[2].strip(): m.delta for m in page.metric}
    assert deltas["Applications"] == "+50.0 %"
    assert deltas["Amount requested, Watchlist"] == "+50.0 %"
    assert deltas["Watchlist share"] == "+0.00 points"
    deltas = {m.label: m.delta for m in open_view("overview", period="All").metric}
    assert not deltas["Applications"]


def test_figures_change_against_a_year_ago(
    warehouse: psycopg.Connection[Any], commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loans, "MOST_DECISIONS", -1)  # of the rollup, which is moved
    commit(*[LOW] * 4)
    warehouse.execute("UPDATE risk_by_minute SET minute = minute - interval '1 year'")
    commit(*[LOW] * 6)
    page = open_view("overview", period="24 h", against="a year ago")
    (figure,) = (m for m in page.metric if m.label == "Decisions")
    assert (figure.value, figure.delta) == ("6", "+50.0 %")
    assert figure.proto.delta_description == "against a year ago"


def test_a_month_a_quarter_and_days_of_the_calendar(
    warehouse: psycopg.Connection[Any], commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loans, "MOST_DECISIONS", -1)  # of the rollup, which is moved
    commit(*[LOW] * 4)
    warehouse.execute("UPDATE risk_by_minute SET minute = timestamptz '2026-02-10 12:00Z'")
    commit(*[LOW] * 6)
    for dates in ("2026-02", "2026-Q1", "2026", "2026-02-10", "2026-02-01..2026-02-28"):
        page = open_view("overview", dates=dates)
        assert not page.exception
        expected = "4" if dates != "2026" else str(4 + 6 * (pd.Timestamp.now().year == 2026))
        assert figures(page)["Decisions"] == expected, dates
    page = open_view("overview", dates="2026-02-10..2026-02-01")
    assert figures(page)["Decisions"] == "10"  # of the history that there is
    assert "is no period" in page.warning[0].value
    assert "still to come" in open_view("overview", dates="2199").warning[0].value


def test_a_segment_filters_everything_and_is_in_the_address(commit: Commit) -> None:
    commit(*[LOW] * 5, *[WATCHLIST] * 3, WATCHLIST | {"addr_state": "TX"}, REJECTED)
    page = open_view("overview", purpose="Small business")
    assert not page.exception
    assert figures(page)["Applications"] == "4"
    assert figures(page)["Watchlist share"] == "100.0 %"
    assert figures(page)["Unreadable events"] == "–"
    assert "**Small business**" in words(page)
    assert figures(page)["Approved"] == "–"
    assert "Since the start, of all kinds, 9 decisions" in words(page)
    page.multiselect(key="state").set_value(["TX"]).run()
    assert figures(page)["Applications"] == "1"
    page.multiselect(key="grade").set_value(["G"]).run()
    assert not page.exception
    assert "Choose a longer period or fewer filters" in page.info[0].value


def test_a_loan_counts_once_by_its_newest_decision(
    commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = {"id": 7, "addr_state": "TX"}
    for _ in range(3):
        commit(WATCHLIST | again, *[LOW] * 2)
    commit(LOW | again | {"addr_state": "CA", "loan_amnt": 5_000})
    for period in ("1 h", "All"):
        found = queries.counted(period, "UTC")
        assert found.once
        assert (found.totals.applications, found.totals.watchlist) == (7, 0)
        assert found.totals.loan_amnt == 65_000
    texas = queries.counted("1 h", "UTC", Segment(addr_state=("TX",)))
    assert texas.totals.applications == 0
    page = open_view("overview", period="1 h")
    assert figures(page)["Applications"] == "7"
    (told,) = (m for m in page.metric if m.label == "Applications")
    assert told.proto.delta_description == "10 decisions; nothing of the period before"
    rows = breakdown("1 h", "UTC").rows
    assert rows.groupby("dimension")["applications"].sum().unique().tolist() == [7]
    monkeypatch.setattr(loans, "MOST_DECISIONS", 9)
    st.cache_data.clear()
    many = queries.counted("1 h", "UTC")
    assert (many.once, many.totals.applications, many.totals.watchlist) == (False, 10, 3)
    assert figures(open_view("overview", period="1 h"))["Decisions"] == "10"


def test_sums_of_other_days_than_utcs_are_said_to_be_of_those(
    warehouse: psycopg.Connection[Any], commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(*[LOW] * 4)
    warehouse.execute("UPDATE risk_by_minute SET minute = timestamptz '2026-02-10 12:00Z'")
    warehouse.execute("UPDATE segments_progress SET merged_to = now(), rolled_up_to = now()")
    assert not breakdown("2026-02", "Asia/Kolkata").utc  # each loan is counted, in any days
    monkeypatch.setattr(loans, "MOST_DECISIONS", -1)
    st.cache_data.clear()
    assert breakdown("2026-02", "Asia/Kolkata").utc
    assert not breakdown("2026-02", "UTC").utc


def test_the_measure_is_in_the_address(commit: Commit) -> None:
    commit(*[LOW] * 5, *[WATCHLIST] * 3)
    page = open_view("overview", measure="Amount requested")
    assert not page.exception
    assert "Amount requested by purpose" in [header.value for header in page.header]


def test_a_period_without_events_says_so(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(WATCHLIST)
    for table, column in (
        ("risk_by_minute", "minute"),
        ("scored_applications", "scored_at"),
        ("batches", "committed_at"),
    ):
        warehouse.execute(f"UPDATE {table} SET {column} = {column} - interval '2 hours'")  # type: ignore[call-overload]
    page = open_view("overview")
    assert figures(page)["Watchlist share"] == "100.0 %"
    assert "Quiet" in words(page)  # without a broker nobody knows whether anything waits
    page.segmented_control(key="period").set_value("1 h").run()
    assert not page.exception
    assert "was scored in the last hour" in page.info[0].value


@pytest.mark.parametrize(
    ("silence", "waiting", "oldest", "said"),
    [
        (3.0, 500, None, "green-badge[Live]"),
        (3.0, 0, None, "green-badge[Live]"),
        (90.0, 0, None, "gray-badge[Idle]"),
        (90.0, None, None, "gray-badge[Quiet]"),
        (52.0, 2_971, 52.0, "red-badge[Stalled: 2,971 wait, the oldest 52 s]"),
        (7_200.0, 12, 4.0, "green-badge[Live]"),  # the first one after quiet hours
        (30.0, 12, None, "orange-badge[Starting]"),
        (7_200.0, 12, None, "red-badge[Stalled: 12 wait]"),
    ],
)
def test_whether_the_stream_lives(
    silence: float, waiting: int | None, oldest: float | None, said: str
) -> None:
    """A green "Live" stood over 2,971 events that waited for a daemon that was stopped."""
    lag = Lag(waiting, {}, "topic", "", (), oldest)
    assert overview._state(silence, lag) == f":{said}"


def test_a_state_of_a_few_applications_is_hatched(commit: Commit) -> None:
    commit(*[LOW] * 40, *[WATCHLIST | {"addr_state": "TX"}] * 2)
    page = open_view("overview")
    rows = breakdown("24 h", "UTC").rows
    tiles = overview._tiles(overview._measured(rows, "Watchlist share")).set_index("state")
    assert tiles["few"][["TX", "CA", "NY"]].tolist() == [True, False, False]
    assert pd.isna(tiles["value"]["TX"])
    assert tiles["text"]["TX"] == "100.0 %"
    counted = overview._tiles(overview._measured(rows, "Applications")).set_index("state")
    assert not counted["few"].any()
    assert "Hatched: fewer than 30 applications" in words(page)


def test_a_segment_tells_how_far_it_is_from_before(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(*[LOW] * 36, *[LOW | {"dti": 35, "delinq_2yrs": 1}] * 4)
    warehouse.execute("UPDATE scored_applications SET scored_at = scored_at - interval '80 min'")
    commit(*[LOW] * 30, *[LOW | {"dti": 35, "delinq_2yrs": 1}] * 10, WATCHLIST)
    data = breakdown("1 h", "UTC")
    assert data.before is not None
    rows = overview._with_trend(
        overview._measured(data.rows, "Watchlist share"),
        overview._measured(data.before, "Watchlist share"),
    )
    told = rows[rows["dimension"] == "purpose"].set_index("value_of")["text"]
    assert told["credit_card"] == "25.0 % (+15.0)"
    assert told["small_business"] == "100.0 %"  # of a single one there is no trend


def test_a_server_that_is_down_is_named_once_and_the_password_is_not(unreachable: None) -> None:
    page = open_view("overview")
    assert not page.exception
    assert not page.metric
    (warning,) = page.warning
    assert "The warehouse does not answer" in warning.value
    assert "127.0.0.1:1/credit_risk" in page.code[0].value
    assert "secret" not in page.code[0].value


def test_the_page_comes_back_with_the_server(
    unreachable: None,
    warehouse_settings: WarehouseSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = open_view("overview")
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
    page = open_view("overview")
    assert not page.exception
    assert "configuration is not valid" in page.warning[0].value
    assert "CREDIT_RISK_SCHEMA" in page.code[0].value


def test_the_map_has_every_state_once() -> None:
    assert len(TILES) == 51
    assert len(set(TILES.values())) == 51
