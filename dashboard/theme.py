"""Colours that Streamlit's own theme (`.streamlit/config.toml`) does not reach."""

from typing import TypeVar
from urllib.parse import quote

import altair as alt
import streamlit as st

from credit_risk_dagster.domain.policy import TIERS

# Told apart with each kind of colour blindness, and at least 3:1 against both backgrounds, so that
# a tier has one colour in light and in dark.
TIER_COLOURS = dict(zip(TIERS, ("#2F7DBD", "#C28400", "#C6303E"), strict=True))

# Streamlit writes the text of light charts at 3.7:1.
CHART_TEXT = {"light": "#45556A", "dark": "#B4C1D0"}

# Streamlit announces each run: it shows a running figure and fades what is not redrawn yet. On a
# page that refreshes every two seconds that is flicker.
PAGE_STYLE = """
<style>
[data-testid="stStatusWidget"] { display: none; }
[data-stale="true"] { opacity: 1 !important; transition: none !important; }
</style>
"""

_Chart = TypeVar("_Chart", alt.Chart, alt.LayerChart)


def chart_text() -> str:
    """The colour of a chart's text that has contrast in the viewer's theme."""
    return CHART_TEXT[st.context.theme.type or "light"]


def coloured(chart: _Chart, text: str) -> _Chart:
    """The chart with all its text in a colour."""
    return (
        chart.configure_axis(labelColor=text, titleColor=text)
        .configure_legend(labelColor=text, titleColor=text)
        .configure_text(color=text)
    )


def swatch(tier: str) -> str:
    """A square in the tier's colour, as Markdown for a label."""
    square = _svg(f'<rect width="10" height="10" rx="2" fill="{TIER_COLOURS[tier]}"/>')
    return f"![]({square})"


def page_icon() -> str:
    """Three bars in the tiers' colours; a named icon would be fetched from the internet."""
    return _svg(
        "".join(
            f'<rect x="{4 * i}" y="{6 - 3 * i}" width="3" height="{4 + 3 * i}" fill="{colour}"/>'
            for i, colour in enumerate(TIER_COLOURS.values())
        )
    )


def _svg(shapes: str) -> str:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10">{shapes}</svg>'
    return f"data:image/svg+xml,{quote(svg)}"
