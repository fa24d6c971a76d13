"""Operations: does the pipeline run, how far behind is it, and what could it not process."""

from functools import partial

import pandas as pd
import streamlit as st

from credit_risk_dagster.errors import PlatformError
from dashboard.charts import stream as charts
from dashboard.data import operations as queries
from dashboard.data.operations import Operations
from dashboard.parts import formats, orchestration
from dashboard.parts.chart import show
from dashboard.parts.lag import Lag, consumer_lag
from dashboard.parts.live import live, viewer_zone

REDRIVE = "redrive_rejected"


def page() -> None:
    """Draw the page."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.title("Operations", anchor=False)
        st.link_button(
            "Dagster", orchestration.run_url("").rstrip("/"), icon=":material/open_in_new:"
        )
        grafana = orchestration.grafana_url()
        if grafana:
            st.link_button("Grafana", grafana, icon=":material/open_in_new:")
    _pipeline()
    _automation()


@live
def _pipeline() -> None:
    data = queries.operations(viewer_zone())
    lag = consumer_lag()
    as_of = f"As of {data.as_of:%-d %b %H:%M:%S} ({data.as_of.tz})"
    if data.batches.empty and data.partitions.empty:
        st.info(
            "**Nothing was committed yet.** Batches, lag, rejected events and the archive appear "
            "here as soon as the pipeline runs: `make demo` starts everything.",
            icon=":material/hourglass_empty:",
        )
        return
    _figures(data, lag)
    _charts(data, as_of)
    left, right = st.columns(2)
    with left.container(border=True):
        st.header("Partitions and lag", anchor=False)
        _partitions(data.partitions, lag)
        st.caption(as_of)
    with right.container(border=True):
        st.header("Archive", anchor=False)
        _archive(data.partitions)
        st.caption(as_of)
    with st.container(border=True):
        st.header("Rejected events", anchor=False)
        _rejected(data)
        st.caption(as_of)
    with st.container(border=True):
        st.header("Batches", anchor=False)
        _batches(data.batches)
        st.caption(f"The newest {queries.BATCH_ROWS}. {as_of}")


def _figures(data: Operations, lag: Lag) -> None:
    last = data.batches["committed_at"].max()
    silence = (data.as_of - last).total_seconds() if pd.notna(last) else float("nan")
    recent = data.minutes.iloc[-6:-1]
    pending = int(
        (
            data.partitions["scored"]
            + data.partitions["rejected"]
            + data.partitions["gaps"]
            - data.partitions["archived"]
        ).sum()
    )
    figure = partial(st.metric, border=True, height="stretch")
    with st.grid(5, min_column_width=170, gap="small"):
        figure(
            "Last commit",
            formats.age(max(silence, 0)) if pd.notna(last) else formats.UNKNOWN,
            delta_description=f"run {data.batches['run_id'].iloc[0][:8]}"
            if pd.notna(last)
            else None,
        )
        figure(
            "Lag, events",
            formats.UNKNOWN if lag.events is None else formats.count(lag.events),
            delta_description=lag.words,
        )
        figure(
            "Throughput, events/s",
            formats.rate((recent["scored"].sum() + recent["rejected"].sum()) / 300),
            delta_description="in 5 minutes",
        )
        figure(
            "Rejected events",
            formats.count(data.reasons["events"].sum()),
            delta_description="in the last 7 days",
        )
        figure("Not archived yet", formats.count(pending), delta_description="committed events")


def _charts(data: Operations, as_of: str) -> None:
    minutes = data.minutes.iloc[:-1]  # the last one is not over
    if minutes["p50"].isna().all():
        st.info(
            f"No event was committed in the last {queries.MINUTES} minutes; the courses of events "
            "and latency appear with the next ones.",
            icon=":material/hourglass_empty:",
        )
        return
    left, right = st.columns(2)
    with left.container(border=True):
        st.header("Events per minute", anchor=False)
        show(
            charts.courses("Events per minute", ",d", ("Scored", "Rejected")),
            _long(minutes, {"scored": "Scored", "rejected": "Rejected"}),
            "Lines: scored and rejected events in each of the last minutes",
            height=220,
        )
        st.caption(as_of)
    with right.container(border=True):
        st.header("Event to commit", anchor=False)
        show(
            charts.courses("Milliseconds", ",d", ("p50", "p95")),
            _long(1000 * minutes[["p50", "p95"]], {"p50": "p50", "p95": "p95"}),
            "Lines: median and 95th percentile of the latency in each of the last minutes",
            height=220,
        )
        st.caption(as_of)


def _long(frame: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    return (
        frame[list(names)]
        .rename(columns=names)
        .melt(ignore_index=False, var_name="series", value_name="value")
        .dropna()
        .reset_index()
    )


def _partitions(partitions: pd.DataFrame, lag: Lag) -> None:
    newest = partitions["source_id"].max()
    behind = partitions["partition"].map(lag.by_partition).where(partitions["source_id"] == newest)
    st.dataframe(
        partitions.assign(lag=behind.astype("Int64")),
        hide_index=True,
        key="partitions",
        placeholder=formats.UNKNOWN,
        alt="Committed offsets, lag and counts of each partition",
        column_order=[
            *("source_id", "topic", "partition", "next_offset", "lag", "scored", "rejected"),
            *("gaps", "updated_at"),
        ],
        column_config={
            "source_id": "Source",
            "topic": "Topic",
            "partition": "Partition",
            "next_offset": st.column_config.NumberColumn("Committed up to", format="%,d"),
            "lag": st.column_config.NumberColumn("Lag", format="%,d"),
            "scored": st.column_config.NumberColumn("Scored", format="%,d"),
            "rejected": st.column_config.NumberColumn("Rejected", format="%,d"),
            "gaps": st.column_config.NumberColumn("Gaps", format="%,d"),
            "updated_at": st.column_config.DatetimeColumn("Committed", format="D MMM HH:mm:ss"),
        },
    )


def _archive(partitions: pd.DataFrame) -> None:
    done = partitions[["scored", "rejected", "gaps"]].sum(axis=1)
    st.dataframe(
        partitions.assign(
            pending=done - partitions["archived"],
            share=100 * partitions["archived"] / done.where(done > 0),
            size=partitions["bytes"].map(formats.size),
        ),
        hide_index=True,
        key="archive",
        placeholder=formats.UNKNOWN,
        alt="What of each partition is archived",
        column_order=[
            *("source_id", "partition", "share", "pending", "objects", "verified", "size"),
            *("lost", "archived_at"),
        ],
        column_config={
            "source_id": "Source",
            "partition": "Partition",
            "share": st.column_config.NumberColumn("Archived", format="%.1f %%"),
            "pending": st.column_config.NumberColumn("Pending", format="%,d"),
            "objects": st.column_config.NumberColumn("Objects", format="%,d"),
            "verified": st.column_config.NumberColumn("Verified", format="%,d"),
            "size": "Size",
            "lost": st.column_config.NumberColumn("Lost", format="%,d"),
            "archived_at": st.column_config.DatetimeColumn("Archived", format="D MMM HH:mm:ss"),
        },
    )
    if not partitions["objects"].sum():
        st.caption(
            "Nothing is archived yet: the job `archive_raw_events` does that every five minutes."
        )


def _rejected(data: Operations) -> None:
    if data.rejected.empty:
        st.write("No event was rejected. One that cannot be scored appears here with its reason.")
        return
    left, right = st.columns([2, 3])
    with left:
        st.dataframe(
            data.reasons.assign(words=data.reasons["reason"].map(formats.reject_reason)),
            hide_index=True,
            key="reasons",
            alt="Rejected events of the last 7 days by reason",
            column_order=["words", "reason", "events", "last"],
            column_config={
                "words": "Reason",
                "reason": "Code",
                "events": st.column_config.NumberColumn("Events, 7 days", format="%,d"),
                "last": st.column_config.DatetimeColumn("Last", format="D MMM HH:mm:ss"),
            },
        )
        st.markdown(
            "After a fix, score them again: launch the job "
            f"[{REDRIVE}]({orchestration.job_url(REDRIVE)}) in Dagster, or run "
            "`credit-risk rejected redrive --reason CODE`. What passes moves to the scored ones "
            f"and keeps its offset; so far {formats.count(data.redriven)} did."
        )
    with right:
        st.dataframe(
            data.rejected,
            hide_index=True,
            key="rejected",
            height=250,
            alt="The newest rejected events",
            column_config={
                "rejected_at": st.column_config.DatetimeColumn("Rejected", format="D MMM HH:mm:ss"),
                "reason": "Code",
                "source_id": "Source",
                "partition": "Partition",
                "offset": st.column_config.NumberColumn("Offset", format="%d"),
            },
        )
        st.caption(
            "The event itself may hold personal data and is not shown here: "
            "`credit-risk rejected show PARTITION OFFSET` prints it to whoever may read it."
        )


def _batches(batches: pd.DataFrame) -> None:
    table = batches.assign(
        run=batches["run_id"].map(orchestration.run_url),
        p50=1000 * batches["p50"],
        p95=1000 * batches["p95"],
    )
    milliseconds = {
        name: st.column_config.NumberColumn(f"{title}, ms", format="%.0f")
        for name, title in {
            "p50": "p50",
            "p95": "p95",
            "fetch_ms": "Fetch",
            "decode_ms": "Decode",
            "score_ms": "Score",
            "copy_ms": "Copy",
        }.items()
    }
    st.dataframe(
        table,
        hide_index=True,
        key="batches",
        height=300,
        placeholder=formats.UNKNOWN,
        alt="The newest committed batches",
        column_order=[
            *("committed_at", "run", "lane", "scored", "watchlist", "rejected", "gaps"),
            *milliseconds,
        ],
        column_config={
            "committed_at": st.column_config.DatetimeColumn("Committed", format="HH:mm:ss.SSS"),
            "run": st.column_config.LinkColumn("Run", display_text=r"runs/(.{8})"),
            "lane": "Lane",
            "scored": "Scored",
            "watchlist": "Watchlist",
            "rejected": "Rejected",
            "gaps": "Gaps",
            **milliseconds,
        },
    )


@live
def _automation() -> None:
    with st.container(border=True):
        st.header("Runs, sensors and schedules", anchor=False)
        try:
            state = orchestration.state(viewer_zone())
        except PlatformError as error:
            st.warning(str(error), icon=":material/cloud_off:")
            return
        left, right = st.columns(2)
        with left:
            st.dataframe(
                state.runs.assign(
                    run=state.runs["run_id"].map(orchestration.run_url),
                    took=state.runs["seconds"].map(formats.duration),
                ),
                hide_index=True,
                key="runs",
                height=300,
                placeholder=formats.UNKNOWN,
                alt="The newest runs in Dagster",
                column_order=["started", "run", "job", "status", "took"],
                column_config={
                    "started": st.column_config.DatetimeColumn("Started", format="D MMM HH:mm:ss"),
                    "run": st.column_config.LinkColumn("Run", display_text=r"runs/(.{8})"),
                    "job": "Job",
                    "status": "Status",
                    "took": "Took",
                },
            )
        with right:
            pages = map(
                orchestration.automation_url, state.instigators["kind"], state.instigators["name"]
            )
            st.dataframe(
                state.instigators.assign(page=list(pages)),
                hide_index=True,
                key="instigators",
                height=300,
                placeholder=formats.UNKNOWN,
                alt="Sensors and schedules, and how their last tick ended",
                column_order=["page", "status", "tick", "outcome", "why"],
                column_config={
                    "page": st.column_config.LinkColumn(
                        "Sensor or schedule", display_text=r"s/([^/]+)$"
                    ),
                    "status": "State",
                    "tick": st.column_config.DatetimeColumn("Last tick", format="D MMM HH:mm:ss"),
                    "outcome": "Outcome",
                    "why": st.column_config.TextColumn("Why", width="large"),
                },
            )
