"""What the figures of reviews show."""

from datetime import timedelta

import pandas as pd
import streamlit as st

from credit_risk_dagster.pipelines.reviews import Reviews, TurnedOut, review_figures
from dashboard.data.connection import snapshot

DAYS = {"7 d": 7, "30 d": 30, "90 d": 90, "All": None}
WORK_DAYS = 30  # of which work by day is shown at most


@st.cache_data(ttl=30, max_entries=20, show_spinner=False)
def reviews(period: str, zone: str) -> Reviews:
    """The figures of one of `DAYS`, with the days of a zone."""
    days = DAYS[period]
    with snapshot() as db:
        now = db.now("UTC").to_pydatetime()
        return review_figures(
            db.connection,
            since=now - timedelta(days=min(days or WORK_DAYS, WORK_DAYS)),
            closed_since=None if days is None else now.date() - timedelta(days=days),
            zone=zone,
        )


@st.cache_data(ttl=30, max_entries=20, show_spinner=False)
def turned_out(zone: str) -> tuple[pd.Timestamp, TurnedOut] | None:
    """How the loans of closed cases turned out, by the newest report of reviews, and when that was
    made, in a zone; None before the first."""
    with snapshot() as db:
        rows = db.rows(
            "SELECT created_at, document FROM risk_reports WHERE kind = 'reviews'"
            " ORDER BY report_id DESC LIMIT 1"
        )
    if not rows:
        return None
    (row,) = rows
    return pd.Timestamp(row["created_at"]).tz_convert(zone), TurnedOut.of(row["document"])
