"""The dashboard's SQL on a real Postgres."""

from typing import Any

import pandas as pd
import psycopg
import pytest
import streamlit as st

from dashboard.data import overview as queries
from dashboard.data.connection import snapshot
from dashboard.data.report import report_html
from dashboard.data.segments import Segment
from dashboard.parts.periods import PERIODS
from tests.dashboard.conftest import ELEVATED, LOW, REJECTED, WATCHLIST, Commit


def test_an_empty_database_has_zeros_and_unknowns(warehouse: psycopg.Connection[Any]) -> None:
    for period in PERIODS:
        data = queries.overview(period, "Europe/Berlin")
        assert data.scored == {"Watchlist": 0, "Elevated": 0, "Low": 0}
        assert list(data.scored) == ["Watchlist", "Elevated", "Low"]
        assert (data.progress.scored, data.progress.rejected) == (0, 0)
        assert data.progress.last_commit is None
        assert pd.isna(data.progress.silence_seconds)
        assert len(data.volume) >= 15


def test_what_the_pipeline_commits_is_what_the_page_gets(commit: Commit) -> None:
    commit(LOW, LOW, ELEVATED, WATCHLIST, REJECTED)
    commit(LOW)
    for period in PERIODS:
        data = queries.overview(period, "America/New_York")
        assert data.scored == {"Watchlist": 1, "Elevated": 1, "Low": 3}
        assert (data.progress.scored, data.progress.rejected) == (5, 1)
        assert data.progress.events_per_second == pytest.approx(6 / 300)
        assert data.progress.silence_seconds < 30
        assert data.volume["Rejected"].sum() == 1
        assert data.volume.index[-1] <= data.progress.as_of < data.volume["end"].iloc[-1]


def test_a_period_leaves_out_what_is_older(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW)
    warehouse.execute(
        "INSERT INTO risk_by_minute"
        " SELECT date_trunc('minute', now()) - age::interval, 1, 'Elevated', 10, 0"
        " FROM unnest(%s::text[]) AS age",
        (["30 minutes", "5 hours", "3 days", "40 days"],),
    )
    st.cache_data.clear()
    elevated = {p: queries.overview(p, "UTC").scored["Elevated"] for p in PERIODS}
    assert elevated == {"15 min": 0, "1 h": 10, "24 h": 20, "7 d": 30, "30 d": 30, "All": 40}


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_days_of_the_calendar_have_what_is_in_them_alone(
    zone: str, warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(*[LOW] * 4)
    warehouse.execute(
        "CREATE TABLE older PARTITION OF scored_applications"
        " FOR VALUES FROM ('2023-12-01') TO ('2025-12-01')"
    )
    warehouse.execute(
        "UPDATE segments_progress SET (rolled_up_to, merged_to) = ('-infinity', '-infinity')"
    )
    for period, first, following in (
        ("2025-10", "2025-10-01", "2025-11-01"),
        ("2025-Q3", "2025-07-01", "2025-10-01"),
        ("2024", "2024-01-01", "2025-01-01"),
        ("2025-10-05", "2025-10-05", "2025-10-06"),
    ):
        minute = pd.Timedelta("1min")
        since, until = (pd.Timestamp(day, tz=zone) for day in (first, following))
        moments = [since - minute, since, until - minute, until]
        warehouse.execute(
            'UPDATE scored_applications SET scored_at = (%s::timestamptz[])["offset" + 1]',
            ([moment.to_pydatetime() for moment in moments],),
        )
        warehouse.execute("DELETE FROM risk_by_minute")
        warehouse.execute(
            "INSERT INTO risk_by_minute SELECT scored_at, 1, risk_tier, 1, loan_amnt"
            " FROM scored_applications"
        )
        st.cache_data.clear()
        for segment in (queries.EVERYTHING, Segment(purpose=("credit_card",))):
            data = queries.overview(period, zone, segment)
            assert data.totals.applications == 2, period
            assert data.before is not None
            assert data.before.applications == 1
            assert data.volume["Low"].iloc[[0, -1]].tolist() == [1, 1]
            assert (data.volume.index[0], data.volume["end"].iloc[-1]) == (since, until)
            found = queries.counted(period, zone, segment)
            assert found.once
            assert found.before is not None
            assert (found.totals.applications, found.before.applications) == (2, 1)
            where = queries.breakdown(period, zone, segment)
            assert where.since == since
            assert where.before is not None
            assert set(where.rows["applications"]) == {2}
            assert set(where.before["applications"]) == {1}
        recommended = queries.overview(period, zone).recommended
        assert recommended is not None
        assert recommended.loans == 2
        if zone == "UTC":  # whose days the report has
            report = report_html(period).decode()
            assert "<td>Applications</td><td>2</td><td>1</td>" in report, period


def test_each_minute_is_counted_in_its_bucket(warehouse: psycopg.Connection[Any]) -> None:
    warehouse.execute("INSERT INTO sources (cluster_id, topic) VALUES ('cluster', 'topic')")
    warehouse.execute(
        "INSERT INTO risk_by_minute SELECT minute, 1, 'Low', extract(minute FROM minute) + 1, 0"
        " FROM generate_series(date_trunc('minute', now()) - interval '3 hours',"
        " date_trunc('minute', now()), interval '1 minute') AS minute"
    )
    volume = queries.overview("1 h", "Asia/Kolkata").volume
    assert set(volume["end"] - volume.index) == {pd.Timedelta("1min")}
    utc = pd.DatetimeIndex(volume.index[:-1]).tz_convert("UTC")
    assert volume["Low"].iloc[:-1].tolist() == [minute + 1 for minute in utc.minute]


def test_counts_of_the_past_are_kept_and_those_of_now_are_not(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW)
    assert queries.overview("7 d", "UTC").scored["Low"] == 1
    warehouse.execute(
        "INSERT INTO risk_by_minute SELECT date_trunc('minute', now()) - age::interval, 1,"
        " 'Watchlist', 1, 0 FROM unnest(%s::text[]) AS age",
        (["0 minutes", "3 days"],),
    )
    queries.overview.clear()
    assert queries.overview("7 d", "UTC").scored["Watchlist"] == 1


def test_the_dashboard_cannot_write(warehouse: psycopg.Connection[Any]) -> None:
    with snapshot() as db, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        db.connection.execute("DELETE FROM sources")
