"""Inventory: what decides, scores, and is measured from; whose it is, and since when."""

from datetime import timedelta
from functools import partial

import pandas as pd
import streamlit as st

from dashboard.data import inventory as queries
from dashboard.parts import formats, tables
from dashboard.parts.layout import panel
from dashboard.parts.live import live, viewer_zone

REFRESH_EVERY = timedelta(seconds=30)


def page() -> None:
    """Draw the page."""
    st.title("Inventory", anchor=False)
    _body()


@partial(live, every=REFRESH_EVERY)
def _body() -> None:
    items = queries.inventory(viewer_zone())
    if items.empty:
        st.info(
            "**Nothing yet.** Policies appear when they decide or are submitted, models when they "
            "are trained, baselines when they are frozen.",
            icon=":material/hourglass_empty:",
        )
        return
    with panel(
        "Policies, models and baselines",
        f"{formats.count(len(items))} in all, the active ones first. The owner is who "
        "submitted it; of a first policy, that it is built in or whose file it was.",
    ):
        tables.table(
            items.assign(kind=items["kind"].map(formats.words), state=items["state"].str.title()),
            {
                "kind": tables.name("Kind"),
                "subject_id": tables.plain("Id"),
                "name": tables.text("Name"),
                "state": tables.text("State"),
                "since": tables.minute("Since"),
                "owner": tables.text("Owner"),
                "approved_by": tables.text("Approved by"),
                "created_at": tables.minute("Made"),
                "age": tables.count("Age, days"),
            },
            "Every policy, model and baseline, with its owner, state and age",
        )
    models = items[items["kind"] == "model"]
    if len(models):
        _document(models)


def _document(models: pd.DataFrame) -> None:
    names = dict(zip(models["subject_id"], models["name"], strict=True))
    with panel(
        "A model's document",
        "Purpose and what it is not for, data, limits, tests with their figures, approvals and the "
        "next review, as the database has them; each figure names the run that it is of.",
    ):
        chosen = st.selectbox(
            "Model", list(names), format_func=lambda at: f"{at}: {names[at]}", key="document"
        )
        markdown, html = queries.document(int(chosen))
        with st.container(horizontal=True):
            for words, text, kind, mime in (
                ("Save as Markdown", markdown, "md", "text/markdown"),
                ("Save as HTML", html, "html", "text/html"),
            ):
                st.download_button(
                    words,
                    text,
                    file_name=f"model-{chosen}.{kind}",
                    mime=mime,
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"document_{kind}",
                )
        with st.expander("Read it here"):
            st.markdown(markdown)
