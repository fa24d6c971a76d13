"""What the Operations page shows: minutes, batches, partitions and rejected events."""

import math
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.latency import percentile
from dashboard.data.connection import Snapshot, snapshot
from dashboard.data.overview import events_per_second

BATCH_ROWS = 100
REJECTED_ROWS = 100
MINUTES = 30


@dataclass(frozen=True)
class Operations:
    """What the Operations page shows, from one snapshot of the database.

    Attributes:
        minutes: the last `MINUTES`, by their start: `scored`, `rejected` (events), `p50`, `p95`
            (seconds from event to commit; NaN without events).
        batches: the newest: `committed_at`, `run_id`, `lane`, `scored`, `rejected`, `gaps`,
            `watchlist`, `p50`, `p95` (seconds), `fetch_ms`, `decode_ms`, `score_ms`, `copy_ms`.
        partitions: `source_id`, `topic`, `cluster_id`, `partition`, `first_offset`, `next_offset`,
            `scored`, `rejected`, `gaps`, `lost_events` (by the broker), `forgotten`, `updated_at`,
            `archived` (offsets), `objects`, `bytes`, `verified` (objects), `lost` (to the archive,
            events), `archived_at`.
        reasons: of the events rejected in the last 7 days: `reason`, `events`, `last`.
        rejected: the newest of all: `rejected_at`, `reason`, `source_id`, `partition`, `offset`.
        redriven: how many events were scored after they had been rejected.
        events_per_second: as on the page Overview.
    """

    as_of: pd.Timestamp
    minutes: pd.DataFrame
    batches: pd.DataFrame
    partitions: pd.DataFrame
    reasons: pd.DataFrame
    rejected: pd.DataFrame
    redriven: int
    events_per_second: float


@st.cache_data(ttl=1, max_entries=20, show_spinner=False)
def operations(zone: str) -> Operations:
    """What the pipeline did of late, with times in a zone."""
    with snapshot() as db:
        as_of = db.now(zone)
        return Operations(
            as_of=as_of,
            minutes=_minutes(db, as_of),
            batches=_batches(db, zone),
            partitions=db.frame(_PARTITIONS, zone),
            reasons=db.frame(_REJECT_REASONS, zone),
            rejected=db.frame(_REJECTED, zone, rows=REJECTED_ROWS),
            redriven=db.one("SELECT count(*) FROM redriven_events")["count"],
            events_per_second=events_per_second(db),
        )


def _minutes(db: Snapshot, as_of: pd.Timestamp) -> pd.DataFrame:
    starts = pd.date_range(end=as_of.floor("min"), periods=MINUTES, freq="min", name="minute")
    since = starts[0].to_pydatetime()
    minutes = pd.DataFrame(
        {"scored": 0, "rejected": 0, "p50": math.nan, "p95": math.nan}, index=starts
    )
    for row in db.rows(_EVENTS, since=since):
        counts = (int(row["scored"] or 0), int(row["rejected"] or 0))
        minutes.loc[pd.Timestamp(row["minute"]), ["scored", "rejected"]] = counts
    for row in db.rows(_LATENCIES, since=since):
        latency = (percentile(row["histogram"], 50), percentile(row["histogram"], 95))
        minutes.loc[pd.Timestamp(row["minute"]), ["p50", "p95"]] = latency
    return minutes


_EVENTS = """
    SELECT minute, sum(applications) FILTER (WHERE risk_tier <> 'Rejected') AS scored,
           sum(applications) FILTER (WHERE risk_tier = 'Rejected') AS rejected
      FROM risk_by_minute WHERE minute >= %(since)s GROUP BY minute
"""

_LATENCIES = """
    SELECT minute, array_agg(events ORDER BY bucket) AS histogram FROM (
        SELECT date_trunc('minute', committed_at) AS minute, bucket, sum(events)::bigint AS events
          FROM batches, unnest(latency_buckets) WITH ORDINALITY AS _ (events, bucket)
         WHERE committed_at >= %(since)s GROUP BY 1, 2
    ) AS counted GROUP BY minute
"""


def _batches(db: Snapshot, zone: str) -> pd.DataFrame:
    frame = db.frame(_BATCHES, zone, rows=BATCH_ROWS)
    histograms = frame.pop("latency_buckets")
    return frame.assign(
        p50=[percentile(h, 50) for h in histograms], p95=[percentile(h, 95) for h in histograms]
    )


_BATCHES = """
    SELECT committed_at, run_id, lane, scored, rejected, gaps, watchlist, fetch_ms, decode_ms,
           score_ms, copy_ms, latency_buckets
      FROM batches ORDER BY committed_at DESC LIMIT %(rows)s
"""

_PARTITIONS = """
    SELECT o.source_id, s.topic, s.cluster_id, o.partition, o.first_offset, o.next_offset,
           o.scored, o.rejected, o.gaps, o.lost AS lost_events, o.forgotten,
           o.updated_at, a.archived, a.objects, a.bytes, a.verified, a.lost, a.archived_at
      FROM stream_offsets o JOIN sources s USING (source_id)
      LEFT JOIN LATERAL (
           SELECT coalesce(sum(next_offset - first_offset), 0)::bigint AS archived,
                  count(key) AS objects, coalesce(sum(a.bytes), 0)::bigint AS bytes,
                  count(v.key) AS verified, coalesce(sum(lost), 0)::bigint AS lost,
                  max(archived_at) AS archived_at
             FROM archive_objects a LEFT JOIN lake_verifications v USING (key)
            WHERE a.source_id = o.source_id AND a.partition = o.partition
      ) AS a ON true
     ORDER BY o.source_id DESC, o.partition
"""

_REJECT_REASONS = """
    SELECT reason, count(*) AS events, max(rejected_at) AS last FROM rejected_events
     WHERE rejected_at > now() - interval '7 days' GROUP BY reason ORDER BY events DESC, reason
"""

_REJECTED = """
    SELECT rejected_at, reason, source_id, partition, "offset" FROM rejected_events
     ORDER BY rejected_at DESC LIMIT %(rows)s
"""
