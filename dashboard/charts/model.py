"""The charts of a benchmark: the rules and the models on the same loans."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from dashboard.charts.theme import SERIES_COLOURS
from dashboard.charts.vocabulary import (
    TIME_FORMAT,
    WORST_FIRST,
    chart,
    fixed,
    guide,
    legend,
    percent,
    rows,
    series,
    tier_colour,
    time,
    tips,
)
from dashboard.parts import formats

SUBJECTS = {
    "rules": "Rules",
    "logistic": "Logistic regression",
    "gradient_boosting": "Gradient boosting",
    "scorecard": "Scorecard",
    "price": "Interest rate alone",
    "without_price": "Logistic without price",
}
_OUTCOMES = {"scores_good": "Good", "scores_bad": "Bad"}
_GOOD, _BAD = SERIES_COLOURS[0], SERIES_COLOURS[2]
_PLACES = dict(zip(SUBJECTS.values(), (2, 0, 3, 4, 1, 5), strict=True))  # the rules in red
CURVES = {
    "roc": (
        "ROC",
        "Good loans flagged",
        "Bad loans flagged",
    ),
    "gains": (
        "Gains",
        "Loans flagged, the riskiest first",
        "Bad loans among them",
    ),
}
"""Of a curve its title, and those of its axes."""


def _of_subject(names: tuple[str, ...]) -> dict[str, Any]:
    return series("subject:N", names, _PLACES)


def curve_rows(curves: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one curve, of rows with `subject`, `curve`, `point`, `x` and `y`."""
    found = curves[curves["curve"] == name]
    return found.assign(subject=found["subject"].map(SUBJECTS))


@chart
def curve(name: str, subjects: tuple[str, ...]) -> alt.LayerChart:
    """One of `CURVES` for each subject, and the diagonal of chance; rows have `subject`, `point`,
    `x` and `y`."""
    _, x, y = CURVES[name]
    unit = alt.Scale(domain=[0, 1])
    lines = (
        rows()
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("x:Q", title=x, axis=percent(), scale=unit),
            y=alt.Y("y:Q", title=y, axis=percent(), scale=unit),
            order="point:Q",
            **_of_subject(subjects),
            tooltip=tips(("subject:N", "By"), ("x:Q", x, ".1%"), ("y:Q", y, ".1%")),
        )
    )
    return (
        guide(fixed({"low": 0, "high": 1}), x="low:Q", y="low:Q", x2="high:Q", y2="high:Q") + lines
    )


def tenths(calibrations: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of every model's calibration."""
    return pd.concat(
        [
            pd.DataFrame(found["bins"]).assign(subject=SUBJECTS[name])
            for name, found in calibrations.items()
        ]
    )


@chart
def calibration(subjects: tuple[str, ...]) -> alt.LayerChart:
    """Bad rate against mean PD, and the diagonal where they agree; rows have `subject`, `mean_pd`,
    `bad_rate`, its interval `low` and `high`, and `loans`."""
    base = rows().encode(
        x=alt.X("mean_pd:Q", title="Mean PD of a tenth", axis=percent()),
        color=_of_subject(subjects)["color"],
        tooltip=tips(
            ("subject:N", "Model"),
            ("mean_pd:Q", "Mean PD", ".2%"),
            ("bad_rate:Q", "Bad rate", ".2%"),
            ("loans:Q", "Loans", ","),
        ),
    )
    points = base.mark_point(filled=True, size=45, opacity=1).encode(
        y=alt.Y("bad_rate:Q", title="Bad rate of it", axis=percent()),
        shape=alt.Shape("subject:N", scale=alt.Scale(domain=list(subjects)), legend=None),
    )
    intervals = base.mark_rule(opacity=0.45).encode(y="low:Q", y2="high:Q")
    ends = (
        rows()
        .transform_aggregate(pd="max(mean_pd)", rate="max(high)")
        .transform_calculate(start="0", end="1.05 * max(datum.pd, datum.rate)")
    )
    diagonal = guide(ends, x="start:Q", y="start:Q", x2="end:Q", y2="end:Q")
    return diagonal + intervals + points


def densities(curves: pd.DataFrame, subject: str) -> pd.DataFrame:
    """The rows of a model's PD by outcome, of rows as of `curve_rows`."""
    found = curves[(curves["subject"] == subject) & curves["curve"].isin(_OUTCOMES)]
    return found.assign(outcome=found["curve"].map(_OUTCOMES))


@chart
def scores() -> alt.Chart:
    """Density of the PD of good and of bad loans; rows have `outcome`, `x` and `y`."""
    colours = alt.Scale(domain=list(_OUTCOMES.values()), range=[_GOOD, _BAD])
    return (
        rows()
        .mark_area(interpolate="step", opacity=0.35, line={"strokeWidth": 2})
        .encode(
            x=alt.X("x:Q", title="PD", axis=percent(tickCount=6)),
            y=alt.Y("y:Q", title="Density", stack=None, axis=alt.Axis(tickCount=5)),
            color=alt.Color("outcome:N", scale=colours, legend=legend()),
            tooltip=tips(("outcome:N", "Outcome"), ("x:Q", "PD", ".2%"), ("y:Q", "Density", ".2f")),
        )
    )


@chart
def tiers() -> alt.LayerChart:
    """Bad rate of each tier with its interval; rows have `tier`, `bad_rate`, `low`, `high`,
    `loans`, `bads` and `text`."""
    base = rows().encode(
        y=alt.Y("tier:N", title="Risk tier", sort=list(WORST_FIRST)),
        tooltip=tips(
            ("tier:N", "Tier"),
            ("bad_rate:Q", "Bad rate", ".2%"),
            ("low:Q", "At least", ".2%"),
            ("high:Q", "At most", ".2%"),
            ("loans:Q", "Loans", ","),
            ("bads:Q", "Bad", ","),
        ),
    )
    coloured = base.encode(color=tier_colour(legend=None))
    intervals = coloured.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="Bad rate", axis=percent()), x2="high:Q"
    )
    points = coloured.mark_point(filled=True, size=110, opacity=1).encode(x="bad_rate:Q")
    labels = base.mark_text(dy=-14, fontSize=12).encode(x="bad_rate:Q", text="text:N")
    return intervals + points + labels


def effect_rows(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of a model's odds ratios."""
    frame = pd.DataFrame(found)
    return frame.assign(name=frame["name"].map(_effect_name))


def _effect_name(name: str) -> str:
    """`missing: dti` as `DTI missing`, `purpose_car` as `Purpose: car`."""
    if name.startswith("missing: "):
        return f"{formats.feature(name.removeprefix('missing: '))} missing"
    for category in ("purpose", "term_months", "home_ownership", "grade"):
        if name.startswith(f"{category}_"):
            value = formats.words(name.removeprefix(f"{category}_")).lower()
            return f"{formats.feature(category)}: {value.removesuffix('.0')}"
    return formats.feature(name)


@chart
def effects() -> alt.LayerChart:
    """Odds ratios with their intervals on a logarithmic axis, and the one that says nothing; rows
    have `name`, `odds_ratio`, `low` and `high`."""
    base = rows().encode(
        y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)),
        tooltip=tips(
            ("name:N", "Feature"),
            ("odds_ratio:Q", "Odds ratio", ".2f"),
            ("low:Q", "At least", ".2f"),
            ("high:Q", "At most", ".2f"),
        ),
    )
    intervals = base.mark_rule(strokeWidth=2, color=_GOOD).encode(
        x=alt.X(
            "low:Q",
            title="Odds ratio",
            scale=alt.Scale(type="log", nice=False, padding=8),
            axis=alt.Axis(format=".2~f", tickCount=5),
        ),
        x2="high:Q",
    )
    points = base.mark_point(filled=True, size=60, opacity=1, color=_GOOD).encode(x="odds_ratio:Q")
    return guide(fixed({"one": 1}), x="one:Q") + intervals + points


@chart
def history(subjects: tuple[str, ...]) -> alt.LayerChart:
    """AUC over the benchmarks with its interval; rows have `subject`, `created_at`, `auc`,
    `auc_low`, `auc_high`, `rows` and `outcome`."""
    encodings = _of_subject(subjects)
    base = rows().encode(
        x=alt.X("created_at:T", title="Benchmark", axis=time()),
        color=encodings["color"],
        tooltip=tips(
            ("subject:N", "Of"),
            ("created_at:T", "At", TIME_FORMAT),
            ("auc:Q", "AUC", ".3f"),
            ("rows:Q", "Loans", ","),
            ("outcome:N", "Outcome"),
        ),
    )
    lines = base.mark_line(point=alt.OverlayMarkDef(size=30)).encode(
        y=alt.Y("auc:Q", title="AUC", scale=alt.Scale(zero=False)),
        strokeDash=encodings["strokeDash"],
    )
    return base.mark_rule(opacity=0.35).encode(y="auc_low:Q", y2="auc_high:Q") + lines
