"""Model: would a statistical model find more of the bad loans than the policy's rules do?"""

from datetime import timedelta
from functools import lru_cache, partial
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.policy import TIERS
from credit_risk_dagster.settings import ModelSettings
from dashboard.charts.theme import chart_text, coloured
from dashboard.charts.vocabulary import DATASET, TIER_SCALE, TIME_FORMAT, show
from dashboard.data import model as queries
from dashboard.parts import formats, orchestration
from dashboard.parts.live import live, viewer_zone

REFRESH_EVERY = timedelta(seconds=30)
RULES, BASELINE = "rules", "logistic"
SUBJECTS = {
    "rules": "Rules",
    "logistic": "Logistic regression",
    "gradient_boosting": "Gradient boosting",
    "scorecard": "Scorecard",
}
# At least 3:1 against both backgrounds; lines also differ in their dashes.
_COLOURS = ("#C6303E", "#2F7DBD", "#2E8B70", "#8E6BBF")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
_GROUPS = {
    "both": "Both",
    "rules only": "The rules alone",
    "model only": "The model alone",
    "neither": "Neither",
}
_CURVE = "subject:N"


def page() -> None:
    """Draw the page."""
    st.title("Model", anchor=False)
    _body()


@partial(live, every=REFRESH_EVERY)
def _body() -> None:
    zone = viewer_zone()
    history = queries.model_history(zone)
    if history.benchmarks.empty:
        st.info(
            "**No benchmark yet.** The job `benchmark_models` trains the models on loans whose "
            "outcome is known, and compares them with the rules: launch it in Dagster, or run "
            f"`credit-risk model train`. Its schedule is `{ModelSettings().cron}` (UTC). The "
            "sample `builtin` needs no scored applications.",
            icon=":material/hourglass_empty:",
        )
        return
    ids = history.benchmarks["benchmark_id"].unique().tolist()
    titles = {
        row["benchmark_id"]: f"{row['created_at']:{TIME_FORMAT}}, {formats.count(row['rows'])} "
        f"loans ({row['sample']}), {row['outcome'].partition('@')[0]}"
        for _, row in history.benchmarks[history.benchmarks["subject"] == RULES].iterrows()
    }
    chosen = st.selectbox("Benchmark", ids, format_func=titles.__getitem__, key="benchmark")
    benchmark = queries.model_benchmark(int(chosen), zone)
    subjects = benchmark.subjects
    first = subjects.iloc[0]
    caption = (
        f"{formats.count(first['rows'])} loans of the sample {first['sample']}, "
        f"{formats.count(first['bads'])} bad by {first['outcome'].partition('@')[0]}; policy "
        f"{first['policy'].partition('@')[0]}. Benchmark of {first['created_at']:{TIME_FORMAT}}, "
        f"as of {history.as_of:{TIME_FORMAT}} ({zone})"
    )
    _verdict(first, caption)
    _key_figures(subjects)
    _curves(subjects, benchmark.curves, caption)
    with st.container(border=True):
        st.header("Rules against models", anchor=False)
        _subjects_table(subjects)
        st.caption(
            "In brackets 95 % intervals. Recall, precision and lift are at the share that the "
            f"rules flag: every model flags as many loans. {caption}"
        )
    left, right = st.columns(2)
    with left.container(border=True):
        st.header("Bad rate by tier of the rules", anchor=False)
        _tiers(first["tiers"])
        st.caption(f"With 95 % intervals. {caption}")
    with right.container(border=True):
        st.header("What raises the PD", anchor=False)
        _effects(subjects, history.models)
        st.caption(
            "Odds ratios of the logistic regression with 95 % intervals: of a number for one "
            f"standard deviation more, of a category against the mean of all. {caption}"
        )
    with st.container(border=True):
        st.header("Who is flagged by whom", anchor=False)
        _profile(subjects)
        st.caption(f"Medians of the features. {caption}")
    with st.container(border=True):
        st.header("History", anchor=False)
        _history(history)


def _verdict(first: pd.Series, caption: str) -> None:
    with st.container(border=True):
        st.header("Verdict", anchor=False)
        st.markdown(f"#### {formats.plain(first['verdict'])}.")
        st.caption(caption)
        st.link_button(
            "The run in Dagster",
            orchestration.run_url(first["run_id"]),
            icon=":material/open_in_new:",
        )


def _key_figures(subjects: pd.DataFrame) -> None:
    figure = partial(st.metric, delta_color="off", delta_arrow="off", border=True)
    rules = subjects.loc[RULES]
    with st.grid(4, min_column_width=170):
        for name, subject in subjects.iterrows():
            low, high = subject["auc_low"], subject["auc_high"]
            figure(
                f"AUC, {SUBJECTS[str(name)].lower()}",
                f"{subject['auc']:.3f}",
                f"{low:.3f} to {high:.3f}"
                if name == RULES
                else f"{subject['auc'] - rules['auc']:+.3f} against the rules",
            )


# --- curves -------------------------------------------------------------------------------------


def _curves(subjects: pd.DataFrame, curves: pd.DataFrame, caption: str) -> None:
    names = tuple(SUBJECTS[name] for name in subjects.index)
    rows = curves.assign(subject=curves["subject"].map(SUBJECTS))
    left, right = st.columns(2)
    for column, curve, title, x, y, alt_text in (
        (
            left,
            "roc",
            "ROC",
            "Good loans flagged (false positive rate)",
            "Bad loans flagged (true positive rate)",
            "Lines: ROC curve of the rules and each model",
        ),
        (
            right,
            "gains",
            "Gains",
            "Loans flagged, the riskiest first",
            "Bad loans among them (capture rate)",
            "Lines: share of bad loans captured by the share of loans flagged",
        ),
    ):
        with column.container(border=True):
            st.header(title, anchor=False)
            show(
                curve_chart(names, x, y, chart_text()),
                rows[rows["curve"] == curve],
                alt_text,
                height=340,
                diagonal=pd.DataFrame({"x": [0, 1], "y": [0, 1]}),
            )
            st.caption(caption)
    left, right = st.columns(2)
    with left.container(border=True):
        st.header("Calibration", anchor=False)
        points = _calibration(subjects)
        highest = float(points[["mean_pd", "high"]].max().max()) * 1.05
        show(
            calibration_chart(names[1:], chart_text()),
            points,
            "Points: bad rate against mean PD of the tenths of the loans, for each model",
            height=340,
            diagonal=pd.DataFrame({"x": [0, highest], "y": [0, highest]}),
        )
        st.caption(
            f"Tenths by PD, with 95 % intervals; on the line, PD and bad rate agree. {caption}"
        )
    with right.container(border=True):
        st.header("PD by outcome", anchor=False)
        scores = rows[
            (rows["subject"] == SUBJECTS[BASELINE]) & rows["curve"].str.startswith("scores")
        ]
        show(
            scores_chart(chart_text()),
            scores.assign(
                outcome=scores["curve"].map({"scores_good": "Good", "scores_bad": "Bad"})
            ),
            "Areas: density of the PD of good and of bad loans",
            height=340,
        )
        st.caption(f"Logistic regression; KS is how far the two are apart. {caption}")


def _subject_scales(names: tuple[str, ...]) -> dict[str, Any]:
    order = [*SUBJECTS.values()]
    at = [order.index(name) for name in names]
    legend = alt.Legend(
        orient="top", title=None, padding=0, columns=2, symbolType="stroke", symbolOpacity=1
    )
    return {
        "color": alt.Color(
            _CURVE,
            scale=alt.Scale(domain=list(names), range=[_COLOURS[i] for i in at]),
            legend=legend,
        ),
        "strokeDash": alt.StrokeDash(
            _CURVE, scale=alt.Scale(domain=list(names), range=[_DASHES[i] for i in at])
        ),
    }


def _diagonal(text_colour: str) -> alt.Chart:
    return (
        alt.Chart(alt.NamedData("diagonal"))
        .mark_line(strokeDash=[2, 3], color=text_colour, opacity=0.7, aria=False)
        .encode(x="x:Q", y="y:Q")
    )


@lru_cache
def curve_chart(names: tuple[str, ...], x: str, y: str, text_colour: str) -> dict[str, Any]:
    """A curve of each subject between 0 and 1, and the diagonal of chance."""
    unit = alt.Scale(domain=[0, 1])
    lines = (
        alt.Chart(alt.NamedData(DATASET))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("x:Q", title=x, axis=alt.Axis(format="%", tickCount=5), scale=unit),
            y=alt.Y("y:Q", title=y, axis=alt.Axis(format="%", tickCount=5), scale=unit),
            order="point:Q",
            **_subject_scales(names),
            tooltip=[
                alt.Tooltip("subject:N", title="By"),
                alt.Tooltip("x:Q", title=x, format=".1%"),
                alt.Tooltip("y:Q", title=y, format=".1%"),
            ],
        )
    )
    return coloured(_diagonal(text_colour) + lines, text_colour).to_dict()


def _calibration(subjects: pd.DataFrame) -> pd.DataFrame:
    """The tenths of each model's PD: mean_pd, bad_rate and its interval, loans."""
    return pd.concat(
        [
            pd.DataFrame(calibration["bins"]).assign(subject=SUBJECTS[str(name)])
            for name, calibration in subjects["calibration"].dropna().items()
        ]
    )


@lru_cache
def calibration_chart(names: tuple[str, ...], text_colour: str) -> dict[str, Any]:
    """Bad rate against mean PD."""
    base = alt.Chart(alt.NamedData(DATASET)).encode(
        x=alt.X("mean_pd:Q", title="Mean PD of a tenth", axis=alt.Axis(format="%", tickCount=5)),
        color=_subject_scales(names)["color"],
        tooltip=[
            alt.Tooltip("subject:N", title="Model"),
            alt.Tooltip("mean_pd:Q", title="Mean PD", format=".2%"),
            alt.Tooltip("bad_rate:Q", title="Bad rate", format=".2%"),
            alt.Tooltip("loans:Q", title="Loans", format=","),
        ],
    )
    points = base.mark_point(filled=True, size=45, opacity=1).encode(
        y=alt.Y("bad_rate:Q", title="Bad rate of it", axis=alt.Axis(format="%", tickCount=5)),
        shape=alt.Shape(_CURVE, scale=alt.Scale(domain=list(names)), legend=None),
    )
    intervals = base.mark_rule(opacity=0.45).encode(y="low:Q", y2="high:Q")
    return coloured(_diagonal(text_colour) + intervals + points, text_colour).to_dict()


@lru_cache
def scores_chart(text_colour: str) -> dict[str, Any]:
    """Density of the PD of good and of bad loans."""
    outcomes = ["Good", "Bad"]
    chart = (
        alt.Chart(alt.NamedData(DATASET))
        .mark_area(interpolate="step", opacity=0.35, line={"strokeWidth": 2})
        .encode(
            x=alt.X("x:Q", title="PD", axis=alt.Axis(format="%", tickCount=6)),
            y=alt.Y("y:Q", title="Density", stack=None, axis=alt.Axis(tickCount=5)),
            color=alt.Color(
                "outcome:N",
                scale=alt.Scale(domain=outcomes, range=[_COLOURS[1], _COLOURS[0]]),
                legend=alt.Legend(orient="top", title=None, padding=0),
            ),
            tooltip=[
                alt.Tooltip("outcome:N", title="Outcome"),
                alt.Tooltip("x:Q", title="PD", format=".2%"),
                alt.Tooltip("y:Q", title="Density", format=".2f"),
            ],
        )
    )
    return coloured(chart, text_colour).to_dict()


# --- tables -------------------------------------------------------------------------------------


def _subjects_table(subjects: pd.DataFrame) -> None:
    table = pd.DataFrame(
        {SUBJECTS[str(name)]: _figures(subject) for name, subject in subjects.iterrows()}
    )
    rules = next(
        (found["rules"] for found in subjects["comparison"].dropna()),
        None,
    )
    if rules is not None:
        for label, field in _AT_SHARE.items():
            table.loc[label, SUBJECTS[RULES]] = _AT_SHARE_FORMATS[field](rules[field])
    st.table(table)


_AT_SHARE = {"Recall": "recall", "Precision": "precision", "Lift": "lift"}
_AT_SHARE_FORMATS = {
    "recall": formats.percent,
    "precision": formats.percent,
    "lift": "{:.2f}".format,
}


def _figures(subject: pd.Series) -> dict[str, str]:
    """What was measured of a subject, as text."""
    calibration, comparison, later = (
        subject[name] if isinstance(subject[name], dict) else None
        for name in ("calibration", "comparison", "out_of_time")
    )
    unknown = formats.UNKNOWN
    figures = {
        "AUC": f"{subject['auc']:.3f} ({subject['auc_low']:.3f} to {subject['auc_high']:.3f})",
        "Gini": f"{subject['gini']:.3f}",
        "KS": f"{subject['ks']:.3f}",
        "Brier score": unknown if pd.isna(subject["brier"]) else f"{subject['brier']:.4f}",
        "Calibration slope": f"{calibration['slope']:.2f}" if calibration else unknown,
        "Calibration intercept": f"{calibration['intercept']:.2f}" if calibration else unknown,
        "AUC out of time": f"{later['auc']:.3f} (from {later['month']})" if later else unknown,
    }
    model = comparison["model"] if comparison else None
    for label, field in _AT_SHARE.items():
        figures[label] = _AT_SHARE_FORMATS[field](model[field]) if model else unknown
    figures["Recall against the rules"] = (
        formats.interval(
            *(comparison["difference"], comparison["low"], comparison["high"]), formats.points
        )
        if comparison
        else unknown
    )
    figures["Overlap with the rules (Jaccard)"] = (
        f"{comparison['jaccard']:.2f}" if comparison else unknown
    )
    figures["Agreement with the rules (kappa)"] = (
        f"{comparison['kappa']:.2f}" if comparison else unknown
    )
    return figures


def _tiers(tiers: list[dict[str, Any]]) -> None:
    rows = pd.DataFrame(tiers)
    rows["label"] = [
        f"{formats.percent(np.nan if tier['bad_rate'] is None else tier['bad_rate'])} of "
        f"{formats.count(tier['loans'])}"
        for tier in tiers
    ]
    show(
        tiers_chart(chart_text()),
        rows,
        "Points with intervals: bad rate of the loans in each tier of the rules",
        height=220,
    )


@lru_cache
def tiers_chart(text_colour: str) -> dict[str, Any]:
    """Bad rate of each tier, with its interval."""
    base = alt.Chart(alt.NamedData(DATASET)).encode(
        y=alt.Y("tier:N", title="Risk tier", sort=list(reversed(TIERS))),
        color=alt.Color("tier:N", scale=TIER_SCALE, legend=None),
        tooltip=[
            alt.Tooltip("tier:N", title="Tier"),
            alt.Tooltip("bad_rate:Q", title="Bad rate", format=".2%"),
            alt.Tooltip("low:Q", title="At least", format=".2%"),
            alt.Tooltip("high:Q", title="At most", format=".2%"),
            alt.Tooltip("loans:Q", title="Loans", format=","),
            alt.Tooltip("bads:Q", title="Bad", format=","),
        ],
    )
    intervals = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="Bad rate", axis=alt.Axis(format="%", tickCount=5)), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=110, opacity=1).encode(x="bad_rate:Q")
    labels = base.mark_text(dy=-14, fontSize=12).encode(
        x="bad_rate:Q", text="label:N", color=alt.value(text_colour)
    )
    return coloured(intervals + points + labels, text_colour).to_dict()


def _effects(subjects: pd.DataFrame, models: pd.DataFrame) -> None:
    """The odds ratios of the benchmark's logistic regression."""
    model_id = subjects["model_id"].get(BASELINE)
    found = models.loc[models["model_id"] == model_id, "metrics"]
    effects = found.iloc[0].get("effects") if len(found) else None
    if not effects:
        st.write("This model was stored without its odds ratios; the next benchmark has them.")
        return
    rows = pd.DataFrame(effects)
    rows["name"] = rows["name"].map(_effect_name)
    show(
        effects_chart(chart_text()),
        rows,
        "Points with intervals: odds ratio of each feature of the logistic regression",
        height=90 + 20 * len(rows),
    )


def _effect_name(name: str) -> str:
    """`missing: dti` as `DTI missing`, `purpose_car` as `Purpose: car`."""
    if name.startswith("missing: "):
        return f"{formats.feature(name.removeprefix('missing: '))} missing"
    for category in ("purpose", "term_months", "home_ownership", "grade"):
        if name.startswith(f"{category}_"):
            value = formats.words(name.removeprefix(f"{category}_")).lower()
            return f"{formats.feature(category)}: {value.removesuffix('.0')}"
    return formats.feature(name)


@lru_cache
def effects_chart(text_colour: str) -> dict[str, Any]:
    """Odds ratios with their intervals, on a logarithmic axis."""
    base = alt.Chart(alt.NamedData(DATASET)).encode(
        y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)),
        tooltip=[
            alt.Tooltip("name:N", title="Feature"),
            alt.Tooltip("odds_ratio:Q", title="Odds ratio", format=".2f"),
            alt.Tooltip("low:Q", title="At least", format=".2f"),
            alt.Tooltip("high:Q", title="At most", format=".2f"),
        ],
    )
    one = (
        alt.Chart(alt.NamedData(DATASET))
        .mark_rule(strokeDash=[2, 3], color=text_colour, aria=False)
        .encode(x=alt.datum(1))
    )
    intervals = base.mark_rule(strokeWidth=2, color=_COLOURS[1]).encode(
        x=alt.X(
            "low:Q",
            title="Odds ratio",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(format=".2~f", tickCount=5),
        ),
        x2="high:Q",
    )
    points = base.mark_point(filled=True, size=60, opacity=1, color=_COLOURS[1]).encode(
        x="odds_ratio:Q"
    )
    return coloured(one + intervals + points, text_colour).to_dict()


_PROFILE = ("flagged by", "loans", "bads", "bad_rate", "pd")


def _profile(subjects: pd.DataFrame) -> None:
    comparison = subjects["comparison"].get(BASELINE)
    if not isinstance(comparison, dict):
        st.write("The rules flag none or all of these loans: there is nobody to compare.")
        return
    rows = pd.DataFrame(comparison["profile"])
    features = [name for name in rows.columns if name not in _PROFILE]  # JSON has no order
    percent = partial(st.column_config.NumberColumn, format="percent")
    st.dataframe(
        rows.assign(**{"flagged by": rows["flagged by"].map(_GROUPS)}),
        hide_index=True,
        placeholder=formats.UNKNOWN,
        column_order=[*_PROFILE, *features],
        column_config={
            "flagged by": st.column_config.TextColumn("Flagged by", pinned=True),
            "loans": st.column_config.NumberColumn("Loans", format="localized"),
            "bads": st.column_config.NumberColumn("Bad", format="localized"),
            "bad_rate": percent("Bad rate"),
            "pd": percent("PD"),
            **{
                name: st.column_config.NumberColumn(formats.feature(name), format="localized")
                for name in features
            },
        },
    )


# --- history ------------------------------------------------------------------------------------


def _history(history: queries.ModelHistory) -> None:
    rows = history.benchmarks.assign(subject=history.benchmarks["subject"].map(SUBJECTS))
    names = tuple(name for name in SUBJECTS.values() if name in set(rows["subject"]))
    show(
        history_chart(names, chart_text()),
        rows,
        "Lines: AUC of the rules and each model over the benchmarks",
    )
    models = history.models
    metrics = models["metrics"].map(lambda found: found.get("auc", np.nan))
    state = np.where(
        models["activated_at"].isna(),
        np.where(models["can_score"], "Not activated", "Challenger"),
        np.where(models["retired_at"].isna(), "Active", "Retired"),
    )
    st.dataframe(
        models.assign(
            auc=metrics,
            state=state,
            kind=models["kind"].map(SUBJECTS),
            features=models["features"].map(lambda names: [formats.feature(n) for n in names]),
            run=models["run_id"].map(orchestration.run_url),
        ),
        hide_index=True,
        placeholder=formats.UNKNOWN,
        column_order=(
            *("model_id", "kind", "state", "auc", "created_at", "activated_at", "retired_at"),
            *("outcome", "sample", "rows", "bads", "features", "version", "run"),
        ),
        column_config={
            "model_id": st.column_config.NumberColumn("Model", pinned=True),
            "kind": "Kind",
            "state": "State",
            "auc": st.column_config.NumberColumn("AUC", format="%.3f", help="Out of fold"),
            "created_at": st.column_config.DatetimeColumn("Trained", format="D MMM HH:mm"),
            "activated_at": st.column_config.DatetimeColumn("Activated", format="D MMM HH:mm"),
            "retired_at": st.column_config.DatetimeColumn("Retired", format="D MMM HH:mm"),
            "outcome": "Outcome",
            "sample": "Sample",
            "rows": st.column_config.NumberColumn("Loans", format="localized"),
            "bads": st.column_config.NumberColumn("Bad", format="localized"),
            "features": st.column_config.ListColumn("Features"),
            "version": "Version",
            "run": st.column_config.LinkColumn("Run", display_text="Dagster"),
        },
    )
    st.caption(
        "`credit-risk model activate` or the job `activate_model` lets a logistic regression score "
        f"the stream, if its benchmark speaks for it. As of {history.as_of:{TIME_FORMAT}}"
    )


@lru_cache
def history_chart(names: tuple[str, ...], text_colour: str) -> dict[str, Any]:
    """AUC over the benchmarks, with intervals."""
    base = alt.Chart(alt.NamedData(DATASET)).encode(
        x=alt.X("created_at:T", title="Benchmark", axis=alt.Axis(format=TIME_FORMAT, tickCount=6)),
        color=_subject_scales(names)["color"],
        tooltip=[
            alt.Tooltip("subject:N", title="Of"),
            alt.Tooltip("created_at:T", title="At", format=TIME_FORMAT),
            alt.Tooltip("auc:Q", title="AUC", format=".3f"),
            alt.Tooltip("rows:Q", title="Loans", format=","),
            alt.Tooltip("outcome:N", title="Outcome"),
        ],
    )
    lines = base.mark_line(point=alt.OverlayMarkDef(size=30)).encode(
        y=alt.Y("auc:Q", title="AUC", scale=alt.Scale(zero=False)),
        strokeDash=_subject_scales(names)["strokeDash"],
    )
    intervals = base.mark_rule(opacity=0.35).encode(y="auc_low:Q", y2="auc_high:Q")
    return coloured(intervals + lines, text_colour).to_dict()
