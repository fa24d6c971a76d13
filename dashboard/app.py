"""The business dashboard: `streamlit run dashboard/app.py` in the project's root."""

import streamlit as st

from dashboard import theme
from dashboard.pages import overview

st.set_page_config(page_title="Credit risk", page_icon=theme.page_icon(), layout="wide")
st.html(theme.QUIET_REFRESH)
st.navigation(
    [st.Page(overview.page, title="Overview", icon=":material/monitoring:", default=True)],
    position="top",
).run()
