"""Model: would a statistical model find more of the bad loans than the policy's rules do?"""

from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.model.gate import objections
from credit_risk_dagster.domain.model.outcome import probability_of
from credit_risk_dagster.domain.pd import ModelUnreadable, read_coefficients
from credit_risk_dagster.settings import ModelSettings
from dashboard.charts import model as charts
from dashboard.charts.model import SUBJECTS
from dashboard.charts.vocabulary import TIME_FORMAT
from dashboard.data import model as queries
from dashboard.parts import formats, orchestration, tables
from dashboard.parts.chart import show
from dashboard.parts.layout import figure, panel
from dashboard.parts.live import live, viewer_zone

REFRESH_EVERY = timedelta(seconds=30)
_OF_ACCEPTED = (
    "With 95 % intervals. Of accepted loans alone: the rules had no say in who was accepted, and a "
    "Watchlist below Low may be chance."
)
RULES, BASELINE = "rules", "logistic"
_GROUPS = {
    "both": "Both",
    "rules only": "The rules alone",
    "model only": "The model alone",
    "neither": "Neither",
}


def page() -> None:
    """Draw the page."""
    st.title("Model", anchor=False)
    _body()


@partial(live, every=REFRESH_EVERY)
def _body() -> None:
    zone = viewer_zone()
    history = queries.model_history(zone)
    if history.benchmarks.empty:
        _nothing_yet()
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
    name, horizon = probability_of(first["outcome"])
    left_out = first["left_out"] if isinstance(first["left_out"], dict) else {}
    without = f" ({formats.count(sum(left_out.values()))} without an outcome)" if left_out else ""
    outcome, policy = (first[field].partition("@")[0] for field in ("outcome", "policy"))
    caption = (
        f"{formats.count(first['rows'])} loans of the sample {formats.plain(first['sample'])}"
        f"{without}, {formats.count(first['bads'])} bad by {outcome}; PD is the {name}, {horizon}; "
        f"policy {policy}. Benchmark of {first['created_at']:{TIME_FORMAT}}, "
        f"as of {history.as_of:{TIME_FORMAT}} ({zone})"
    )
    _verdict(first, caption)
    _gate(subjects, history.models)
    _key_figures(subjects)
    _curves(subjects, benchmark.curves, caption)
    with panel(
        "Rules against models",
        "In brackets 95 % intervals. Recall, precision and lift are at the share that the "
        "rules flag: every model flags as many loans. The interest rate is the lender's own "
        f"judgement; the last column is the model without it. {caption}",
    ):
        _subjects_table(subjects)
    left, right = st.columns(2)
    with panel("Bad rate by tier of the rules", f"{_OF_ACCEPTED} {caption}", left):
        _tiers(first["tiers"])
    with panel(
        "What raises the PD",
        "Odds ratios of the logistic regression with 95 % intervals: of a number for one "
        "standard deviation more, of a category against the mean of the sample's loans. A number "
        "at 1 without an interval is one that would speak against what the field expects. "
        f"{caption}",
        right,
    ):
        _effects(subjects, history.models)
    with panel("Who is flagged by whom", f"Medians of the features. {caption}"):
        _profile(subjects)
    with panel("History"):
        _history(history)


def _nothing_yet() -> None:
    st.info(
        "**No benchmark yet.** The job `benchmark_models` trains the models on loans whose "
        "outcome is known, and compares them with the rules: launch it in Dagster, or run "
        f"`credit-risk model train`. Its schedule is `{ModelSettings().cron}` (UTC). The "
        "sample `builtin` needs no scored applications.",
        icon=":material/hourglass_empty:",
    )


def _verdict(first: pd.Series, caption: str) -> None:
    with panel("Verdict"):
        st.markdown(f"### {formats.plain(first['verdict'])}.")
        st.caption(caption)
        st.link_button(
            "The run in Dagster",
            orchestration.run_url(first["run_id"]),
            icon=":material/open_in_new:",
        )


def _gate(subjects: pd.DataFrame, models: pd.DataFrame) -> None:
    """What speaks against letting this benchmark's logistic regression score the stream."""
    with panel("May it score the stream?"):
        model_id = subjects["model_id"].get(BASELINE)
        found = models.loc[models["model_id"] == model_id, "coefficients"].dropna()
        try:
            coefficients = read_coefficients(found.iloc[0]) if len(found) else None
        except ModelUnreadable as error:
            st.write(f"No: {formats.plain(str(error))}.")
            return
        against = objections({str(k): v for k, v in subjects.loc[BASELINE].items()}, coefficients)
        if against:
            st.markdown(
                "**No.** The policy decides alone, and applications have no PD.\n"
                + "\n".join(f"- {formats.plain(reason)}" for reason in against)
            )
        else:
            st.markdown(
                f"**Yes**, nothing speaks against it: `credit-risk model activate {model_id}`"
            )
        st.caption(
            "Asked on the later loans, where the sample has months. All of these loans were "
            "accepted: who was declined is not among them, and no figure here knows of them."
        )


def _key_figures(subjects: pd.DataFrame) -> None:
    rules = subjects.loc[RULES]
    with st.grid(5, min_column_width=160):
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
    for column, name, alt_text in zip(
        st.columns(2),
        charts.CURVES,
        (
            "Lines: ROC curve of the rules and each model",
            "Lines: share of bad loans captured by the share of loans flagged",
        ),
        strict=True,
    ):
        with panel(charts.CURVES[name][0], caption, column):
            show(charts.curve(name, names), charts.curve_rows(curves, name), alt_text, height=340)
    left, right = st.columns(2)
    with panel(
        "Calibration",
        f"Tenths by PD, with 95 % intervals; on the line, PD and bad rate agree. {caption}",
        left,
    ):
        show(
            charts.calibration(tuple(SUBJECTS[n] for n in subjects["calibration"].dropna().index)),
            charts.tenths({str(n): c for n, c in subjects["calibration"].dropna().items()}),
            "Points: bad rate against mean PD of the tenths of the loans, for each model",
            height=340,
        )
    with panel(
        "PD by outcome",
        f"Logistic regression; KS is how far the two are apart. {caption}",
        right,
    ):
        show(
            charts.scores(),
            charts.densities(curves, BASELINE),
            "Areas: density of the PD of good and of bad loans",
            height=340,
        )


# --- tables -------------------------------------------------------------------------------------


def _subjects_table(subjects: pd.DataFrame) -> None:
    figures = pd.DataFrame(
        {SUBJECTS[str(name)]: _figures(subject) for name, subject in subjects.iterrows()}
    )
    rules = next((found["rules"] for found in subjects["comparison"].dropna()), None)
    if rules is not None:
        for label, field in _AT_SHARE.items():
            figures.loc[label, SUBJECTS[RULES]] = _AT_SHARE_FORMATS[field](rules[field])
    tables.table(
        figures.rename_axis("Figure").reset_index(),
        {"Figure": tables.name("Figure", width=270)}
        | {str(n): tables.text(str(n), width=170) for n in figures},
        "The figures of the rules and of each model, side by side",
        height="content",
    )


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
        "Expected bad for each that was, out of time": _expected(later),
        "AUC out of time": f"{later['auc']:.3f} (from {later['month']})" if later else unknown,
    }
    model = comparison["model"] if comparison else None
    for label, field in _AT_SHARE.items():
        figures[label] = _AT_SHARE_FORMATS[field](model[field]) if model else unknown
    figures["Recall against the rules, points"] = (
        formats.interval(
            *(comparison["difference"], comparison["low"], comparison["high"]), _points
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


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _expected(later: dict[str, Any] | None) -> str:
    found = later and later.get("calibration")
    if not found:
        return formats.UNKNOWN
    return f"{found['ratio']:.2f} ({found['ratio_low']:.2f} to {found['ratio_high']:.2f})"


def _tiers(tiers: list[dict[str, Any]]) -> None:
    rows = pd.DataFrame(tiers)
    rows["text"] = [
        f"{formats.percent(np.nan if tier['bad_rate'] is None else tier['bad_rate'])} of "
        f"{formats.count(tier['loans'])}"
        for tier in tiers
    ]
    show(
        charts.tiers(),
        rows,
        "Points with intervals: bad rate of the loans in each tier of the rules",
        height=220,
    )


def _effects(subjects: pd.DataFrame, models: pd.DataFrame) -> None:
    """The odds ratios of the benchmark's logistic regression."""
    model_id = subjects["model_id"].get(BASELINE)
    found = models.loc[models["model_id"] == model_id, "metrics"]
    effects = found.iloc[0].get("effects") if len(found) else None
    if not effects:
        st.write("This model was stored without its odds ratios; the next benchmark has them.")
        return
    rows = charts.effect_rows(effects)
    show(
        charts.effects(),
        rows,
        "Points with intervals: odds ratio of each feature of the logistic regression",
        height=90 + 20 * len(rows),
    )


_PROFILE = ("flagged by", "loans", "bads", "bad_rate", "pd")


def _profile(subjects: pd.DataFrame) -> None:
    comparison = subjects["comparison"].get(BASELINE)
    if not isinstance(comparison, dict):
        st.write("The rules flag none or all of these loans: there is nobody to compare.")
        return
    rows = pd.DataFrame(comparison["profile"])
    features = [name for name in rows.columns if name not in _PROFILE]  # JSON has no order
    rows[features] = rows[features].astype(float).round(1)
    rows[["bad_rate", "pd"]] *= 100.0
    tables.table(
        rows.assign(**{"flagged by": rows["flagged by"].map(_GROUPS)}),
        {
            "flagged by": tables.name("Flagged by"),
            "loans": tables.number("Loans"),
            "bads": tables.number("Bad"),
            "bad_rate": tables.percent("Bad rate"),
            "pd": tables.percent("PD"),
            **{name: tables.number(formats.with_unit(name)) for name in features},
        },
        "The loans that both flag, that one flags, and that neither does",
    )


# --- history ------------------------------------------------------------------------------------


def _history(history: queries.ModelHistory) -> None:
    rows = history.benchmarks.assign(subject=history.benchmarks["subject"].map(SUBJECTS))
    names = tuple(name for name in SUBJECTS.values() if name in set(rows["subject"]))
    show(
        charts.history(names),
        rows,
        "Lines: AUC of the rules and each model over the benchmarks",
    )
    _models_table(history.models)
    st.caption(
        "`credit-risk model activate` or the job `activate_model` lets a logistic regression or a "
        "scorecard score the stream that somebody else approved, if its benchmark speaks for it. "
        f"As of {history.as_of:{TIME_FORMAT}}"
    )


def _models_table(models: pd.DataFrame) -> None:
    state = np.where(
        models["activated_at"].isna(),
        np.where(models["can_score"], "Not activated", "Challenger"),
        np.where(models["retired_at"].isna(), "Active", "Retired"),
    )
    tables.table(
        models.assign(
            auc=models["metrics"].map(lambda found: found.get("auc", np.nan)),
            state=state,
            kind=models["kind"].map(SUBJECTS),
            features=models["features"].map(lambda names: [formats.feature(n) for n in names]),
            run=models["run_id"].map(orchestration.run_url),
        ),
        {
            "model_id": st.column_config.NumberColumn("Model", pinned=True),
            "kind": "Kind",
            "purpose": "Purpose",
            "state": "State",
            "auc": st.column_config.NumberColumn("AUC", format="%.3f", help="Out of fold"),
            "created_at": tables.minute("Trained"),
            "activated_at": tables.minute("Activated"),
            "retired_at": tables.minute("Retired"),
            "outcome": "Outcome",
            "sample": "Sample",
            "rows": tables.number("Loans"),
            "bads": tables.number("Bad"),
            "features": st.column_config.ListColumn("Features"),
            "version": "Version",
            "run": tables.run(),
        },
        "Every model, and whether it scores the stream",
    )
