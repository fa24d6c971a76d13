"""Operations: does the pipeline run, how far behind is it, and what could it not process."""

import streamlit as st

from dashboard import formats, queries
from dashboard.live import live, viewer_zone


def page() -> None:
    """Draw the page."""
    st.title("Operations", anchor=False)
    _body()


@live
def _body() -> None:
    progress = queries.overview("15 min", viewer_zone()).progress
    if progress.last_commit is None:
        st.info("Nothing was committed yet. Batches appear here as soon as the pipeline runs.")
        return
    st.metric("Last commit", formats.age(progress.silence_seconds))
