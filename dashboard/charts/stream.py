"""The charts of the stream: how much came, how risky it is, and where; and how fast."""

import altair as alt
import pandas as pd

from dashboard.charts.theme import NEUTRAL, TILE_COLOURS
from dashboard.charts.vocabulary import (
    TIME_FORMAT,
    WORST_FIRST,
    bars,
    chart,
    legend,
    percent,
    rows,
    series,
    tier_colour,
    time,
    tips,
)

_STRIPES = 6
_AXIS_FORMATS = ((pd.Timedelta("25h"), "%H:%M"), (pd.Timedelta("10D"), TIME_FORMAT))


def time_format(edges: pd.DatetimeIndex) -> str:
    """How a time axis over these buckets is labelled."""
    span = edges[-1] - edges[0]
    return next((known for up_to, known in _AXIS_FORMATS if span <= up_to), "%-d %b %Y")


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


@chart
def volume(bucket: str, axis_format: str) -> alt.Chart:
    """Decisions by tier and bucket, stacked; rows as `stacked` makes them."""
    axis = alt.Axis(format=",d", tickMinStep=1)
    return _stack(alt.Y("bottom:Q", title=f"Decisions per {bucket}", axis=axis), axis_format)


@chart
def mix(axis_format: str) -> alt.Chart:
    """Shares of the tiers by bucket, stacked to one; rows as `stacked` makes them."""
    scale = alt.Scale(domain=[0, 1])
    share = alt.Y("share_bottom:Q", title="Share of decisions", axis=percent(), scale=scale)
    return _stack(share, axis_format, top="share_top:Q")


def _stack(bottom: alt.Y, axis_format: str, top: str = "top:Q") -> alt.Chart:
    # Rectangles with their own edges, as a bar has no width in time.
    return (
        rows()
        .mark_rect()
        .encode(
            x=alt.X("start:T", title="Time of scoring", axis=time(axis_format)),
            x2="end:T",
            y=bottom,
            y2=top,
            color=tier_colour(legend=legend(90)),
            tooltip=tips(
                ("start:T", "From", TIME_FORMAT),
                ("end:T", "To", TIME_FORMAT),
                ("tier:N", "Tier"),
                ("applications:Q", "Decisions", ","),
                ("share:Q", "Share", ".1%"),
            ),
        )
    )


@chart
def segments(title: str, axis_format: str, colour: str, interval: bool) -> alt.LayerChart:
    """A bar for each segment; rows have `label`, `value`, `text`, `applications`, and with an
    interval `low` and `high`."""
    return bars(
        alt.X("value:Q", title=title, axis=alt.Axis(format=axis_format, tickCount=5)),
        tips(("label:N", "Segment"), ("text:N", title), ("applications:Q", "Applications", ",")),
        alt.value(colour),
        interval=interval,
    )


@chart
def state_map(title: str, axis_format: str, theme: str) -> alt.LayerChart:
    """Tiles of the states; rows have `state`, `column`, `row`, `value`, `text`, `ink` (the colour
    of its letters), `applications` and `few`: hatched, as so few say nothing."""
    base = rows().encode(
        x=alt.X("column:O", axis=None, scale=alt.Scale(paddingInner=0.06)),
        y=alt.Y("row:O", axis=None, scale=alt.Scale(paddingInner=0.06)),
        tooltip=tips(
            ("state:N", "State"), ("text:N", title), ("applications:Q", "Applications", ",")
        ),
    )
    # The letters are what is read aloud: of tiles, and of hatched ones, there may be none.
    tiles = base.mark_rect(cornerRadius=3, aria=False).encode(
        color=alt.Color(
            "value:Q",
            scale=alt.Scale(range=TILE_COLOURS[theme], domainMin=0),
            legend=alt.Legend(
                orient="bottom", title=title, format=axis_format, gradientLength=180, tickCount=4
            ),
        )
    )
    letters = base.mark_text(fontSize=11, fontWeight=600).encode(
        text="state:N", color=alt.Color("ink:N", scale=None)
    )
    stripes = [
        alt.GradientStop(offset=offset, color=colour)
        for at in range(_STRIPES)
        for offset, colour in (
            (at / _STRIPES, NEUTRAL),
            ((at + 0.25) / _STRIPES, NEUTRAL),
            ((at + 0.25) / _STRIPES, "#0000"),
            ((at + 1) / _STRIPES, "#0000"),
        )
    ]
    hatch = alt.Gradient(gradient="linear", stops=stripes, x1=0, y1=0, x2=1, y2=1)
    few = base.transform_filter("datum.few").mark_rect(
        cornerRadius=3, color=hatch, opacity=0.6, aria=False
    )
    return (tiles + few + letters).resolve_scale(color="independent")


@chart
def courses(title: str, axis_format: str, names: tuple[str, ...]) -> alt.Chart:
    """A line for each name over the last minutes; rows have `minute`, `series` and `value`."""
    return (
        rows()
        .mark_line(interpolate="monotone", point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("minute:T", title="Minute", axis=time("%H:%M")),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(format=axis_format)),
            **series("series:N", names),
            tooltip=tips(
                ("minute:T", "Minute", TIME_FORMAT),
                ("series:N", "Series"),
                ("value:Q", title, axis_format),
            ),
        )
    )
