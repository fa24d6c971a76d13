"""Watchlist: who was flagged, why, and what was done about it."""

import streamlit as st

from dashboard import queries
from dashboard.live import live, viewer_zone


def page() -> None:
    """Draw the page."""
    st.title("Watchlist", anchor=False)
    _body()


@live
def _body() -> None:
    data = queries.overview("All", viewer_zone())
    if data.watchlist.empty:
        st.info("No application was flagged yet. Flagged ones appear here by themselves.")
        return
    st.dataframe(data.watchlist, hide_index=True)
