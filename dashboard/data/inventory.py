"""What the Inventory page shows: policies, models and baselines, and a model's document."""

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.model.card import to_html, to_markdown
from credit_risk_dagster.pipelines.model_document import model_document
from credit_risk_dagster.settings import DashboardSettings
from dashboard.data.connection import snapshot
from resources.postgres.inventory import inventory as items


@st.cache_data(ttl=10, max_entries=10, show_spinner=False)
def inventory(zone: str) -> pd.DataFrame:
    """The fields of `Item`, and `age` in days since it was made; times in a zone."""
    with snapshot() as db:
        now = db.now(zone)
        frame = pd.DataFrame([vars(item) for item in items(db.connection)])
    if frame.empty:
        return frame
    for column in ("since", "created_at"):
        frame[column] = pd.to_datetime(frame[column], utc=True).dt.tz_convert(zone)
    return frame.assign(age=(now - frame["created_at"]).dt.days)


@st.cache_data(ttl=10, max_entries=20, show_spinner=False)
def document(model_id: int) -> tuple[str, str]:
    """A model's document, as Markdown and as HTML."""
    with snapshot() as db:
        title, sections = model_document(db.connection, model_id, DashboardSettings().dagster_url)
    return to_markdown(title, sections), to_html(title, sections)
