"""The charts of reviews: how often a rule was right, what waits, what came in and went out."""

import altair as alt

from credit_risk_dagster.domain.cases import AGE_WORDS
from dashboard.charts.theme import NEUTRAL, SERIES_COLOURS, TIER_COLOURS
from dashboard.charts.vocabulary import bars, chart, legend, percent, rows, series, tips

WORK = ("Opened", "Opened again", "Closed")
WAITING = ("Overdue", "Not due yet")


@chart
def precision() -> alt.LayerChart:
    """Of closed cases those that were right; rows have `label`, `text`, `share`, `low`, `high`,
    `right`, `wrong` and `undecided`."""
    tooltip = tips(
        ("label:N", "Rule"),
        ("share:Q", "Right", ".1%"),
        ("low:Q", "At least", ".1%"),
        ("high:Q", "At most", ".1%"),
        ("right:Q", "Confirmed or overridden up", ","),
        ("wrong:Q", "False positive or overridden down", ","),
        ("undecided:Q", "Escalated", ","),
    )
    x = alt.X(
        "share:Q",
        title="Right, of those that were right or wrong",
        axis=percent(),
        scale=alt.Scale(domain=[0, 1]),
    )
    return bars(x, tooltip, alt.value(SERIES_COLOURS[0]), interval=True)


@chart
def bad_rates() -> alt.LayerChart:
    """Bad rates of closed cases; rows have `label`, `text`, `share`, `low`, `high`, `loans` and
    `bads`."""
    tooltip = tips(
        ("label:N", "Cases"),
        ("share:Q", "Went bad", ".2%"),
        ("low:Q", "At least", ".2%"),
        ("high:Q", "At most", ".2%"),
        ("loans:Q", "Loans with a known outcome", ","),
        ("bads:Q", "Went bad", ","),
    )
    x = alt.X("share:Q", title="Bad rate", axis=percent())
    return bars(x, tooltip, alt.value(SERIES_COLOURS[2]), interval=True)


@chart
def ages() -> alt.Chart:
    """Cases that are not closed; rows have `age`, `what` (of `WAITING`) and `cases`."""
    return (
        rows()
        .mark_bar()
        .encode(
            x=alt.X(
                "age:N", title="Since it was opened", sort=AGE_WORDS, axis=alt.Axis(labelAngle=0)
            ),
            y=alt.Y("cases:Q", title="Cases", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color(
                "what:N",
                scale=alt.Scale(domain=WAITING, range=[TIER_COLOURS["Watchlist"], NEUTRAL]),
                legend=legend(),
            ),
            tooltip=tips(("age:N", "Age"), ("what:N", "Due"), ("cases:Q", "Cases", ",")),
        )
    )


@chart
def work() -> alt.Chart:
    """What came in and went out by day; rows have `day`, `what` (of `WORK`) and `cases`."""
    return (
        rows()
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=25))
        .encode(
            x=alt.X(
                "day:O", title="Day", sort=None, axis=alt.Axis(labelAngle=0, labelOverlap=True)
            ),
            y=alt.Y("cases:Q", title="Cases", axis=alt.Axis(tickMinStep=1)),
            **series("what:N", WORK),
            tooltip=tips(("day:O", "Day"), ("what:N", "What"), ("cases:Q", "Cases", ",")),
        )
    )
