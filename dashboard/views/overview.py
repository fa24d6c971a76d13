"""Overview: how many applications came, how risky they are, and who is on the Watchlist."""

from functools import lru_cache, partial
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.policy import TIERS
from dashboard import formats, queries
from dashboard.live import live, viewer_zone
from dashboard.periods import DEFAULT_PERIOD, PERIODS
from dashboard.theme import TIER_COLOURS, chart_text, coloured, swatch

# The tier to act on comes first: in the cards, the legend and the tables, and at the charts' axis.
WORST_FIRST = tuple(reversed(TIERS))
TIER_SCALE = alt.Scale(domain=WORST_FIRST, range=[TIER_COLOURS[tier] for tier in WORST_FIRST])

TIME_FORMAT = "%-d %b %H:%M"
AXIS_FORMATS = ((pd.Timedelta("25h"), "%H:%M"), (pd.Timedelta("10D"), TIME_FORMAT))
DATASET = "bars"
CHART_HEIGHT = 300
SILENT_AFTER_SECONDS = 60


def page() -> None:
    """Draw the page."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.title("Credit risk overview", anchor=False)
        period = st.segmented_control(
            "Period",
            list(PERIODS),
            default=DEFAULT_PERIOD,
            required=True,
            key="period",
            bind="query-params",
        )
    _body(period or DEFAULT_PERIOD)


@live
def _body(period: str) -> None:
    data = queries.overview(period, viewer_zone())
    edges = data.buckets.edges
    as_of = f"{data.progress.as_of.tz_convert(edges.tz):%-d %b %H:%M:%S}"
    caption = f"From {edges[0]:%-d %b %H:%M}, as of {as_of} ({edges.tz})"
    when = PERIODS[period].words

    _status(data)
    _key_figures(data.scored, when, data.progress.events_per_second)
    if any(data.scored.values()):
        _charts(data, when, caption)
    elif data.progress.last_commit is not None:
        st.info(f"Nothing was scored {when}. Choose a longer period.", icon=":material/schedule:")
    with st.container(border=True):
        st.header("Latest on the Watchlist", anchor=False)
        _watchlist(data.watchlist, when)
        st.caption(f"The newest {queries.WATCHLIST_ROWS} at most. {caption}")


def _status(data: queries.Overview) -> None:
    progress = data.progress
    if progress.last_commit is None:
        st.info(
            "**No applications yet.** Stream some with `make demo`, or with `credit-risk produce` "
            "while the pipeline runs. They appear here by themselves.",
            icon=":material/hourglass_empty:",
        )
        return
    silence = progress.silence_seconds
    state = ":green-badge[Live]" if silence < SILENT_AFTER_SECONDS else ":gray-badge[Idle]"
    rejected = formats.share(progress.rejected, progress.scored + progress.rejected)
    st.markdown(
        f"{state} Last commit {formats.age(silence)}  ·  "
        f"Event to commit p50 {formats.duration(data.latency.p50)}, "
        f"p95 {formats.duration(data.latency.p95)}  ·  "
        f"Since the start {formats.count(progress.scored)} scored, "
        f"{formats.count(progress.rejected)} rejected ({rejected})"
    )


def _key_figures(scored: dict[str, int], when: str, events_per_second: float) -> None:
    figure = partial(st.metric, delta_color="off", delta_arrow="off", border=True)
    total = sum(scored.values())
    with st.grid(5, min_column_width=150):
        figure("Applications scored", formats.count(total), when)
        for tier, number in scored.items():
            share = f"{formats.share(number, total)} of scored"
            figure(f"{swatch(tier)} {tier}", formats.count(number), share)
        figure("Throughput, events/s", formats.rate(events_per_second), "in the last minute")


def _charts(data: queries.Overview, when: str, caption: str) -> None:
    left, right = st.columns([2, 1])
    with left.container(border=True):
        st.header("Volume by risk tier", anchor=False)
        st.vega_lite_chart(
            volume_chart(data.buckets.name, _time_format(data.buckets.edges), chart_text())
            | {"datasets": {DATASET: _stacked(data.volume)}},
            height=CHART_HEIGHT,
            alt=f"Stacked bars: applications by risk tier and {data.buckets.name}, {when}",
        )
        st.caption(caption)
    with right.container(border=True):
        st.header("Risk distribution", anchor=False)
        st.vega_lite_chart(
            distribution_chart(chart_text()) | {"datasets": {DATASET: _shares(data.scored)}},
            height=CHART_HEIGHT,
            alt=f"Bars: share of each risk tier in the applications scored {when}",
        )
        st.caption(caption)


def _stacked(volume: pd.DataFrame) -> pd.DataFrame:
    """A row for each tier in each bucket, with where its part of the stack begins and ends."""
    counts = volume[list(WORST_FIRST)]
    tops = counts.cumsum(axis=1)
    total = counts.sum(axis=1)
    return pd.concat(
        {
            tier: pd.DataFrame(
                {
                    "end": volume["end"],
                    "applications": counts[tier],
                    "share": counts[tier] / total,
                    "bottom": tops[tier] - counts[tier],
                    "top": tops[tier],
                }
            )
            for tier in WORST_FIRST
        },
        names=["tier"],
    ).reset_index()


def _shares(scored: dict[str, int]) -> pd.DataFrame:
    total = sum(scored.values())
    bars = pd.DataFrame(scored.items(), columns=["tier", "applications"])
    return bars.assign(
        share=bars["applications"] / total,
        label=bars["applications"].map(lambda number: formats.share(number, total)),
    )


def _time_format(edges: pd.DatetimeIndex) -> str:
    span = edges[-1] - edges[0]
    return next((known for up_to, known in AXIS_FORMATS if span <= up_to), "%-d %b %Y")


# The charts are built once, without data: to build and check one takes Altair longer than all the
# rest of the page takes. A refresh hands the new data over under a name that stays the same.


@lru_cache
def volume_chart(bucket: str, time_format: str, text_colour: str) -> dict[str, Any]:
    """Applications by tier and bucket, stacked."""
    chart = (
        alt.Chart(alt.NamedData(DATASET))
        .mark_rect()  # with its own edges, as a bar has no width in time
        .encode(
            x=alt.X(
                "start:T",
                title="Time of scoring",
                axis=alt.Axis(format=time_format, tickCount=8),
            ),
            x2="end:T",
            y=alt.Y(
                "bottom:Q",
                title=f"Applications per {bucket}",
                axis=alt.Axis(format=",d", tickMinStep=1),
            ),
            y2="top:Q",
            color=alt.Color(
                "tier:N", scale=TIER_SCALE, legend=alt.Legend(orient="top", title=None, padding=0)
            ),
            tooltip=[
                alt.Tooltip("start:T", title="From", format=TIME_FORMAT),
                alt.Tooltip("end:T", title="To", format=TIME_FORMAT),
                alt.Tooltip("tier:N", title="Tier"),
                alt.Tooltip("applications:Q", title="Applications", format=","),
                alt.Tooltip("share:Q", title="Share", format=".1%"),
            ],
        )
    )
    return coloured(chart, text_colour).to_dict()


@lru_cache
def distribution_chart(text_colour: str) -> dict[str, Any]:
    """Share of each tier."""
    base = alt.Chart(alt.NamedData(DATASET)).encode(
        x=alt.X(
            "share:Q",
            title="Share of scored applications",
            axis=alt.Axis(format="%", tickCount=5),
            scale=alt.Scale(domain=[0, 1]),
        ),
        y=alt.Y("tier:N", title="Risk tier", sort=None),
        tooltip=[
            alt.Tooltip("tier:N", title="Tier"),
            alt.Tooltip("applications:Q", title="Applications", format=","),
            alt.Tooltip("label:N", title="Share"),
        ],
    )
    bars = base.mark_bar(height=36).encode(color=alt.Color("tier:N", scale=TIER_SCALE, legend=None))
    labels = base.mark_text(align="left", dx=6, fontSize=14).encode(text="label:N")
    return coloured(bars + labels, text_colour).to_dict()


def _watchlist(watchlist: pd.DataFrame, when: str) -> None:
    if watchlist.empty:
        st.write(f"No application was flagged {when}.")
        return
    table = watchlist.assign(
        reasons=watchlist["reasons"].map(lambda codes: [formats.reason(code) for code in codes]),
        purpose=watchlist["purpose"].map(formats.words),
    )
    percent = partial(st.column_config.NumberColumn, format="%.1f %%")
    st.dataframe(
        table,
        key="watchlist",
        hide_index=True,
        placeholder=formats.UNKNOWN,
        column_config={
            "loan_id": st.column_config.TextColumn("Loan", pinned=True),
            "scored_at": st.column_config.DatetimeColumn("Scored", format="D MMM HH:mm:ss"),
            "loan_amnt": st.column_config.NumberColumn("Amount", format="$%,d"),
            "dti": percent("DTI", help="Debt payments over income"),
            "int_rate": percent("Rate", help="Interest rate of the loan"),
            "revol_util": percent("Utilization", help="Used share of revolving credit lines"),
            "reasons": st.column_config.ListColumn(
                "Why it was flagged",
                width="large",
                help="Delinquencies in the last 2 years, inquiries in the last 6 months",
            ),
            "grade": "Grade",
            "purpose": "Purpose",
            "addr_state": "State",
        },
    )
