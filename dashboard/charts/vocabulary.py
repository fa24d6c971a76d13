"""What the charts are made of: rows under a name, encodings that mean the same everywhere, and the
kinds of charts that more than one subject has.

A chart is a Vega-Lite specification without data and without a theme: to build and check one takes
Altair longer than all the rest of a page takes, so it is built once. Whoever shows it, a page or a
picture, adds the rows (under `DATASET`) and the colours of its theme.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any, ParamSpec, cast

import altair as alt

from credit_risk_dagster.domain.policy import TIERS
from dashboard.charts.theme import SERIES_COLOURS, SERIES_DASHES, TIER_COLOURS

DATASET = "rows"
TIME_FORMAT = "%-d %b %H:%M"
# The tier to act on comes first: in the cards, the legend and the tables, and at the charts' axis.
WORST_FIRST = tuple(reversed(TIERS))

Spec = dict[str, Any]
Chart = alt.Chart | alt.LayerChart
_Arguments = ParamSpec("_Arguments")


def chart(build: Callable[_Arguments, Chart]) -> Callable[_Arguments, Spec]:
    """Let a function that builds a chart give its specification, built once for its arguments."""

    @lru_cache
    @wraps(build)
    def built(*args: Any, **kwargs: Any) -> Spec:
        spec: Spec = build(*args, **kwargs).to_dict()
        return spec

    return cast(Callable[_Arguments, Spec], built)


def rows() -> alt.Chart:
    """A chart of the rows that will be handed over."""
    return alt.Chart(alt.NamedData(DATASET))


def fixed(*values: dict[str, Any]) -> alt.Chart:
    """A chart of values that are always the same."""
    return alt.Chart(alt.InlineData(list(values), name="fixed"))


def tips(*fields: tuple[str, ...]) -> list[alt.Tooltip]:
    """What is told of a mark below the pointer: fields, titles, formats of numbers and times."""
    return [
        alt.Tooltip(field, title=title, format=how[0] if how else alt.Undefined)
        for field, title, *how in fields
    ]


def legend(entry: int = 150, **more: Any) -> alt.Legend:
    """Above the chart, where it takes no width; in as many columns as fit, as on a phone one.

    Args:
        entry: pixels that an entry takes at most.
    """
    columns = alt.ExprRef(f"max(1, floor(width / {entry}))")
    choices: dict[str, Any] = {"columns": columns} | more
    return alt.Legend(orient="top", title=None, padding=0, **choices)


def percent(**more: Any) -> alt.Axis:
    """An axis of shares."""
    choices: dict[str, Any] = {"format": "%", "tickCount": 5} | more
    return alt.Axis(**choices)


def time(axis_format: str = TIME_FORMAT) -> alt.Axis:
    """An axis of times."""
    return alt.Axis(format=axis_format, tickCount=6)


def tier_colour(**more: Any) -> alt.Color:
    """The colour of the field `tier`."""
    colours = [TIER_COLOURS[tier] for tier in WORST_FIRST]
    return alt.Color("tier:N", scale=alt.Scale(domain=WORST_FIRST, range=colours), **more)


def series(
    field: str, names: Sequence[str], places: Mapping[str, int] | None = None, **more: Any
) -> dict[str, Any]:
    """The encodings of lines: each name has its colour, and its dashes for who sees none.

    Args:
        places: of a name among the colours, where it has the same one in every chart; without it
            they are given in the order of the names.
        more: choices for the legend.
    """
    at = [places[name] if places else place for place, name in enumerate(names)]
    return {
        "color": alt.Color(
            field,
            scale=alt.Scale(domain=list(names), range=[SERIES_COLOURS[i] for i in at]),
            legend=legend(symbolType="stroke", symbolOpacity=1, **more),
        ),
        "strokeDash": alt.StrokeDash(
            field, scale=alt.Scale(domain=list(names), range=[SERIES_DASHES[i] for i in at])
        ),
    }


def guide(base: alt.Chart, **encodings: Any) -> alt.Chart:
    """A dotted line to compare with; nothing that a screen reader has to tell."""
    return base.mark_rule(strokeDash=[2, 3], opacity=0.7, aria=False).encode(**encodings)


def bars(x: alt.X, tooltip: list[alt.Tooltip], color: Any, *, interval: bool) -> alt.LayerChart:
    """Horizontal bars, from the top as they come; rows have `label`, `text`, the field of `x`, and
    with an interval `low` and `high`."""
    y = alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=150))
    base = rows().encode(y=y, tooltip=tooltip)
    bar = base.mark_bar(height={"band": 0.72}).encode(x=x, color=color)
    if not interval:
        return bar + bar_text(base, x.shorthand)
    whisker = base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    return bar + whisker + bar_text(base, "high:Q")


def bar_text(base: alt.Chart, end: str) -> alt.Chart:
    """The field `text` to the right of where a bar ends."""
    return base.mark_text(align="left", dx=6, fontSize=12).encode(x=end, text="text:N")
