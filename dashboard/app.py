"""The business dashboard: `streamlit run dashboard/app.py` in the project's root."""

import streamlit as st

from dashboard import theme
from dashboard.pages import operations, overview, watchlist

st.set_page_config(page_title="Credit risk", page_icon=theme.page_icon(), layout="wide")
st.html(theme.PAGE_STYLE)
st.navigation(
    [
        st.Page(overview.page, title="Overview", icon=":material/monitoring:", default=True),
        st.Page(
            watchlist.page,
            title="Watchlist",
            icon=":material/flag:",
            url_path="watchlist",
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
