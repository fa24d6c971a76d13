"""Overview: how many applications came, how risky they are, and where the risk is."""

import math
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.intervals import wilson_interval
from dashboard.charts import portfolio as portfolio_charts
from dashboard.charts import stream as charts
from dashboard.charts import theme
from dashboard.charts.theme import TIER_COLOURS
from dashboard.charts.vocabulary import TIME_FORMAT, WORST_FIRST
from dashboard.data import overview as queries
from dashboard.data.connection import PROBLEMS
from dashboard.data.overview import Totals
from dashboard.data.portfolio import portfolio
from dashboard.data.report import report_html
from dashboard.data.segments import AMOUNTS_FROM, Segment
from dashboard.parts import filters, formats
from dashboard.parts.chart import show, viewer_theme
from dashboard.parts.lag import Lag, consumer_lag
from dashboard.parts.layout import collapsed_on_phone, panel
from dashboard.parts.live import live, viewer_zone
from dashboard.parts.periods import DEFAULT_PERIOD, LONG, PERIODS, period_of
from dashboard.parts.signals import STALLED_AFTER_SECONDS
from dashboard.parts.states import TILES
from dashboard.parts.strip import signal_strip
from resources.postgres.management import MOST_DECISIONS

SILENT_AFTER_SECONDS = 60
BREAKDOWN_EVERY = timedelta(seconds=10)  # kept for longer; but a viewer may change the theme
PURPOSES = 12  # the other ones, with few applications, are one bar
BAR_HEIGHT = 26
FEWEST = 30  # applications of which a share says something
_WHAT_THEY_ARE = (
    "A tier and a recommendation are two things: a loan on the Watchlist is looked at, and counts "
    "as approved unless a rule of the policy refers or declines it. Tiers are what the policy "
    "says, and no outcomes. Of the built-in loans, all of which had been "
    "accepted (nothing is known of the declined), 4 of 356 on the Watchlist went bad (1.1 %), and "
    "117 of 6,809 in Low (1.7 %); their utilization and inquiries are estimates. A demo's first "
    "six weeks were decided when it started, and dated back."
)
MEASURES = ("Watchlist share", "Elevated share", "Amount requested", "Applications")


_ONCE = {
    True: "Each loan counts once, by its newest decision of the period.",
    False: f"Of more than {MOST_DECISIONS:,} decisions, each counts, also on the same loan.",
}


def page() -> None:
    """Draw the page."""
    st.title("Credit risk overview", anchor=False)
    signal_strip()
    with collapsed_on_phone("Period"), st.container(horizontal=True, vertical_alignment="bottom"):
        period = filters.period(_default_period(), list(PERIODS))
        period = filters.dates() or period
        against = filters.against()
        st.download_button(
            "Report",
            partial(report_html, period),
            file_name=f"credit-risk-{pd.Timestamp.now(tz='UTC'):%Y%m%d}.html",
            mime="text/html",
            icon=":material/print:",
            on_click="ignore",
            help="Of these days, as a page by itself, to print or to send.",
        )
    segment = filters.segment(filters.purposes())
    _figures(period, segment, against)
    _outcomes()
    _breakdown(period, segment, against)


def _default_period() -> str:
    """The history that there is, of years the last 30 days."""
    try:
        return "All" if queries.history() <= LONG else "30 d"
    except PROBLEMS:  # the figures say it
        return DEFAULT_PERIOD


@live
def _figures(period: str, segment: Segment, against: str) -> None:
    data = queries.overview(period, viewer_zone(), segment, against)
    counted = queries.counted(period, viewer_zone(), segment, against)
    when = period_of(period).words
    _status(data, consumer_lag(), segment)
    _key_figures(data, counted, when, against)
    if data.totals.applications:
        st.caption(_WHAT_THEY_ARE)
        _charts(data, segment, when)
    elif data.progress.last_commit is not None:
        st.info(
            f"No application of this kind was scored {when}. Choose a longer period"
            + (" or fewer filters." if segment else "."),
            icon=":material/schedule:",
        )


def _as_of(moment: pd.Timestamp, since: pd.Timestamp) -> str:
    return (
        f"From {since:%-d %b %H:%M}, as of {moment.tz_convert(since.tz):%-d %b %H:%M:%S} "
        f"({since.tz})"
    )


def _state(silence: float, lag: Lag) -> str:
    """A badge: whether what comes is scored. Idle is who has nothing to do."""
    waiting = lag.events or 0
    if waiting and silence > STALLED_AFTER_SECONDS:
        # Right after a quiet hour an event waits until a run has started.
        if lag.waited_seconds is None and silence < SILENT_AFTER_SECONDS:
            return ":orange-badge[Starting]"
        if lag.waited_seconds is None or lag.waited_seconds > STALLED_AFTER_SECONDS:
            oldest = (
                f", the oldest {formats.duration(lag.waited_seconds)}"
                if lag.waited_seconds is not None
                else ""
            )
            return f":red-badge[Stalled: {formats.count(waiting)} wait{oldest}]"
    if silence < SILENT_AFTER_SECONDS or waiting:
        return ":green-badge[Live]"
    return ":gray-badge[Quiet]" if lag.events is None else ":gray-badge[Idle]"


def _status(data: queries.Overview, lag: Lag, segment: Segment) -> None:
    progress = data.progress
    if progress.last_commit is None:
        st.info(
            "**No applications yet.** Stream some with `make demo`, or with `credit-risk produce` "
            "while the pipeline runs. They appear here by themselves.",
            icon=":material/hourglass_empty:",
        )
        return
    silence = progress.silence_seconds
    rejected = formats.share(progress.rejected, progress.scored + progress.rejected)
    st.markdown(
        f"{_state(silence, lag)} **{filters.describe(segment)}**  ·  "
        f"Last commit {formats.age(silence)}  ·  Since the start, of all kinds, "
        f"{formats.counted(progress.scored, 'decision')}, "
        f"{formats.counted(progress.rejected, 'rejected event')} ({rejected})"
        + (f"  ·  Policy {formats.plain(data.policy)}" if data.policy else "")
    )


def _key_figures(data: queries.Overview, counted: queries.Counted, when: str, against: str) -> None:
    """What a manager asks first; the stream itself is on the page Operations."""
    now, before = counted.totals, counted.before
    volume = data.volume.iloc[:-1]  # the last bucket is not over
    scored = volume[list(WORST_FIRST)].sum(axis=1)
    known = before is not None and before.applications > 0
    interval = wilson_interval(now.watchlist, now.applications)
    with st.grid(4, min_column_width=160, gap="small"):
        _figure(
            "Applications" if counted.once else "Decisions",
            formats.count(now.applications),
            _change(now.applications, before.applications if before else 0),
            line=scored.tolist(),
            delta_description=_decisions(counted, data)
            + (f"against {against}" if known else f"nothing of {against}"),
            help=f"Scored {when}. {_ONCE[counted.once]} The line is of decisions. Changes are "
            f"against {against}, of the same length.",
        )
        _recommendations(data.recommended)
        _figure(
            "Watchlist share",
            formats.percent(now.share("watchlist")),
            _points(now, before, "watchlist"),
            line=(volume["Watchlist"] / scored).tolist(),
            delta_description="{} of {}; 95 %: {:.1f}–{:.1f}\u00a0%".format(
                formats.count(now.watchlist),
                formats.count(now.applications),
                *(100 * end for end in interval),
            )
            if interval
            else None,
            help="With an early warning, with the 95 % confidence interval of their share "
            f"(Wilson). {_ONCE[counted.once]}",
        )
        _figure(
            "Elevated share",
            formats.percent(now.share("elevated")),
            _points(now, before, "elevated"),
            line=(volume["Elevated"] / scored).tolist(),
            delta_description=f"{formats.count(now.elevated)} of {formats.count(now.applications)}",
            help="Without an early warning, with high DTI or utilization. " + _ONCE[counted.once],
        )
        _figure(
            "Amount requested, Watchlist",
            formats.dollars(now.watchlist_amnt),
            _change(now.watchlist_amnt, before.watchlist_amnt if before else 0),
            line=volume["watchlist_amnt"].tolist(),
            delta_description=f"{formats.share(now.watchlist_amnt, now.loan_amnt)} of all",
            help="What the applications on the Watchlist ask for, USD; how much of it would be "
            f"lost, it does not say. {_ONCE[counted.once]}",
        )
        _unreadable(data, volume)


def _decisions(counted: queries.Counted, data: queries.Overview) -> str:
    if not counted.once:
        return ""
    return f"{formats.counted(data.totals.applications, 'decision')}; "


def _recommendations(found: queries.Recommended | None) -> None:
    for label, name in (("Approved", "approve"), ("Referred", "refer"), ("Declined", "decline")):
        hits = getattr(found, name) if found else 0
        _figure(
            label,
            formats.share(hits, found.loans) if found else formats.UNKNOWN,
            delta_description=f"{formats.count(hits)} of {formats.counted(found.loans, 'loan')}"
            if found
            else "of no segment",
            help="What the policy recommends beside the tier, of the newest "
            f"{formats.count(queries.NEWEST)} applications of the period, each loan once. Approved "
            "are those that no rule refers or declines.",
        )


def _unreadable(data: queries.Overview, volume: pd.DataFrame) -> None:
    now = data.totals
    events = volume[list(queries.OUTCOMES)].sum(axis=1)
    of_all = now.rejected is not None  # and else of a segment
    _figure(
        "Unreadable events",
        formats.percent(now.share("rejected")),
        _points(now, data.before, "rejected"),
        line=(volume["Rejected"] / events).tolist() if of_all else (),
        delta_description=f"{formats.count(now.rejected or 0)} of "
        f"{formats.count(now.applications + (now.rejected or 0))}"
        if of_all
        else "of no segment",
        help="Events that could not be scored: no decline is one. The page Operations has their "
        "reasons. One that cannot be read has no purpose, grade or state.",
    )


def _figure(
    label: str,
    value: str,
    delta: str | None = None,
    *,
    delta_description: str | None,
    help: str,
    line: Sequence[float] = (),
) -> None:
    """A key figure with its course over the period."""
    with st.container(border=True, height="stretch", gap="small"):
        st.metric(
            label,
            value,
            delta,
            delta_color="off",
            delta_description=delta_description,
            help=help,
        )
        if sum(not math.isnan(value) for value in line) > 1:
            words = f"Course of {label.rpartition(')')[2].strip()}"
            st.html(theme.sparkline(line, words, theme.CHART_TEXT[viewer_theme()]))


def _change(now: float, before: float) -> str | None:
    """`+12.3 %`; nothing where there is nothing to compare with."""
    return f"{100 * (now - before) / before:+.1f} %" if before else None


def _points(now: Totals, before: Totals | None, name: str) -> str | None:
    change = now.share(name) - before.share(name) if before else math.nan
    return None if math.isnan(change) else formats.points(change)


def _charts(data: queries.Overview, segment: Segment, when: str) -> None:
    cut = data.buckets
    caption = f"{filters.describe(segment)}. {_as_of(data.progress.as_of, cut.edges[0])}"
    rows = charts.stacked(data.volume)
    axis = charts.time_format(cut.edges)
    left, right = st.columns([3, 2])
    with panel("Decisions by risk tier", caption, left):
        show(
            charts.volume(cut.name, axis),
            rows,
            f"Stacked bars: decisions by risk tier and {cut.name}, {when}",
        )
    with panel("Tier mix", caption, right):
        show(
            charts.mix(axis),
            rows.dropna(),
            f"Stacked bars: share of each risk tier by {cut.name}, {when}",
        )


@partial(live, every=BREAKDOWN_EVERY)
def _outcomes() -> None:
    """What is expected of the tiers, and what became of the vintages: of the reports."""
    try:
        found = portfolio(viewer_zone())
    except PROBLEMS:  # the figures above say it
        return
    report = found.portfolio
    windows = report.document.get("windows", ()) if report else ()
    rows = pd.DataFrame([{"until": w["until"], **tier} for w in windows for tier in w["tiers"]])
    if report and not rows.empty:
        of = f"Each window of the newest {formats.count(report.document['applications'])} loans"
        model, lgd = (formats.plain(report.document[name] or "") for name in ("model", "lgd"))
        caption = f"{of}, by {model}. As of {report.created_at:{TIME_FORMAT}}"
        left, right = st.columns(2)
        with panel("PD by tier", f"Mean. {caption}", left):
            show(portfolio_charts.tiers(), rows, "Lines: mean PD of each tier over time")
        if "loss_rate" in rows:
            words = f"PD × LGD, by amount requested. {lgd}. {caption}"
            with panel("Expected loss by tier", words, right):
                show(
                    portfolio_charts.tiers("loss_rate"),
                    rows,
                    "Lines: expected loss of each tier over time",
                )
    if found.vintages:
        shown = portfolio_charts.vintage_rows(found.vintages.document["vintages"])
        with panel(
            "Bad rate by vintage",
            f"Bad by {formats.plain(found.vintages.document['outcome'].partition('@')[0])}, by "
            "month of issue and age at which it was seen. Accepted loans alone. "
            f"As of {found.vintages.created_at:{TIME_FORMAT}}",
        ):
            show(
                portfolio_charts.vintages(tuple(dict.fromkeys(shown["month"]))),
                shown,
                "Lines: share of each month's loans that was bad by each age",
            )


@partial(live, every=BREAKDOWN_EVERY)
def _breakdown(period: str, segment: Segment, against: str) -> None:
    try:
        data = queries.breakdown(period, viewer_zone(), segment, against)
    except PROBLEMS:  # the figures above say it
        return
    if data.rows.empty:
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.header("Where the risk is", anchor=False)
        measure = st.segmented_control(
            "Measure",
            MEASURES,
            default=MEASURES[0],
            required=True,
            key="measure",
            bind="query-params",
            label_visibility="collapsed",
        )
    caption = f"{filters.describe(segment)}. {_as_of(data.as_of, data.since)}. {_ONCE[data.once]}"
    caption += " Days begin at midnight UTC." if data.utc else ""
    caption = caption.removesuffix(".")
    rows = _measured(data.rows, measure or MEASURES[0])
    if data.before is not None and not data.before.empty:
        rows = _with_trend(rows, _measured(data.before, measure or MEASURES[0]))
        caption += f". In brackets: against {against}"
    left, right = st.columns([1, 1])
    with left:
        _bars("Purpose", measure, _purposes(rows), caption)
    few = f". Hatched: fewer than {FEWEST} applications" if "low" in rows else ""
    with panel(f"{measure} by state", caption + few, right):
        show(
            charts.state_map(measure, _FORMATS[measure][0], viewer_theme()),
            _tiles(rows),
            f"Map of tiles: {measure} of each state",
            height=BAR_HEIGHT * PURPOSES + 60,
        )
    dimensions = (
        ("Grade", "grade", filters.GRADES, str),
        ("Loan amount", "amount_from", AMOUNTS_FROM, filters.amount),
        ("Term", "term_months", filters.TERMS, formats.term),
    )
    for column, (name, dimension, order, words) in zip(st.columns(3), dimensions, strict=True):
        with column:
            _bars(name, measure, _labelled(rows, dimension, order, words), caption)


# Of each measure: the format of its axis, and its colour.
_FORMATS = {
    "Watchlist share": ("%", TIER_COLOURS["Watchlist"]),
    "Elevated share": ("%", TIER_COLOURS["Elevated"]),
    "Amount requested": ("$~s", TIER_COLOURS["Watchlist"]),
    "Applications": (",d", TIER_COLOURS["Low"]),
}


def _measured(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows with `value`, `text`, and for a share `low` and `high`."""
    if measure == "Amount requested":
        return rows.assign(
            value=rows["watchlist_amnt"], text=rows["watchlist_amnt"].map(formats.dollars)
        )
    if measure == "Applications":
        return rows.assign(value=rows["applications"], text=rows["applications"].map(formats.count))
    hits = rows[measure.split()[0].lower()]
    ends = [
        wilson_interval(*pair) or (0.0, 0.0)
        for pair in zip(hits, rows["applications"], strict=True)
    ]
    return rows.assign(
        value=hits / rows["applications"],
        text=[formats.share(*pair) for pair in zip(hits, rows["applications"], strict=True)],
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
    )


def _with_trend(rows: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """The rows, with how far each is from what it was; of a share of few applications nothing."""
    key = ["dimension", "value_of"]
    was = before[before["applications"] >= FEWEST].set_index(key)["value"]
    earlier = was.reindex(pd.MultiIndex.from_frame(rows[key])).to_numpy()
    share = "low" in rows
    change = 100 * (rows["value"] - earlier if share else rows["value"] / earlier - 1)
    tells = change.notna() & (rows["applications"] >= FEWEST)
    words = change.map("{:+.1f}".format) + ("" if share else " %")
    return rows.assign(text=rows["text"].where(~tells, rows["text"] + " (" + words + ")"))


def _purposes(rows: pd.DataFrame) -> pd.DataFrame:
    """The purposes with most applications, the highest value first."""
    found = rows[rows["dimension"] == "purpose"].nlargest(PURPOSES, "applications")
    found = found.sort_values("value", ascending=False)
    return found.assign(label=found["value_of"].map(formats.words))


def _labelled(rows: pd.DataFrame, dimension: str, order: Any, words: Any) -> pd.DataFrame:
    """The values of a dimension that there are, in their own order."""
    found = rows[rows["dimension"] == dimension].set_index("value_of")
    known = [value for value in map(str, order) if value in found.index]
    labels = {str(value): words(value) or formats.UNKNOWN for value in order}
    return found.loc[known].assign(label=[labels[value] for value in known])


def _tiles(rows: pd.DataFrame) -> pd.DataFrame:
    """Every state, also those without applications."""
    found = rows[rows["dimension"] == "addr_state"].set_index("value_of")
    tiles = pd.DataFrame.from_dict(TILES, orient="index", columns=["column", "row"])
    tiles = tiles.join(found[["value", "text", "applications"]])
    tiles["text"] = tiles["text"].fillna(formats.UNKNOWN)
    tiles["applications"] = tiles["applications"].fillna(0)
    # A share of a few applications is hatched: it has no colour of its own.
    tiles["few"] = tiles["value"].notna() & (tiles["applications"] < FEWEST) & ("low" in rows)
    tiles["value"] = tiles["value"].where(~tiles["few"])
    highest = tiles["value"].max() or 1
    viewer = viewer_theme()
    tiles["ink"] = [
        theme.CHART_TEXT[viewer] if pd.isna(value) else theme.tile_ink(value / highest, viewer)
        for value in tiles["value"]
    ]
    return tiles.rename_axis("state").reset_index()


def _bars(name: str, measure: str, rows: pd.DataFrame, caption: str) -> None:
    axis_format, colour = _FORMATS[measure]
    interval = "low" in rows
    many = rows["applications"] >= FEWEST
    if interval and many.any() and not many.all():
        rows = rows[many]
        caption += f". Without those with fewer than {FEWEST} applications"
    columns = ["label", "value", "text", "applications", *(["low", "high"] if interval else [])]
    if interval:
        caption += ". Lines: 95 % intervals"
    with panel(f"{measure} by {name.lower()}", caption):
        show(
            charts.segments(measure, axis_format, colour, interval),
            rows[columns],
            f"Bars: {measure} by {name.lower()}",
            height=BAR_HEIGHT * len(rows) + 60,
        )
