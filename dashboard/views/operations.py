"""Operations: does the pipeline run, how far behind is it, and what could it not process."""

import pandas as pd
import streamlit as st

from credit_risk_dagster.errors import PlatformError
from dashboard.charts import stream as charts
from dashboard.data import operations as queries
from dashboard.data.operations import Operations
from dashboard.data.overview import RATE_MINUTES
from dashboard.parts import formats, orchestration, tables
from dashboard.parts.chart import show
from dashboard.parts.lag import Lag, consumer_lag
from dashboard.parts.layout import figure, head, panel
from dashboard.parts.live import live, viewer_zone

REDRIVE = "redrive_rejected"


def page() -> None:
    """Draw the page."""
    with head("Operations"):
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
    with panel("Partitions and lag", as_of):
        _partitions(data.partitions, lag)
    with panel("Archive", as_of):
        _archive(data.partitions)
    with panel("Rejected events", as_of):
        _rejected(data)
    with panel("Batches", f"The newest {queries.BATCH_ROWS}. {as_of}"):
        _batches(data.batches)


def _figures(data: Operations, lag: Lag) -> None:
    last = data.batches["committed_at"].max()
    silence = (data.as_of - last).total_seconds() if pd.notna(last) else float("nan")
    pending, gone = (events.sum() for events in _not_archived(data.partitions))
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
            formats.rate(data.events_per_second),
            delta_description=f"in the last {RATE_MINUTES} minutes",
        )
        figure(
            "Rejected events",
            formats.count(data.reasons["events"].sum()),
            delta_description="in the last 7 days",
        )
        figure(
            "Not archived yet",
            formats.count(pending),
            delta_description="committed events"
            + (f"; {formats.count(gone)} went with earlier topics" if gone else ""),
        )


def _committed(partitions: pd.DataFrame) -> "pd.Series[int]":
    return partitions[["scored", "rejected", "gaps", "lost_events", "forgotten"]].sum(axis=1)


def _not_archived(partitions: pd.DataFrame) -> "tuple[pd.Series[int], pd.Series[int]]":
    """Of each partition, the committed events that are not archived: those that still can be, and
    those that an earlier cluster or topic took with it."""
    missing = _committed(partitions) - partitions["archived"]
    now = partitions.groupby("topic")["source_id"].transform("max")
    is_there = partitions["source_id"] == now
    return missing.where(is_there, 0), missing.mask(is_there, 0).clip(lower=0)


def _charts(data: Operations, as_of: str) -> None:
    minutes = data.minutes.iloc[:-1]  # the last one is not over
    if minutes["p50"].isna().all():
        st.info(
            f"The first events of {queries.MINUTES} minutes came in this one; their courses appear "
            "when it is over."
            if data.minutes["p50"].notna().any()
            else f"No event was committed in the last {queries.MINUTES} minutes; the courses of "
            "events and latency appear with the next ones.",
            icon=":material/hourglass_empty:",
        )
        return
    left, right = st.columns(2)
    with panel("Events per minute", as_of, left):
        show(
            charts.courses("Events per minute", ",d", ("Scored", "Rejected")),
            _long(minutes, {"scored": "Scored", "rejected": "Rejected"}),
            "Lines: scored and rejected events in each of the last minutes",
            height=220,
        )
    with panel("Event to commit", as_of, right):
        show(
            charts.courses("Milliseconds", ",d", ("p50", "p95")),
            _long(1000 * minutes[["p50", "p95"]], {"p50": "p50", "p95": "p95"}),
            "Lines: median and 95th percentile of the latency in each of the last minutes",
            height=220,
        )


def _long(frame: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    return (
        frame[list(names)]
        .rename(columns=names)
        .melt(ignore_index=False, var_name="series", value_name="value")
        .reset_index()
    )


def _partitions(partitions: pd.DataFrame, lag: Lag) -> None:
    newest = partitions["source_id"].max()
    behind = partitions["partition"].map(lag.by_partition).where(partitions["source_id"] == newest)
    tables.table(
        partitions.assign(lag=behind.astype("Int64")),
        {
            "source_id": "Source",
            "topic": "Topic",
            "partition": "Partition",
            "next_offset": tables.count("Committed up to"),
            "lag": tables.count("Lag"),
            "scored": tables.count("Scored"),
            "rejected": tables.count("Rejected"),
            "gaps": tables.count("Gaps"),
            "lost_events": tables.count("Lost"),
            "forgotten": tables.count("Forgotten"),
            "updated_at": tables.second("Committed"),
        },
        "Committed offsets, lag and counts of each partition",
        key="partitions",
    )


def _archive(partitions: pd.DataFrame) -> None:
    done = _committed(partitions)
    pending, gone = _not_archived(partitions)
    tables.table(
        partitions.assign(
            pending=pending,
            gone=gone,
            share=100 * partitions["archived"] / done.where(done > 0),
            size=partitions["bytes"].map(formats.size),
        ),
        {
            "source_id": "Source",
            "partition": "Partition",
            "share": tables.percent("Archived"),
            "pending": tables.count("Pending"),
            "gone": tables.count("Went with its topic"),
            "objects": tables.count("Objects"),
            "verified": tables.count("Verified"),
            "size": "Size",
            "lost": tables.count("Lost"),
            "archived_at": tables.second("Archived"),
        },
        "What of each partition is archived",
        key="archive",
    )
    if not partitions["objects"].sum():
        st.caption(
            "Nothing is archived yet: the job `archive_raw_events` does that every five minutes."
        )


def _rejected(data: Operations) -> None:
    if data.rejected.empty:
        st.write("No event was rejected. One that cannot be scored appears here with its reason.")
        return
    left, right = st.columns(2)
    with left:
        tables.table(
            data.reasons,
            {
                "reason": tables.text("Reason", width=190),
                "events": tables.count("Events, 7 days"),
                "last": tables.second("Last"),
            },
            "Rejected events of the last 7 days by reason",
            key="reasons",
        )
        st.markdown(
            "After a fix, score them again: launch the job "
            f"[{REDRIVE}]({orchestration.job_url(REDRIVE)}) in Dagster, or run "
            "`credit-risk rejected redrive --reason CODE`. What passes moves to the scored ones "
            f"and keeps its offset; so far {formats.count(data.redriven)} did."
        )
    with right:
        tables.table(
            data.rejected,
            {
                "rejected_at": tables.second("Rejected"),
                "reason": tables.text("Reason", width=190),
                "source_id": "Source",
                "partition": "Partition",
                "offset": tables.plain("Offset"),
            },
            "The newest rejected events",
            key="rejected",
            height=250,
        )
        st.caption(
            "The event itself may hold personal data and is not shown here: "
            "`credit-risk rejected show PARTITION OFFSET` prints it to whoever may read it."
        )


def _batches(batches: pd.DataFrame) -> None:
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
    tables.table(
        batches.assign(
            run=batches["run_id"].map(orchestration.run_url),
            p50=1000 * batches["p50"],
            p95=1000 * batches["p95"],
        ),
        {
            "committed_at": st.column_config.DatetimeColumn(
                "Committed", format="D MMM HH:mm:ss.SSS"
            ),
            "run": tables.run(),
            "lane": "Lane",
            "scored": "Scored",
            "watchlist": "Watchlist",
            "rejected": "Rejected",
            "gaps": "Gaps",
            **milliseconds,
        },
        "The newest committed batches",
        key="batches",
        height=300,
    )


@live
def _automation() -> None:
    with panel("Runs, sensors and schedules"):
        try:
            state = orchestration.state(viewer_zone())
        except PlatformError as error:
            st.warning(str(error), icon=":material/cloud_off:")
            return
        _runs(state.runs)
        _instigators(state.instigators)


def _runs(runs: pd.DataFrame) -> None:
    tables.table(
        runs.assign(
            run=runs["run_id"].map(orchestration.run_url),
            took=runs["seconds"].map(formats.duration),
        ),
        {
            "started": tables.second("Started"),
            "run": tables.run(),
            "job": "Job",
            "status": "Status",
            "took": "Took",
        },
        "The newest runs in Dagster",
        key="runs",
        height=300,
    )


def _instigators(instigators: pd.DataFrame) -> None:
    pages = map(orchestration.automation_url, instigators["kind"], instigators["name"])
    tables.table(
        instigators.assign(page=list(pages)),
        {
            "page": st.column_config.LinkColumn("Sensor or schedule", display_text=r"s/([^/]+)$"),
            "status": "State",
            "tick": tables.second("Last tick"),
            "outcome": "Outcome",
            "why": tables.text("Why", width="large"),
        },
        "Sensors and schedules, and how their last tick ended",
        key="instigators",
        height=300,
    )
