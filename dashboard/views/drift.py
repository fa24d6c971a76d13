"""Drift: do the applicants still look like those of the baseline?"""

from datetime import datetime, timedelta
from functools import partial
from io import BytesIO

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.drift.baseline import bin_labels
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DriftSettings, LakeSettings
from dashboard.charts import drift as charts
from dashboard.charts.drift import VERDICT_WORDS
from dashboard.charts.vocabulary import TIME_FORMAT
from dashboard.data import drift as queries
from dashboard.parts import filters, formats, orchestration, tables
from dashboard.parts.chart import show, viewer_theme
from dashboard.parts.layout import figure, head, panel
from dashboard.parts.live import live, viewer_zone
from dashboard.parts.periods import PERIODS
from resources.lake import Lake

DEFAULT_PERIOD = "7 d"
LINES = 3
_WANTED = "html_wanted"
REFRESH_EVERY = timedelta(seconds=30)
_HTML_TAKES = timedelta(minutes=2)  # at most; mostly ten seconds
_PERIODS = [name for name in PERIODS if name in ("24 h", "7 d", "All")]

_BADGES = {"stable": "green", "moderate": "orange", "significant": "red", "too_few_rows": "gray"}


def page() -> None:
    """Draw the page."""
    with head("Drift"):
        period = filters.period(DEFAULT_PERIOD, _PERIODS)
    _body(period)
    with panel("Checks in Dagster"):
        _checks()


@partial(live, every=REFRESH_EVERY)
def _body(period: str) -> None:
    zone = viewer_zone()
    history = queries.drift_history(period, st.session_state.get("baseline"), zone)
    if history.baseline_id is None:
        st.info(
            "**No baseline yet.** A baseline is the population that drift is measured from: freeze "
            "one with `credit-risk baseline freeze`, or let the job `drift_report` do it once "
            f"{formats.count(DriftSettings().baseline_rows)} applications are scored. Then the "
            "reports appear here.",
            icon=":material/hourglass_empty:",
        )
        return
    if len(history.baselines) > 1:
        _baseline_choice(history)
    if history.reports.empty:
        st.info(
            f"**No drift report {PERIODS[period].words} against this baseline.** The job "
            "`drift_report` makes one on its schedule, or when you launch it in Dagster.",
            icon=":material/schedule:",
        )
        return
    features = queries.drift_features(int(history.reports["report_id"].iloc[-1]))
    as_of = f"as of {history.as_of:{TIME_FORMAT}} ({zone})"
    caption = f"{formats.counted(len(history.reports), 'report')} {PERIODS[period].words}, {as_of}"
    newest = history.reports.iloc[-1]
    _status(history, newest)
    _key_figures(newest, features)
    with panel("Drift of each feature", f"A cell is a report, the newest at the right. {caption}"):
        _heatmap(history)
    with panel("Population stability index over time", caption):
        _lines(history, features)
    _report(history, as_of)


def _baseline_choice(history: queries.DriftHistory) -> None:
    names = history.baselines.set_index("baseline_id")["name"]
    active = history.baselines.set_index("baseline_id")["active"]
    st.selectbox(
        "Baseline",
        history.baselines["baseline_id"].to_list(),
        format_func=lambda at: f"{names[at]}{' (active)' if active[at] else ''}",
        key="baseline",
    )


def _status(history: queries.DriftHistory, report: pd.Series) -> None:
    baseline = history.baselines.set_index("baseline_id").loc[report["baseline_id"]]
    words = VERDICT_WORDS[report["verdict"]]
    st.markdown(
        f":{_BADGES[report['verdict']]}-badge[{words}] The newest report compares "
        f"{_window(report)}, with the {formats.count(baseline['rows'])} of the baseline "
        f"“{formats.plain(baseline['name'])}”. "
        f"[Its run in Dagster]({orchestration.run_url(report['run_id'])})"
    )


def _window(report: pd.Series) -> str:
    start, end = report["window_start"], report["window_end"]
    return (
        f"{formats.counted(report['rows'], 'decision')}, made {start:{TIME_FORMAT}} to "
        f"{end:{TIME_FORMAT}}"
    )


def _key_figures(report: pd.Series, features: pd.DataFrame) -> None:
    day_rows = 0 if pd.isna(report["day_rows"]) else report["day_rows"]
    with st.grid(6, min_column_width=150):
        for verdict in ("significant", "moderate"):
            names = features.loc[features["verdict"] == verdict, "feature"].map(formats.feature)
            figure(
                f"{VERDICT_WORDS[verdict]} drift",
                f"{len(names)} of {len(features)}",
                ", ".join(names) or "no feature",
            )
        figure(
            "Tiers, PSI",
            formats.psi(report["tier_psi"]),
            VERDICT_WORDS[report["tier_verdict"]].lower(),
        )
        figure(
            "Watchlist share",
            _percent(report["watchlist_share"]),
            _within(
                report["watchlist_share"],
                report["watchlist_lower_limit"],
                report["watchlist_upper_limit"],
            ),
            help=f"Of {formats.counted(report['rows'], 'decision')}. Control limits: what "
            "the days before and chance explain, but for one week in 20",
        )
        figure(
            "Watchlist share, 24 h",
            _percent(report["day_share"]),
            _within(report["day_share"], report["day_lower_limit"], report["day_upper_limit"]),
            help=f"Of {formats.counted(day_rows, 'decision')} of the 24 hours until "
            "the window's end. Days that differ hide less in it than in a short window",
        )
        figure(
            "Unreadable events",
            _percent(report["reject_share"]),
            _within(report["reject_share"], 0.0, report["reject_upper_limit"]),
            help="Of all events of the window: those that could not be scored. No decline is one.",
        )


def _within(share: float | None, lower: float | None, upper: float | None) -> str:
    if pd.isna([share, lower, upper]).any():
        return "no limits"
    where = "within" if lower <= share <= upper else "OUTSIDE"  # type: ignore[operator]
    return f"{where} {_percent(lower)} to {_percent(upper)}"


def _percent(share: float | None) -> str:
    return formats.percent(float("nan") if share is None else float(share))


# --- over time ----------------------------------------------------------------------------------


def _history_rows(history: queries.DriftHistory) -> pd.DataFrame:
    rows = history.features.merge(
        history.reports[["report_id", "window_end", "rows"]], on="report_id"
    )
    return pd.DataFrame(
        {
            "feature": rows["feature"].map(formats.feature),
            "time": rows["window_end"],
            "psi": rows["psi"].astype(float),
            "limit": rows["psi_limit"].astype(float),
            "rows": rows["rows"],
            "verdict": rows["verdict"].map(VERDICT_WORDS),
        }
    )


def _heatmap(history: queries.DriftHistory) -> None:
    rows = _history_rows(history)
    last = rows[rows["time"] == rows["time"].max()].sort_values("psi", ascending=False)
    show(
        charts.verdicts(tuple(last["feature"]), viewer_theme()),
        rows,
        "Heatmap: the drift verdict of each feature in each report",
        height=110 + 22 * rows["feature"].nunique(),
    )


def _lines(history: queries.DriftHistory, newest: pd.DataFrame) -> None:
    names = newest["feature"].to_list()
    chosen = st.pills(
        f"Features, at most {charts.MOST_LINES}",
        names,
        selection_mode="multi",
        default=names[:LINES],
        format_func=formats.feature,
        key="features",
    )[: charts.MOST_LINES]
    if not chosen:
        st.write("Choose a feature.")
        return
    shown = [formats.feature(name) for name in chosen]
    rows = _history_rows(history)
    settings = DriftSettings()
    show(
        charts.courses(tuple(shown), settings.psi_moderate, settings.psi_significant),
        rows[rows["feature"].isin(shown)],
        f"Lines: PSI of {', '.join(shown)} over time",
    )


# --- a report -----------------------------------------------------------------------------------


def _report(history: queries.DriftHistory, as_of: str) -> None:
    reports = history.reports.set_index("report_id")
    titles = {
        at: f"{end:{TIME_FORMAT}}, {VERDICT_WORDS[verdict].lower()}"
        for at, end, verdict in zip(
            reports.index, reports["window_end"], reports["verdict"], strict=True
        )
    }
    with panel("One report in detail"):
        left, right = st.columns(2)
        report_id = left.selectbox(
            "Report",
            reports.index.to_list()[::-1],
            format_func=titles.__getitem__,
            key="report",
        )
        features = queries.drift_features(int(report_id))
        name = right.selectbox(
            "Feature",
            features["feature"].to_list(),
            format_func=formats.feature,
            key="feature",
            bind="query-params",
        )
        report = reports.loc[report_id]
        _feature(features.set_index("feature").loc[name])
        st.caption(f"{_window(report)}, {as_of}")
        st.markdown("**All features of this report**")
        _features_table(features)
        _html(report, history.as_of)


def _feature(feature: pd.Series) -> None:
    labels = bin_labels(feature["kind"], feature["edges"], feature["categories"])
    left, right = st.columns([2, 1])
    with left:
        show(
            charts.distribution(),
            charts.bins(labels, feature["reference_shares"], feature["shares"]),
            f"Bars: distribution of {formats.feature(str(feature.name))} in the baseline and the "
            "window",
            height=90 + 30 * len(labels),
        )
    with right:
        st.table(_statistics(feature))


def _statistics(feature: pd.Series) -> pd.DataFrame:
    """What the tests say of a feature, as text."""

    def number(value: float | None) -> str:
        if value is None or pd.isna(value):
            return formats.UNKNOWN
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"

    rows = {
        "Verdict": VERDICT_WORDS[feature["verdict"]],
        "PSI": formats.psi(feature["psi"]),
        "PSI by chance, on average": formats.psi(feature["psi_floor"]),
        "PSI by chance, at most": formats.psi(feature["psi_limit"]),
    }
    if feature["kind"] == "number":
        rows |= {
            "Kolmogorov-Smirnov": f"{number(feature['ks'])} (p {number(feature['ks_p'])})",
            "Mean": f"{number(feature['reference_mean'])} → {number(feature['mean'])}",
            "Median": f"{number(feature['reference_median'])} → {number(feature['median'])}",
        }
    else:
        rows["Chi-square"] = f"{number(feature['chi2'])} (p {number(feature['chi2_p'])})"
    before, after = _percent(feature["reference_missing_share"]), _percent(feature["missing_share"])
    return pd.DataFrame({"Value": rows | {"Missing": f"{before} → {after}"}})


def _features_table(features: pd.DataFrame) -> None:
    psi = partial(st.column_config.NumberColumn, format="%.3f")
    tables.table(
        features.assign(
            feature=features["feature"].map(formats.with_unit),
            reference_missing_share=100 * features["reference_missing_share"].astype(float),
            missing_share=100 * features["missing_share"].astype(float),
            reference_mean=features["reference_mean"].astype(float).round(2),
            mean=features["mean"].astype(float).round(2),
            verdict=features["verdict"].map(VERDICT_WORDS),
            p=features["ks_p"].astype(float).combine_first(features["chi2_p"].astype(float)),
        ),
        {
            "feature": tables.name("Feature"),
            "verdict": "Verdict",
            "psi": psi("PSI"),
            "psi_limit": psi("PSI by chance", help="Exceeded by chance in one week in 20"),
            "ks": psi("KS", help="Kolmogorov-Smirnov distance, of numbers"),
            "p": st.column_config.NumberColumn(
                "p", format="%.2g", help="Of Kolmogorov-Smirnov, or of chi-square for categories"
            ),
            "reference_mean": tables.number("Mean before"),
            "mean": tables.number("Mean now"),
            "reference_missing_share": tables.percent("Missing before"),
            "missing_share": tables.percent("Missing now"),
        },
        "What was measured of each feature",
    )


def _html(report: pd.Series, as_of: datetime) -> None:
    """The HTML report: read from S3 when it is asked for, as it has megabytes."""
    key = report["html_key"]
    if not key:
        under_way = as_of - report["created_at"] < _HTML_TAKES
        st.caption(
            "The HTML of this report is being made, after its numbers; it is offered here when it "
            "is there."
            if under_way
            else "This report has no HTML: its run in Dagster says why."
        )
        return
    st.button(
        "Get the HTML report from S3",
        icon=":material/description:",
        key="html",
        on_click=_want_html,
        args=(key,),
    )
    if st.session_state.get(_WANTED) == key:
        try:
            content = lake_object(key)
        except PlatformError as error:
            st.warning(
                f"The dashboard cannot read `{key}`: it needs the S3 settings that the pipeline "
                f"has (`S3_BUCKET`, `AWS_…`). {formats.plain(' '.join(str(error).split()))}",
                icon=":material/cloud_off:",
            )
        else:
            st.download_button(
                f"Save the HTML report ({formats.size(len(content))})",
                content,
                file_name=key.rpartition("/")[2],
                mime="text/html",
                icon=":material/download:",
                on_click="ignore",
            )


def _want_html(key: str) -> None:
    st.session_state[_WANTED] = key


@st.cache_data(ttl="10min", max_entries=4, show_spinner="Reading the report")
def lake_object(key: str) -> bytes:
    """An object of the lake.

    Raises:
        ObjectMissing, LakeUnavailable, LakeRefused; SettingInvalid for settings that are wrong.
    """
    file = BytesIO()
    Lake(LakeSettings().impatient()).get(key, file)
    return file.getvalue()


# --- checks -------------------------------------------------------------------------------------


@partial(live, every=REFRESH_EVERY)
def _checks() -> None:
    zone = viewer_zone()
    try:
        checks = orchestration.checks(zone)
    except orchestration.DagsterUnavailable as error:
        st.caption(str(error))
        return
    failed = checks["state"].isin(["Failed", "Could not run", "Warning"]).sum()
    st.markdown(
        f"{formats.count(failed)} of {formats.counted(len(checks), 'check')} to look at."
        if failed
        else f"None of {formats.counted(len(checks), 'check')} to look at."
    )
    tables.table(
        checks.assign(
            state=checks["state"].map(lambda state: f"{_CHECK_ICONS.get(state, '')} {state}"),
            to_do=checks["to_do"].str.replace("`", ""),  # of Markdown, which a cell is not
            run=checks["run_id"].map(orchestration.run_url, na_action="ignore"),
            asset=checks["asset"].map(orchestration.asset_url),
        ),
        {
            "check": tables.name("Check"),
            "state": "State",
            "at": tables.minute("Last run", width=110),
            "asset": st.column_config.LinkColumn("Asset", display_text=r"/assets/(.+)$"),
            "run": tables.run(width=90),
            "found": tables.text("What it found", width="medium"),
            "to_do": tables.text("What to do", width="large"),
        },
        "How each asset check ended",
    )
    now = f"{pd.Timestamp.now(zone):{TIME_FORMAT}}"
    st.caption(f"Of each asset's newest materialization, as of {now} ({zone})")


_CHECK_ICONS = {"Failed": "✕", "Could not run": "✕", "Warning": "!", "Passed": "✓"}
