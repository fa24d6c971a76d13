"""The business dashboard: `streamlit run dashboard/app.py` in the project's root."""

import streamlit as st

from credit_risk_dagster.errors import PlatformError
from dashboard.charts import theme
from dashboard.parts import sign_in
from dashboard.views import (
    drift,
    inventory,
    model,
    operations,
    overview,
    policy_lab,
    portfolio,
    watchlist,
)

st.set_page_config(page_title="Credit risk", page_icon=theme.page_icon(), layout="wide")
st.html(theme.PAGE_STYLE)
try:
    due = sign_in.is_due()
except PlatformError as error:
    sign_in.closed(error)
    st.stop()
if due:
    sign_in.page()
    st.stop()
_PAGES = (
    (overview.page, "Overview", "monitoring"),
    (watchlist.page, "Watchlist", "flag"),
    (drift.page, "Drift", "ssid_chart"),
    (model.page, "Model", "model_training"),
    (portfolio.page, "Portfolio", "account_balance"),
    (inventory.page, "Inventory", "inventory_2"),
    (policy_lab.page, "Policy lab", "science"),
    (operations.page, "Operations", "build"),
)
st.navigation(
    [
        st.Page(
            page,
            title=title,
            icon=f":material/{icon}:",
            url_path=title.lower().replace(" ", "-"),
            default=page is overview.page,
        )
        for page, title, icon in _PAGES
    ],
    position="top",
).run()
