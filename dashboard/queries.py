"""All SQL of the dashboard: read-only, from the rollups, cached for a second for all viewers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import psycopg
import streamlit as st
from sqlalchemy import Connection, Engine, create_engine, text
from streamlit.connections import BaseConnection

from credit_risk_dagster.domain.latency import percentile
from credit_risk_dagster.domain.outcome import BUILTIN_OUTCOMES, load_outcome
from credit_risk_dagster.domain.policy import TIERS, Policy, parse_policy
from credit_risk_dagster.settings import WarehouseSettings
from dashboard.periods import PERIODS, Buckets, buckets
from resources.columns import Columns, read_columns
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


# --- policy lab ---------------------------------------------------------------------------------

OUTCOME_DEFINITIONS = {name: load_outcome(name) for name in BUILTIN_OUTCOMES}
STATUSES = (
    "",
    *sorted({status for o in OUTCOME_DEFINITIONS.values() for status in (*o.bad, *o.good)}),
)
LAB_SIZES = (10_000, 100_000, 1_000_000)
LAB_ROWS = 100
_LAB_TIMEOUT_SECONDS = 60
_POSTGRES_EPOCH = pd.Timestamp("2000-01-01", tz="UTC")
_LAB_COLUMNS = {
    **dict.fromkeys(("dti", "revol_util", "int_rate", "delinq_2yrs", "inq_last_6mths"), "f8"),
    "loan_amnt": "f8",
    "status": "i2",
    "source_id": "i4",
    "partition": "i4",
    "offset": "i8",
    "scored_at": "i8",
}


@dataclass(frozen=True)
class LabSample:
    """The newest applications, for the policy lab; every array has shape (n,), newest first.

    Attributes:
        active: the policy that scored last; None when nothing was scored yet.
        features: the columns that `policy_lab.Applications` has of them.
        status: positions in `STATUSES`; 0 is any other.
        keys: `source_id`, `partition`, `offset` and `scored_at` (microseconds since 2000).
    """

    as_of: pd.Timestamp
    active: Policy | None
    features: Columns
    status: npt.NDArray[np.int16]
    keys: Columns

    def scored_at(self, position: int) -> pd.Timestamp:
        """When the application at a position was scored."""
        return _POSTGRES_EPOCH + pd.Timedelta(int(self.keys["scored_at"][position]), "us")


@st.cache_resource(scope="session", max_entries=1, show_spinner="Reading the applications")
def lab_sample(applications: int, reading: int) -> LabSample:
    """Read the newest applications, once for each session and `reading`.

    It takes about 75 bytes an application, which the session keeps until it asks for others.
    """
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        as_of, document = db.execute(
            text("""
                SELECT now(), (SELECT document FROM policies WHERE policy_id =
                    (SELECT policy_id FROM batches ORDER BY committed_at DESC LIMIT 1))
            """)
        ).one()
        driver = cast("psycopg.Connection[Any]", db.connection.driver_connection)
        driver.execute(
            "SELECT set_config('statement_timeout', %s, true)", (f"{_LAB_TIMEOUT_SECONDS}s",)
        )
        columns = read_columns(
            driver,
            """
            SELECT dti, coalesce(revol_util, 'NaN'), int_rate, coalesce(delinq_2yrs, 'NaN'),
                   coalesce(inq_last_6mths, 'NaN'), loan_amnt,
                   coalesce(array_position(%(statuses)s::text[], loan_status), 0)::int2,
                   source_id, partition, "offset", scored_at
              FROM scored_applications
             WHERE scored_at >= %(since)s
            """,
            {"since": _lab_start(db, applications), "statuses": list(STATUSES[1:])},
            _LAB_COLUMNS,
        )
    newest = np.lexsort((columns["offset"], columns["scored_at"]))[::-1][:applications]
    for name in _LAB_COLUMNS:  # one by one: there is never a second copy of all
        columns[name] = columns[name][newest]
    keys = {name: columns.pop(name) for name in ("source_id", "partition", "offset", "scored_at")}
    return LabSample(
        as_of=pd.Timestamp(as_of),
        active=None if document is None else parse_policy(document, "of the newest batch"),
        status=columns.pop("status"),
        features=columns,
        keys=keys,
    )


def _lab_start(db: Connection, applications: int) -> datetime:
    """The time since which so many were scored, or a few more: whole transactions.

    The rollup tells the minute, and the minute's own rows the transaction. So the cost does not
    depend on how many there are.
    """
    minute = db.execute(
        text("""
            SELECT minute, running - scored AS later
              FROM (SELECT minute, sum(applications) AS scored,
                           sum(sum(applications)) OVER (ORDER BY minute DESC) AS running
                      FROM risk_by_minute WHERE risk_tier <> 'Rejected'
                     GROUP BY minute ORDER BY minute DESC) AS minutes
             WHERE running >= :applications LIMIT 1
        """),
        {"applications": applications},
    ).one_or_none()
    if minute is None:
        return datetime.min.replace(tzinfo=UTC)
    start = db.execute(
        text("""
            SELECT scored_at
              FROM (SELECT scored_at, sum(count(*)) OVER (ORDER BY scored_at DESC) AS running
                      FROM scored_applications
                     WHERE scored_at >= :minute AND scored_at < :minute + interval '1 minute'
                     GROUP BY scored_at) AS transactions
             WHERE :later + running >= :applications ORDER BY scored_at DESC LIMIT 1
        """),
        {"applications": applications, **minute._mapping},
    ).scalar_one_or_none()
    return cast(datetime, start or minute.minute)


def lab_applications(sample: LabSample, positions: npt.NDArray[np.intp]) -> pd.DataFrame:
    """The applications at positions of a sample, as far as they still exist, in that order:
    `position`, `loan_id`, `scored_at`, `loan_amnt` (USD), `dti`, `revol_util`, `int_rate`
    (percent), `delinq_2yrs`, `inq_last_6mths`, `purpose`, `grade`, `addr_state`, `loan_status`."""
    keys = {name: values[positions].tolist() for name, values in sample.keys.items()}
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        result = db.execute(
            text("""
                SELECT k.position, loan_id, scored_at, loan_amnt, dti, revol_util, int_rate,
                       delinq_2yrs, inq_last_6mths, purpose, grade, addr_state, loan_status
                  FROM unnest(CAST(:positions AS bigint[]), CAST(:source_id AS integer[]),
                              CAST(:partition AS integer[]), CAST(:offset AS bigint[]),
                              CAST(:scored_at AS timestamptz[]))
                       WITH ORDINALITY
                       AS k (position, source_id, partition, "offset", scored_at, place)
                  JOIN scored_applications USING (source_id, partition, "offset", scored_at)
                 ORDER BY place
            """),
            {
                **keys,
                "positions": positions.tolist(),
                "scored_at": [sample.scored_at(at).to_pydatetime() for at in positions],
            },
        )
        return pd.DataFrame(result.all(), columns=list(result.keys()))
