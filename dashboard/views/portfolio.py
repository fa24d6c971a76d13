"""Portfolio: how loans went by age, what the applications may lose, whom the policy flags more
often, and whether the model does what it should."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.model.outcome import probability_of
from dashboard.charts import portfolio as charts
from dashboard.charts.drift import VERDICT_WORDS
from dashboard.charts.vocabulary import TIME_FORMAT
from dashboard.data import portfolio as queries
from dashboard.data.portfolio import Report
from dashboard.parts import formats, orchestration, tables
from dashboard.parts.chart import show
from dashboard.parts.layout import figure, panel
from dashboard.parts.live import live, viewer_zone

REFRESH_EVERY = timedelta(seconds=60)
_MEASURES = {"AUC": "auc", "Bad rate": "bad_rate", "Recall": "recall"}
_GROUPS = {"Tier": "tier", "Purpose": "purpose", "Grade": "grade", "Vintage": "vintage"}
_VERDICTS = {"fair": "Fair", "warning": "Warning", "alarm": "Alarm"}


def page() -> None:
    """Draw the page."""
    st.title("Portfolio", anchor=False)
    _body()


@partial(live, every=REFRESH_EVERY)
def _body() -> None:
    found = queries.portfolio(viewer_zone())
    if found.vintages is None and found.portfolio is None:
        st.info(
            "**No report yet.** Launch the jobs `benchmark_models` and `report_portfolio` in "
            "Dagster once applications are scored, or wait for their schedules of the night. "
            "Outcomes come by `credit-risk outcomes load` or `POST /outcomes`.",
            icon=":material/hourglass_empty:",
        )
        return
    if found.portfolio is not None:
        _portfolio(found.portfolio)
    if found.vintages is not None:
        _vintages(found.vintages)


def _portfolio(report: Report) -> None:
    document = report.document
    n = formats.count(document["applications"])
    caption = (
        f"The newest {n} applications, each loan once; {formats.count(document['known'])} with a "
        f"known outcome by {formats.plain(document['outcome'].partition('@')[0])}; policy "
        f"{formats.plain(document['policy'].partition('@')[0])}. "
        f"As of {report.created_at:{TIME_FORMAT}} ({report.created_at.tz})"
    )
    name, horizon = probability_of(document["outcome"])
    if document["model"]:
        state = "active" if document["active"] else "not active, so for information"
        of = formats.plain(document["model"])
        st.markdown(
            f"PD is the {name} by {of} ({state}); {horizon}. "
            f"[The run in Dagster]({orchestration.run_url(report.run_id)})"
        )
    else:
        st.markdown("There is no model that could score, so no PD, expected loss or performance.")
    if document["expected"]:
        _losses(document, caption)
    _stress(document, caption)
    if document["windows"]:
        _performance(document["windows"], caption)
        _tiers(document["windows"], caption)
    if document.get("stability"):
        _stability(document, caption)
    _fairness(document, caption)


# --- loss ---------------------------------------------------------------------------------------


def _losses(document: dict[str, Any], caption: str) -> None:
    groups = pd.DataFrame(document["expected"])
    whole = groups.iloc[0]
    with st.grid(4, min_column_width=170):
        figure("Amount requested", formats.dollars(whole["amount"]), f"n {whole['applications']:,}")
        figure("Mean PD", formats.percent(whole["pd"]), "unweighted")
        figure("Expected loss", formats.dollars(whole["loss"]), "PD × LGD × amount")
        figure("By amount", formats.percent(whole["loss_rate"]), "of what was requested")
    lgd = formats.plain(document["lgd"])
    said = f"{lgd}. EAD is the amount requested, and all of them are taken. {caption}"
    with panel("Expected loss", said):
        chosen = st.segmented_control(
            "By", list(_GROUPS), default="Tier", required=True, key="losses_by"
        )
        rows = groups[groups["of"] == _GROUPS[chosen or "Tier"]]
        rows = rows.nlargest(15, "applications").sort_values("loss_rate", ascending=False)
        rows = rows.assign(
            label=rows["value"].map(formats.words) if chosen == "Purpose" else rows["value"],
            text=[
                f"{formats.percent(rate)}, n {formats.count(n)}"
                for rate, n in zip(rows["loss_rate"], rows["applications"], strict=True)
            ],
        )
        show(
            charts.losses(),
            rows,
            "Bars: expected loss by amount requested",
            height=70 + 26 * len(rows),
        )


def _stress(document: dict[str, Any], caption: str) -> None:
    rows = pd.DataFrame(document["stress"])
    with panel(
        "Stress",
        "Every application changed, then decided anew by the policy and the model; income 10 % "
        "lower makes the same debts weigh a ninth more. "
        f"{formats.plain(document['lgd'])}. {caption}",
    ):
        tables.table(
            rows.assign(share=rows["flagged"] / rows["applications"]),
            {
                "scenario": tables.name("Scenario"),
                "flagged": tables.count("On the Watchlist"),
                "share": tables.share("Share"),
                "flagged_low": tables.share("at least"),
                "flagged_high": tables.share("at most"),
                "applications": tables.count("Applications"),
                "pd": tables.share("Mean PD"),
                "loss": tables.dollars("Expected loss"),
            },
            "What each scenario does to flags, PD and loss",
            height="content",
        )
        for sentence in document.get("unmoved", ()):
            st.markdown(formats.plain(sentence))


# --- the model ----------------------------------------------------------------------------------


def _performance(windows: list[dict[str, Any]], caption: str) -> None:
    with panel(
        "Performance, expected and come true",
        "Expected without outcomes, from the PDs themselves (CBPE), with the interval in which 19 "
        "of 20 windows are when nothing but the applicants changed. It sees that other people "
        "come. It does not see that the same people have become riskier than their PD says: only "
        "outcomes do, beside it as they arrive, of the loans whose outcome is known. "
        f"{caption}",
    ):
        chosen = st.segmented_control(
            "Of the PD", list(_MEASURES), default="AUC", required=True, key="measure_of_pd"
        )
        field = _MEASURES[chosen or "AUC"]
        rows = pd.DataFrame([_expected(window, field) for window in windows]).dropna(subset="value")
        if rows.empty:
            st.write("The PDs of these applications are all alike: nothing can be expected.")
            return
        show(
            charts.performance(chosen or "AUC", field != "auc"),
            rows,
            f"Line with intervals: {chosen} expected in each window, and points: what came true",
        )


def _stability(document: dict[str, Any], caption: str) -> None:
    rows = pd.DataFrame(document["stability"])
    with panel(
        "Against the development sample",
        "PSI of the score, and of each feature (CSI): below 0.10 stable, above 0.25 significant, "
        f"and never what chance explains. {caption}",
    ):
        psi = partial(st.column_config.NumberColumn, format="%.3f")
        tables.table(
            rows.assign(
                feature=rows["feature"].map(formats.feature),
                verdict=rows["verdict"].map(VERDICT_WORDS),
            ),
            {
                "feature": tables.name("Score, features"),
                "psi": psi("PSI"),
                "limit": psi("By chance, at most"),
                "verdict": tables.text("Verdict"),
            },
            "How far the score and each feature are from the model's development sample",
            height="content",
        )


def _expected(window: dict[str, Any], field: str) -> dict[str, Any]:
    estimated, realised = window["estimated"], window["realised"]
    came = realised[field]
    return {
        "until": window["until"],
        "applications": window["applications"],
        "loans": realised["loans"],
        **(estimated[field] if estimated else dict.fromkeys(("low", "value", "high"))),
        "realised": came["value"] if isinstance(came, dict) else came,
    }


def _tiers(windows: list[dict[str, Any]], caption: str) -> None:
    rows = pd.DataFrame(
        [{"until": window["until"], **tier} for window in windows for tier in window["tiers"]]
    )
    with panel("PD by tier", f"Mean of each window. {caption}"):
        show(charts.tiers(), rows, "Lines: mean PD of each tier over time")


# --- fair lending -------------------------------------------------------------------------------


def _fairness(document: dict[str, Any], caption: str) -> None:
    rows = pd.DataFrame(document["segments"])
    large = rows[rows["verdict"] != "too_few_rows"] if len(rows) else rows
    with panel(
        "Fair lending",
        "Impact ratio: share not flagged, by that of the group that is flagged least; warning "
        "below 0.90, alarm below 0.80, and no verdict on groups of fewer than 100. Difference of "
        f"the {document['score']} in standard deviations; recall and false positives of known "
        f"outcomes. It finds where to look, and proves nothing. {caption}",
    ):
        if document.get("classes"):
            st.write(
                f"{formats.plain(document['classes'])}; each counts by its probability, and n is "
                "what they add up to."
            )
        if large.empty:
            st.write("No attribute has two groups of 100 applications.")
            return
        tables.table(
            pd.DataFrame([_segment(dict(row)) for _, row in large.iterrows()]),
            {
                "group": tables.name("Group"),
                "n": tables.count("n"),
                "ratio": tables.text("Impact ratio (95 %)"),
                "verdict": tables.text("Verdict"),
                "reference": tables.text("Against"),
                "difference": st.column_config.NumberColumn("Difference, SD", format="%+.2f"),
                "recall": tables.text("Recall (95 %)"),
                "false_positive": tables.text("False positives (95 %)"),
            },
            "Each group against the one that is flagged least",
        )


def _segment(segment: dict[str, Any]) -> dict[str, Any]:
    def number(value: float) -> str:
        return f"{value:.3f}"

    return {
        "group": f"{formats.feature(segment['attribute'])}: {formats.words(segment['value'])}"
        if segment["attribute"] not in ("grade", "addr_state")
        else f"{formats.feature(segment['attribute'])}: {segment['value']}",
        "n": segment["rows"],
        "ratio": _interval(segment["ratio"], number),
        "verdict": _VERDICTS[segment["verdict"]],
        "reference": segment["reference"],
        "difference": segment["difference"],
        "recall": _interval(segment["recall"]),
        "false_positive": _interval(segment["false_positive"]),
    }


def _interval(found: dict[str, Any], write: Callable[[float], str] = formats.percent) -> str:
    value, low, high = (
        float("nan") if found[end] is None else found[end] for end in ("value", "low", "high")
    )
    return formats.interval(value, low, high, write)


# --- vintages -----------------------------------------------------------------------------------


def _vintages(report: Report) -> None:
    found = report.document["vintages"]
    rows = charts.vintage_rows(found)
    with panel(
        "Vintages",
        f"Bad by {formats.plain(report.document['outcome'].partition('@')[0])}, by month of issue "
        "and age at which it was seen (Kaplan and Meier, 95 % intervals): compare vintages at the "
        f"same age, as some were watched for longer. Loans of {formats.plain(report.about)}, as of "
        f"{report.created_at:{TIME_FORMAT}}. Accepted loans alone.",
    ):
        show(
            charts.vintages(tuple(dict.fromkeys(rows["month"]))),
            rows,
            "Lines: share of each month's loans that was bad by each age",
        )
        tables.table(
            pd.DataFrame(
                [
                    {
                        **{name: vintage[name] for name in ("month", "loans", "bads", "months")},
                        "rate": _interval(vintage["bad_rate"]),
                        "exposure": "Shorter than others" if vintage["shorter"] else "Longest",
                    }
                    for vintage in found
                ]
            ),
            {
                "month": tables.name("Month of issue"),
                "loans": tables.count("Loans"),
                "bads": tables.count("Bad"),
                "rate": tables.text("Bad rate (95 %)"),
                "months": tables.plain("Months on book"),
                "exposure": tables.text("Watched"),
            },
            "Each month of issue, and how long its loans were watched",
        )
        st.link_button(
            "The run in Dagster",
            orchestration.run_url(report.run_id),
            icon=":material/open_in_new:",
        )
