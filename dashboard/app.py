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
st.navigation(
    [
        st.Page(overview.page, title="Overview", icon=":material/monitoring:", default=True),
        st.Page(
            watchlist.page,
            title="Watchlist",
            icon=":material/flag:",
            url_path="watchlist",
        ),
        st.Page(drift.page, title="Drift", icon=":material/ssid_chart:", url_path="drift"),
        st.Page(model.page, title="Model", icon=":material/model_training:", url_path="model"),
        st.Page(
            portfolio.page,
            title="Portfolio",
            icon=":material/account_balance:",
            url_path="portfolio",
        ),
        st.Page(
            inventory.page,
            title="Inventory",
            icon=":material/inventory_2:",
            url_path="inventory",
        ),
        st.Page(
            policy_lab.page,
            title="Policy lab",
            icon=":material/science:",
            url_path="policy-lab",
        ),
        st.Page(
            operations.page,
            title="Operations",
            icon=":material/build:",
            url_path="operations",
        ),
    ],
    position="top",
).run()
