"""The charts of Overview, Watchlist and Operations, as Vega-Lite.

They are built once, without data: to build and check one takes Altair longer than all the rest of a
page takes. A refresh hands the new data over under a name that stays the same.
"""

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.policy import TIERS
from dashboard.charts import theme
from dashboard.charts.theme import TIER_COLOURS, chart_text, coloured

DATASET = "rows"
HEIGHT = 280
_PADDING = {"left": 2, "right": 8, "top": 2, "bottom": 2}
# The tier to act on comes first: in the cards, the legend and the tables, and at the charts' axis.
WORST_FIRST = tuple(reversed(TIERS))
TIER_SCALE = alt.Scale(domain=WORST_FIRST, range=[TIER_COLOURS[tier] for tier in WORST_FIRST])
TIME_FORMAT = "%-d %b %H:%M"
_AXIS_FORMATS = ((pd.Timedelta("25h"), "%H:%M"), (pd.Timedelta("10D"), TIME_FORMAT))


def show(
    spec: dict[str, Any],
    rows: pd.DataFrame,
    alt_text: str,
    height: int = HEIGHT,
    **others: pd.DataFrame,
) -> None:
    """Draw a chart with its data: `DATASET`, and others by their names."""
    st.vega_lite_chart(
        spec | {"datasets": {DATASET: rows, **others}, "padding": _PADDING},
        height=height,
        alt=alt_text,
    )


def time_format(edges: pd.DatetimeIndex) -> str:
    """How a time axis over these buckets is labelled."""
    span = edges[-1] - edges[0]
    return next((known for up_to, known in _AXIS_FORMATS if span <= up_to), "%-d %b %Y")


def volume(bucket: str, axis_format: str) -> dict[str, Any]:
    """Applications by tier and bucket, stacked; rows as `stacked` makes them."""
    return _volume(bucket, axis_format, chart_text())


def mix(axis_format: str) -> dict[str, Any]:
    """Shares of the tiers by bucket, stacked to one; rows as `stacked` makes them."""
    return _mix(axis_format, chart_text())


def stacked(counts: pd.DataFrame) -> pd.DataFrame:
    """A row for each tier in each bucket, with where its part of the stack begins and ends.

    Args:
        counts: indexed by the bucket's start, with `end` and a column for each tier.
    """
    tiers = counts[list(WORST_FIRST)]
    tops = tiers.cumsum(axis=1)
    total = tiers.sum(axis=1)
    return pd.concat(
        {
            tier: pd.DataFrame(
                {
                    "end": counts["end"],
                    "applications": tiers[tier],
                    "share": tiers[tier] / total,
                    "bottom": tops[tier] - tiers[tier],
                    "top": tops[tier],
                    "share_bottom": (tops[tier] - tiers[tier]) / total,
                    "share_top": tops[tier] / total,
                }
            )
            for tier in WORST_FIRST
        },
        names=["tier"],
    ).reset_index()


def bars(title: str, axis_format: str, colour: str, *, interval: bool) -> dict[str, Any]:
    """Horizontal bars; rows have `label`, `value`, `text`, `applications`, and with an interval
    `low` and `high`."""
    return _bars(title, axis_format, colour, interval, chart_text())


def state_map(title: str, axis_format: str) -> dict[str, Any]:
    """Tiles of the states; rows have `state`, `column`, `row`, `value`, `text`, `ink` (the colour
    of its letters) and `applications`."""
    return _state_map(title, axis_format, chart_text(), theme.kind())


def lines(title: str, axis_format: str, names: tuple[str, ...]) -> dict[str, Any]:
    """A line for each name over time; rows have `minute`, `series` and `value`."""
    return _lines(title, axis_format, names, chart_text())


_TOOLTIPS = [
    alt.Tooltip("start:T", title="From", format=TIME_FORMAT),
    alt.Tooltip("end:T", title="To", format=TIME_FORMAT),
    alt.Tooltip("tier:N", title="Tier"),
    alt.Tooltip("applications:Q", title="Applications", format=","),
    alt.Tooltip("share:Q", title="Share", format=".1%"),
]
LINE_COLOURS = ("#2F7DBD", "#C28400")


def _time_axis(axis_format: str) -> alt.X:
    return alt.X("start:T", title="Time of scoring", axis=alt.Axis(format=axis_format, tickCount=6))


def _tier_colour() -> alt.Color:
    legend = alt.Legend(orient="top", title=None, padding=0)
    return alt.Color("tier:N", scale=TIER_SCALE, legend=legend)


@lru_cache
def _volume(bucket: str, axis_format: str, text_colour: str) -> dict[str, Any]:
    chart = (
        alt.Chart(alt.NamedData(DATASET))
        .mark_rect()  # with its own edges, as a bar has no width in time
        .encode(
            x=_time_axis(axis_format),
            x2="end:T",
            y=alt.Y(
                "bottom:Q",
                title=f"Applications per {bucket}",
                axis=alt.Axis(format=",d", tickMinStep=1),
            ),
            y2="top:Q",
            color=_tier_colour(),
            tooltip=_TOOLTIPS,
        )
    )
    return coloured(chart, text_colour).to_dict()


@lru_cache
def _mix(axis_format: str, text_colour: str) -> dict[str, Any]:
    chart = (
        alt.Chart(alt.NamedData(DATASET))
        .mark_rect()
        .encode(
            x=_time_axis(axis_format),
            x2="end:T",
            y=alt.Y(
                "share_bottom:Q",
                title="Share of applications",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            y2="share_top:Q",
            color=_tier_colour(),
            tooltip=_TOOLTIPS,
        )
    )
    return coloured(chart, text_colour).to_dict()


@lru_cache
def _bars(
    title: str, axis_format: str, colour: str, interval: bool, text_colour: str
) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData(DATASET)).encode(
        y=alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=150)),
        tooltip=[
            alt.Tooltip("label:N", title="Segment"),
            alt.Tooltip("text:N", title=title),
            alt.Tooltip("applications:Q", title="Applications", format=","),
        ],
    )
    x = alt.X("value:Q", title=title, axis=alt.Axis(format=axis_format, tickCount=5))
    layers = [base.mark_bar(color=colour, height={"band": 0.72}).encode(x=x)]
    if interval:
        layers.append(
            base.mark_rule(color=text_colour, strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
        )
    end = "high:Q" if interval else "value:Q"
    layers.append(base.mark_text(align="left", dx=6, fontSize=12).encode(x=end, text="text:N"))
    return coloured(alt.LayerChart(layer=layers), text_colour).to_dict()


@lru_cache
def _state_map(title: str, axis_format: str, text_colour: str, kind: str) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData(DATASET)).encode(
        x=alt.X("column:O", axis=None, scale=alt.Scale(paddingInner=0.06)),
        y=alt.Y("row:O", axis=None, scale=alt.Scale(paddingInner=0.06)),
        tooltip=[
            alt.Tooltip("state:N", title="State"),
            alt.Tooltip("text:N", title=title),
            alt.Tooltip("applications:Q", title="Applications", format=","),
        ],
    )
    tiles = base.mark_rect(cornerRadius=3).encode(
        color=alt.Color(
            "value:Q",
            scale=alt.Scale(range=theme.TILE_COLOURS[kind], domainMin=0),
            legend=alt.Legend(
                orient="bottom", title=title, format=axis_format, gradientLength=180, tickCount=4
            ),
        )
    )
    letters = base.mark_text(fontSize=11, fontWeight=600).encode(
        text="state:N", color=alt.Color("ink:N", scale=None)
    )
    chart = (tiles + letters).resolve_scale(color="independent")
    return coloured(chart, text_colour).to_dict()


@lru_cache
def _lines(
    title: str, axis_format: str, names: tuple[str, ...], text_colour: str
) -> dict[str, Any]:
    colours = alt.Scale(domain=names, range=LINE_COLOURS[: len(names)])
    chart = (
        alt.Chart(alt.NamedData(DATASET))
        .mark_line(interpolate="monotone", point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("minute:T", title="Minute", axis=alt.Axis(format="%H:%M", tickCount=6)),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(format=axis_format)),
            color=alt.Color(
                "series:N",
                scale=colours,
                legend=alt.Legend(orient="top", title=None, padding=0),
            ),
            tooltip=[
                alt.Tooltip("minute:T", title="Minute", format=TIME_FORMAT),
                alt.Tooltip("series:N", title="Series"),
                alt.Tooltip("value:Q", title=title, format=axis_format),
            ],
        )
    )
    return coloured(chart, text_colour).to_dict()
