"""What the figures of reviews show."""

from datetime import timedelta

import streamlit as st

from credit_risk_dagster.domain.model.outcome import load_outcome
from credit_risk_dagster.pipelines.reviews import Reviews, review_figures
from credit_risk_dagster.settings import ModelSettings
from dashboard.data.connection import snapshot

DAYS = {"7 d": 7, "30 d": 30, "90 d": 90, "All": None}
WORK_DAYS = 30  # of which work by day is shown at most


@st.cache_data(ttl=30, max_entries=20, show_spinner=False)
def reviews(period: str, zone: str) -> Reviews:
    """The figures of one of `DAYS`, with the days of a zone."""
    days = DAYS[period]
    outcome = load_outcome(ModelSettings().outcome)
    with snapshot() as db:
        now = db.now("UTC").to_pydatetime()
        return review_figures(
            db.connection,
            outcome,
            since=now - timedelta(days=min(days or WORK_DAYS, WORK_DAYS)),
            closed_since=None if days is None else now - timedelta(days=days),
            zone=zone,
        )
