"""The charts of the portfolio: vintages, what a model is expected to do and did, PD by tier."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from dashboard.charts.theme import NEUTRAL, SERIES_COLOURS
from dashboard.charts.vocabulary import (
    TIME_FORMAT,
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

MOST_VINTAGES = len(SERIES_COLOURS)
_NONE_YET: dict[str, Any] = {"months": 0, "bad_rate": {"value": 0, "low": None, "high": None}}
_ESTIMATED, _REALISED = "Expected of the PD", "Came true"


def vintage_rows(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of the newest vintages of a report."""
    return pd.DataFrame(
        [
            {
                "month": vintage["month"],
                "age": age["months"],
                "watched": age["watched"],
                "bad_rate": age["bad_rate"]["value"],
                "low": age["bad_rate"]["low"],
                "high": age["bad_rate"]["high"],
            }
            for vintage in found[-MOST_VINTAGES:]
            for age in (_NONE_YET | {"watched": vintage["loans"]}, *vintage["curve"])
        ]
    )


@chart
def vintages(months: tuple[str, ...]) -> alt.LayerChart:
    """Share that was bad by each age; rows have `month`, `age`, `bad_rate`, `low`, `high` and
    `watched`."""
    base = rows().encode(
        x=alt.X("age:Q", title="Months on book", axis=alt.Axis(tickMinStep=1)),
        **series("month:N", months),
        tooltip=tips(
            ("month:N", "Month of issue"),
            ("age:Q", "Months on book"),
            ("bad_rate:Q", "Bad by then", ".2%"),
            ("low:Q", "At least", ".2%"),
            ("high:Q", "At most", ".2%"),
            ("watched:Q", "Loans watched so long", ","),
        ),
    )
    lines = base.mark_line(interpolate="step-after", point=alt.OverlayMarkDef(size=40)).encode(
        y=alt.Y("bad_rate:Q", title="Bad by then", axis=percent(format=".1%"))
    )
    return base.mark_rule(opacity=0.4).encode(y="low:Q", y2="high:Q") + lines


@chart
def performance(title: str, share: bool) -> alt.LayerChart:
    """What was expected, in its interval, and what came; rows have `until`, `value`, `low`, `high`,
    `realised`, `applications` and `loans`."""
    axis = percent(format=".1%") if share else alt.Axis(tickCount=5)
    form = ".2%" if share else ".3f"
    names = alt.Scale(domain=[_ESTIMATED, _REALISED], range=[SERIES_COLOURS[0], SERIES_COLOURS[2]])
    base = rows().encode(
        x=alt.X("until:T", title="End of the window", axis=time()),
        tooltip=tips(
            ("until:T", "Until", TIME_FORMAT),
            ("value:Q", _ESTIMATED, form),
            ("low:Q", "At least", form),
            ("high:Q", "At most", form),
            ("realised:Q", _REALISED, form),
            ("applications:Q", "Applications", ","),
            ("loans:Q", "With a known outcome", ","),
        ),
    )
    scale = alt.Scale(zero=False)
    y = alt.Y("low:Q", title=title, axis=axis, scale=scale)
    band = base.mark_rule(strokeWidth=6, opacity=0.25, color=NEUTRAL).encode(y=y, y2="high:Q")
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=25)).encode(
        y="value:Q", color=alt.Color("name:N", scale=names, legend=legend())
    )
    came = base.transform_calculate(name=f"'{_REALISED}'").mark_point(
        filled=True, size=70, shape="diamond", opacity=1, aria=False
    )
    return (
        band
        + line.transform_calculate(name=f"'{_ESTIMATED}'")
        + came.encode(y="realised:Q", color=alt.Color("name:N", scale=names))
    )


@chart
def tiers(field: str = "pd") -> alt.Chart:
    """Mean PD of each tier over time, or its `loss_rate`; rows have `until`, `tier`, the field and
    `n`."""
    title = {"pd": "Mean PD", "loss_rate": "Expected loss"}[field]
    return (
        rows()
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=25))
        .encode(
            x=alt.X("until:T", title="End of the window", axis=time()),
            y=alt.Y(
                f"{field}:Q", title=title, axis=percent(format=".1%"), scale=alt.Scale(zero=False)
            ),
            color=tier_colour(legend=legend(90)),
            tooltip=tips(
                ("tier:N", "Tier"),
                ("until:T", "Until", TIME_FORMAT),
                (f"{field}:Q", title, ".2%"),
                ("n:Q", "Applications", ","),
            ),
        )
    )


@chart
def losses() -> alt.LayerChart:
    """Expected loss by the amount; rows have `label`, `text`, `loss_rate`, `loss`, `amount`, `pd`
    and `applications`."""
    tooltip = tips(
        ("label:N", "Of"),
        ("loss_rate:Q", "Expected loss by amount", ".2%"),
        ("loss:Q", "Expected loss, USD", ",.0f"),
        ("amount:Q", "Requested, USD", ",.0f"),
        ("pd:Q", "Mean PD", ".2%"),
        ("applications:Q", "Applications", ","),
    )
    x = alt.X("loss_rate:Q", title="Expected loss by amount requested", axis=percent(format=".1%"))
    return bars(x, tooltip, alt.value(SERIES_COLOURS[0]), interval=False)
