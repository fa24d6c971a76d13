"""The figures of the Watchlist's cases: how often it was right, what waits, what overrides did."""

import math
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from credit_risk_dagster.domain.cases import AGE_WORDS, FEWEST, BadRate, Overridden, Precision
from credit_risk_dagster.domain.intervals import Interval
from credit_risk_dagster.pipelines.reviews import Reviews
from dashboard.charts import reviews as charts
from dashboard.charts.vocabulary import TIME_FORMAT
from dashboard.data import reviews as queries
from dashboard.parts import formats, tables
from dashboard.parts.chart import show
from dashboard.parts.layout import figure, panel
from dashboard.parts.live import live, viewer_zone

REFRESH_EVERY = timedelta(seconds=30)


def figures() -> None:
    """Draw them."""
    period = st.segmented_control(
        "Closed in",
        list(queries.DAYS),
        default="90 d",
        required=True,
        key="closed",
        bind="query-params",
    )
    _body(period or "90 d")


@partial(live, every=REFRESH_EVERY)
def _body(period: str) -> None:
    zone = viewer_zone()
    found = queries.reviews(period, zone)
    closed_in = f"Cases closed in the last {period}" if queries.DAYS[period] else "All closed cases"
    _key_figures(found)
    left, right = st.columns(2)
    with panel(
        "Precision by rule",
        f"{closed_in}, with 95 % intervals (Wilson). Right: confirmed or overridden up; wrong: "
        "false positive or overridden down; escalated is neither. A case counts for each rule that "
        "flagged its loan.",
        left,
    ):
        _bars(charts.precision(), [_precision_row(one) for one in found.precisions])
    _bad_rates(zone, right)
    left, right = st.columns(2)
    with panel("Waiting", "Cases that are not closed, by their age", left):
        rows = [
            (AGE_WORDS[age.band], what, cases)
            for age in found.ages
            for what, cases in zip(
                charts.WAITING, (age.overdue, age.cases - age.overdue), strict=True
            )
        ]
        bars = pd.DataFrame(rows, columns=["age", "what", "cases"])
        show(charts.ages(), bars, "Bars: cases that are not closed, by their age")
    with panel("Work by day", f"{formats.counted(len(found.days), 'day')} ({zone})", right):
        rows = [
            (f"{pd.Timestamp(day.day).tz_convert(zone):%-d %b}", what, cases)
            for day in found.days
            for what, cases in zip(charts.WORK, (day.opened, day.reopened, day.closed), strict=True)
        ]
        lines = pd.DataFrame(rows, columns=["day", "what", "cases"])
        show(charts.work(), lines, "Lines: cases opened, opened again and closed by day")
    left, right = st.columns(2)
    with panel("Overrides by reviewer", closed_in, left):
        _overrides("Reviewer", found.by_reviewer)
    with panel("Overrides by rule", closed_in, right):
        _overrides("Rule", found.by_rule)


def _bad_rates(zone: str, where: DeltaGenerator) -> None:
    reported = queries.turned_out(zone)
    said = "The report of reviews counts it: launch the job `report_reviews` to have it now."
    if reported:
        at, loans = reported
        said = (
            f"By the newest report of reviews, of {at:{TIME_FORMAT}} ({at.tz}): loans whose newest "
            f"case was closed and whose outcome was known; {loans.without_outcome:,} had none. "
            f"Below {FEWEST} loans the figures say little. Those not overridden are worse than "
            f"those overridden down by {_change(loans.difference)} (Newcombe)."
        )
    with panel("Bad rate of overridden cases", said, where):
        _bars(charts.bad_rates(), [_bad_row(one) for one in loans.bad_rates] if reported else [])


def _change(of: Interval) -> str:
    return formats.interval(of.value, of.low, of.high, formats.points)


def _key_figures(found: Reviews) -> None:
    every = next((one for one in found.precisions if not one.rule), None)
    overrides = sum(one.up + one.down for one in found.by_reviewer)
    closed = sum(one.closed for one in found.by_reviewer)
    days = max(len(found.days), 1)
    come, gone = (
        sum(numbers) / days
        for numbers in zip(*((d.opened + d.reopened, d.closed) for d in found.days), strict=True)
    )
    with st.grid(4, min_column_width=170):
        figure("Not closed", formats.count(found.open), f"{formats.count(found.overdue)} overdue")
        figure("Come by day", formats.rate(come), f"closed by day: {formats.rate(gone)}")
        figure(
            "Precision",
            formats.percent(every.share.value) if every else formats.UNKNOWN,
            _of(every) if every else "nothing is closed",
        )
        figure(
            "Overridden", formats.share(overrides, closed), f"{overrides:,} of {closed:,} closed"
        )


def _of(one: Precision) -> str:
    return f"{one.right:,} of {one.right + one.wrong:,}; " + _limits(one.share.low, one.share.high)


def _limits(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"95 %: {100 * low:.1f}–{100 * high:.1f} %"


def _precision_row(one: Precision) -> dict[str, object]:
    return {
        "label": formats.reason(one.rule) if one.rule else "All cases",
        "text": f"{formats.percent(one.share.value)}, n {one.right + one.wrong:,}",
        "share": one.share.value,
        "low": one.share.low,
        "high": one.share.high,
        "right": one.right,
        "wrong": one.wrong,
        "undecided": one.undecided,
    }


def _bad_row(one: BadRate) -> dict[str, object]:
    few = ", too few" if one.few else ""
    return {
        "label": one.of.capitalize(),
        "text": f"{formats.percent(one.share.value)}, n {one.loans:,}{few}",
        "share": one.share.value,
        "low": one.share.low,
        "high": one.share.high,
        "loans": one.loans,
        "bads": one.bads,
    }


def _bars(spec: dict[str, object], rows: list[dict[str, object]]) -> None:
    known = [row for row in rows if not math.isnan(row["share"])]  # type: ignore[arg-type]
    if not known:
        st.caption("Nothing is known yet.")
        return
    show(spec, pd.DataFrame(known), "Bars: shares with intervals", height=70 + 26 * len(known))


def _overrides(of: str, rows: Sequence[Overridden]) -> None:
    if not rows:
        st.caption("Nothing is closed.")
        return
    tables.table(
        pd.DataFrame(
            {
                "of": formats.reason(one.of) if of == "Rule" else one.of,
                "closed": one.closed,
                "up": one.up,
                "down": one.down,
                "share": 100 * one.share.value,
                "limits": _limits(one.share.low, one.share.high),
            }
            for one in rows
        ),
        {
            "of": tables.name(of),
            "closed": tables.count("Closed"),
            "up": tables.count("Up", help="Riskier than the decision says"),
            "down": tables.count("Down", help="Less risky"),
            "share": tables.percent("Overridden"),
            "limits": tables.text("Interval"),
        },
        f"Overrides by {of.lower()}",
        key=f"overrides_{of}",
    )
