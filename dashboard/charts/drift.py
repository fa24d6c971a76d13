"""The charts of drift: how far a population is from the baseline."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from credit_risk_dagster.domain.drift.baseline import Floats
from credit_risk_dagster.domain.drift.comparison import VERDICTS
from dashboard.charts.theme import NEUTRAL, SERIES_COLOURS, TIER_COLOURS
from dashboard.charts.vocabulary import (
    TIME_FORMAT,
    bars,
    chart,
    fixed,
    guide,
    legend,
    percent,
    rows,
    series,
    time,
    tips,
)

VERDICT_WORDS = {
    "too_few_rows": "Too few rows",
    "stable": "Stable",
    "moderate": "Moderate",
    "significant": "Significant",
}
MOST_LINES = len(SERIES_COLOURS)
Shares = Sequence[float] | Floats
_WORST_FIRST = [VERDICT_WORDS[verdict] for verdict in reversed(VERDICTS)]
# The tiers' colours for the same escalation, and what is stable recedes.
_VERDICT_COLOURS = {
    theme: [TIER_COLOURS["Watchlist"], TIER_COLOURS["Elevated"], stable, unknown]
    for theme, (stable, unknown) in {
        "light": ("#CFE0EF", "#B8C2CD"),
        "dark": ("#24405C", "#55616E"),
    }.items()
}
_BASELINE, _WINDOW = "Baseline", "Window"
_TIPS = (
    ("psi:Q", "PSI", ".3f"),
    ("limit:Q", "PSI by chance, at most", ".3f"),
    ("verdict:N", "Verdict"),
)
_TIPS_OVER_TIME = (
    ("feature:N", "Feature"),
    ("time:T", "End of the window", TIME_FORMAT),
    *_TIPS,
    ("rows:Q", "Decisions", ","),
)


def _verdict_colour(theme: str) -> alt.Color:
    scale = alt.Scale(domain=_WORST_FIRST, range=_VERDICT_COLOURS[theme])
    return alt.Color("verdict:N", scale=scale, legend=legend())


@chart
def verdicts(features: tuple[str, ...], theme: str) -> alt.Chart:
    """The verdict of each feature in each report; rows have `feature`, `time`, `psi`, `limit`,
    `verdict` and `rows`."""
    axis = alt.Axis(
        labelExpr=f"timeFormat(datum.value, '{TIME_FORMAT}')",
        labelAngle=0,
        labelOverlap="greedy",
        labelSeparation=12,
    )
    return (
        rows()
        .mark_rect()
        .encode(
            x=alt.X("time:O", title="End of the window", axis=axis),
            y=alt.Y("feature:N", title=None, sort=list(features), axis=alt.Axis(labelLimit=150)),
            color=_verdict_colour(theme),
            tooltip=tips(*_TIPS_OVER_TIME),
        )
    )


@chart
def courses(features: tuple[str, ...], moderate: float, significant: float) -> alt.LayerChart:
    """PSI over time, and from which on drift has a name; rows as of `verdicts`."""
    base = rows().encode(
        x=alt.X("time:T", title="End of the window", axis=time()),
        y=alt.Y("psi:Q", title="PSI", scale=alt.Scale(domainMin=0)),
        tooltip=tips(*_TIPS_OVER_TIME),
        **series("feature:N", features),
    )
    # Too few rows say nothing: a hollow point, at which the line has a gap.
    said = f"datum.verdict !== '{VERDICT_WORDS['too_few_rows']}'"
    lines = (
        base.transform_calculate(known=f"{said} ? datum.psi : null")
        .mark_line(point=alt.OverlayMarkDef(size=22), strokeWidth=2)
        .encode(y=alt.Y("known:Q", title="PSI"))
    )
    # Not read out: without such a point, it would be a picture that nothing describes.
    hollow = base.transform_filter(f"!({said})").mark_point(size=40, strokeWidth=1.5, aria=False)
    limits = _limits(moderate, significant)
    labels = limits.mark_text(align="left", baseline="bottom", dx=4, dy=-2, fontSize=11).encode(
        x=alt.value(0), y="psi:Q", text="label:N"
    )
    return lines + hollow + guide(limits, y="psi:Q") + labels


@chart
def features(moderate: float, significant: float, theme: str) -> alt.LayerChart:
    """PSI of every feature of a report; rows have `label`, `psi`, `text`, `limit` and
    `verdict`."""
    title = [
        "PSI; a tick is the most that chance explains",
        f"Dotted: moderate from {moderate:g}, significant above {significant:g}",
    ]
    x = alt.X("psi:Q", title=title, axis=alt.Axis(tickCount=6))
    tooltip = tips(("label:N", "Feature"), *_TIPS)
    chance = rows().mark_tick(thickness=2, color=NEUTRAL)
    return (
        bars(x, tooltip, _verdict_colour(theme), interval=False)
        + chance.encode(x="limit:Q", y=alt.Y("label:N", sort=None))
        + guide(_limits(moderate, significant), x="psi:Q")
    )


def _limits(moderate: float, significant: float) -> alt.Chart:
    return fixed(
        {"psi": moderate, "label": f"moderate from {moderate:g}"},
        {"psi": significant, "label": f"significant above {significant:g}"},
    )


@chart
def distribution() -> alt.Chart:
    """Shares of a feature's bins; rows as `bins` makes them."""
    names = [_BASELINE, _WINDOW]
    colours = alt.Scale(domain=names, range=[NEUTRAL, TIER_COLOURS["Low"]])
    return (
        rows()
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="Share of decisions", axis=percent()),
            y=alt.Y("bin:N", title=None, sort=None, axis=alt.Axis(labelLimit=160)),
            yOffset=alt.YOffset("of:N", sort=names),
            color=alt.Color("of:N", scale=colours, legend=legend()),
            tooltip=tips(("bin:N", "Bin"), ("of:N", "Of"), ("share:Q", "Share", ".2%")),
        )
    )


def bins(labels: Sequence[str], baseline: Shares, window: Shares) -> pd.DataFrame:
    """Two rows for each bin: its share in the baseline and in the window."""
    return pd.concat(
        [
            pd.DataFrame({"bin": labels, "of": of, "share": shares})
            for of, shares in ((_BASELINE, baseline), (_WINDOW, window))
        ]
    )
