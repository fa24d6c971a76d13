"""All SQL of the dashboard: read-only, from the rollups, cached for a second for all viewers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import psycopg
import streamlit as st
from sqlalchemy import Connection, Engine, create_engine, text
from streamlit.connections import BaseConnection

from credit_risk_dagster.domain.latency import percentile
from credit_risk_dagster.domain.policy import TIERS
from credit_risk_dagster.settings import WarehouseSettings
from dashboard.periods import PERIODS, Buckets, buckets
from resources.warehouse import Warehouse

OUTCOMES = (*TIERS, "Rejected")
WATCHLIST_ROWS = 100
LATENCY_BATCHES = 1_000


@dataclass(frozen=True)
class Progress:
    """Where the stream stands, over all sources and all time."""

    as_of: pd.Timestamp
    scored: int
    rejected: int
    last_commit: pd.Timestamp | None
    first_minute: pd.Timestamp | None
    events_per_second: float
    """Scored and rejected events of the last minute, per second."""

    @property
    def silence_seconds(self) -> float:
        """Seconds since the last commit; NaN before the first."""
        if self.last_commit is None:
            return float("nan")
        return max((self.as_of - self.last_commit).total_seconds(), 0.0)


@dataclass(frozen=True)
class Latency:
    """Seconds from the broker's timestamp to the commit, over the newest batches of a period;
    NaN without any."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Overview:
    """What the Overview page shows, from one snapshot of the database.

    Attributes:
        volume: one row for each bucket, indexed by its start; a column of counts for each of
            `OUTCOMES`, and `end`.
        watchlist: the newest applications on the Watchlist, newest first: `loan_id`, `scored_at`,
            `loan_amnt` (USD), `dti`, `int_rate`, `revol_util` (percent), `reasons` (list of codes),
            `grade`, `purpose`, `addr_state`.
    """

    progress: Progress
    latency: Latency
    buckets: Buckets
    volume: pd.DataFrame
    watchlist: pd.DataFrame

    @property
    def scored(self) -> dict[str, int]:
        """Scored applications of the period by tier, the riskiest first."""
        return {tier: int(self.volume[tier].sum()) for tier in reversed(TIERS)}


class WarehousePool(BaseConnection[Engine]):
    """The connection pool that all sessions share, for `st.connection`."""

    def _connect(self, **_: Any) -> Engine:
        return create_engine(
            "postgresql+psycopg://",
            creator=_open,
            pool_pre_ping=True,  # a restarted server is met with a new connection, not an error
        )

    def snapshot(self) -> Connection:
        """A connection that reads, and whose queries all see the same moment."""
        return self._instance.connect()


def _open() -> psycopg.Connection[Any]:
    connection = Warehouse(WarehouseSettings()).connect("dashboard", autocommit=False)
    # A page that refreshes every two seconds must rather fail than queue up behind itself, and
    # compiling costs more than these short queries.
    connection.execute(
        "SELECT set_config('statement_timeout', '5s', false), set_config('jit', 'off', false)"
    )
    connection.commit()
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


@st.cache_data(ttl=1, max_entries=100, show_spinner=False)
def overview(period: str, zone: str) -> Overview:
    """Everything on the Overview page for one of `PERIODS`, with times in a zone."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        progress = _progress(db)
        first = progress.first_minute
        cut = buckets(
            PERIODS[period],
            progress.as_of.tz_convert(zone),
            None if first is None else first.tz_convert(zone),
        )
        since = cut.edges[0].to_pydatetime()
        return Overview(
            progress=progress,
            latency=_latency(db, since),
            buckets=cut,
            volume=_volume(db, cut.edges),
            watchlist=_watchlist(db, since, zone),
        )


def _progress(db: Connection) -> Progress:
    row = db.execute(
        text("""
            SELECT now() AS as_of,
                   coalesce(sum(scored), 0) AS scored,
                   coalesce(sum(rejected), 0) AS rejected,
                   (SELECT max(committed_at) FROM batches) AS last_commit,
                   (SELECT min(minute) FROM risk_by_minute) AS first_minute,
                   (SELECT coalesce(sum(scored + rejected), 0) / 60.0 FROM batches
                     WHERE committed_at > now() - interval '1 minute') AS events_per_second
              FROM stream_offsets
        """)
    ).one()
    return Progress(
        as_of=pd.Timestamp(row.as_of),
        scored=int(row.scored),
        rejected=int(row.rejected),
        last_commit=None if row.last_commit is None else pd.Timestamp(row.last_commit),
        first_minute=None if row.first_minute is None else pd.Timestamp(row.first_minute),
        events_per_second=float(row.events_per_second),
    )


def _latency(db: Connection, since: datetime) -> Latency:
    histogram: Sequence[int] | None = db.execute(
        text("""
            WITH newest AS (
                SELECT latency_buckets FROM batches
                 WHERE committed_at >= :since
                 ORDER BY committed_at DESC LIMIT :batches
            ), summed AS (
                SELECT bucket, sum(events)::bigint AS events
                  FROM newest, unnest(latency_buckets) WITH ORDINALITY AS _ (events, bucket)
                 GROUP BY bucket
            )
            SELECT array_agg(events ORDER BY bucket) FROM summed
        """),
        {"since": since, "batches": LATENCY_BATCHES},
    ).scalar_one()
    return Latency(p50=percentile(histogram or (), 50), p95=percentile(histogram or (), 95))


def _volume(db: Connection, edges: pd.DatetimeIndex) -> pd.DataFrame:
    """Count the outcomes by bucket, at a cost that does not grow with history.

    Only the bucket of now and, for commits that are under way as it begins, the one before can
    still change; the others are counted once and kept.
    """
    moments = edges.to_pydatetime().tolist()
    settled = _settled_counts(db, moments[:-2])
    live = _counts(db, moments[-3:])
    return pd.concat([settled, live]).assign(end=edges[1:]).set_index(edges[:-1].rename("start"))


@st.cache_data(ttl="10min", max_entries=200, show_spinner=False)
def _settled_counts(_db: Connection, edges: list[datetime]) -> pd.DataFrame:
    return _counts(_db, edges)


def _counts(db: Connection, edges: list[datetime]) -> pd.DataFrame:
    rows = db.execute(
        text("""
            SELECT width_bucket(minute, CAST(:edges AS timestamptz[])) - 1 AS bucket,
                   risk_tier, sum(applications)::bigint AS applications
              FROM risk_by_minute
             WHERE minute >= :first AND minute < :last
             GROUP BY bucket, risk_tier
        """),
        {"edges": edges, "first": edges[0], "last": edges[-1]},
    )
    counts = pd.DataFrame(0, index=range(len(edges) - 1), columns=list(OUTCOMES))
    for bucket, outcome, applications in rows:
        counts.loc[bucket, outcome] = applications
    return counts


def _watchlist(db: Connection, since: datetime, zone: str) -> pd.DataFrame:
    # The tier is a literal, because only then the partial index scored_applications_watchlist fits.
    result = db.execute(
        text("""
            SELECT loan_id, scored_at, loan_amnt, dti, int_rate, revol_util, reasons,
                   grade, purpose, addr_state
              FROM scored_applications
             WHERE risk_tier = 'Watchlist' AND scored_at >= :since
             ORDER BY scored_at DESC, source_id, partition, "offset" DESC
             LIMIT :rows
        """),
        {"since": since, "rows": WATCHLIST_ROWS},
    )
    frame = pd.DataFrame(result.all(), columns=list(result.keys()))
    return frame.assign(scored_at=pd.to_datetime(frame["scored_at"], utc=True).dt.tz_convert(zone))
