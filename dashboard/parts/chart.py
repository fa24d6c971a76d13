"""A chart on a page."""

import pandas as pd
import streamlit as st

from dashboard.charts import theme
from dashboard.charts.vocabulary import DATASET, Spec

HEIGHT = 280
_PADDING = {"left": 2, "right": 8, "top": 2, "bottom": 2}


def viewer_theme() -> str:
    """The viewer's theme: light or dark."""
    return st.context.theme.type or "light"


def show(spec: Spec, rows: pd.DataFrame, alt_text: str, height: int = HEIGHT) -> None:
    """Draw a chart of its rows. A refresh hands new ones over, under the same name."""
    st.vega_lite_chart(
        spec
        | {
            "datasets": {DATASET: rows},
            "config": theme.config(viewer_theme()),
            "padding": _PADDING,
        },
        height=height,
        alt=alt_text,
    )
