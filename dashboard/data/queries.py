"""All SQL of the dashboard: read-only, from the rollups, cached for a second for all viewers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import psycopg
import streamlit as st
from pydantic import ValidationError
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from streamlit.connections import BaseConnection

from credit_risk_dagster.domain.latency import percentile
from credit_risk_dagster.domain.model.outcome import BUILTIN_OUTCOMES, load_outcome
from credit_risk_dagster.domain.policy import TIERS, Policy, parse_policy
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings
from dashboard.parts.periods import PERIODS, Buckets, buckets
from resources.postgres.columns import Columns, read_columns
from resources.postgres.connection import Warehouse

PROBLEMS = (PlatformError, SQLAlchemyError, psycopg.Error, ValidationError)
"""What any of these queries may raise; `live.explain` says it to the viewer."""

OUTCOMES = (*TIERS, "Rejected")
SEGMENT_COLUMNS = ("purpose", "grade", "addr_state", "term_months", "amount_from")
AMOUNTS_FROM = (0, 5_000, 10_000, 15_000, 25_000)  # as the view application_segments has them
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
class Segment:
    """Which applications to look at: those with one of the values, in each column that has any."""

    purpose: tuple[str, ...] = ()
    grade: tuple[str, ...] = ()
    addr_state: tuple[str, ...] = ()
    term_months: tuple[int, ...] = ()
    amount_from: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return any(vars(self).values())


EVERYTHING = Segment()


@dataclass(frozen=True)
class Totals:
    """Applications of a period; amounts in USD."""

    applications: int
    elevated: int
    watchlist: int
    loan_amnt: float
    watchlist_amnt: float
    rejected: int | None
    """Rejected events; None for a segment: what cannot be read belongs to none."""

    def share(self, name: str) -> float:
        """Share of the Watchlist, of Elevated or of rejected events (among all); NaN of none."""
        part = getattr(self, name)
        whole = self.applications + (self.rejected or 0 if name == "rejected" else 0)
        return math.nan if part is None or not whole else part / whole


@dataclass(frozen=True)
class Overview:
    """What the Overview page shows, from one snapshot of the database.

    Attributes:
        latency, latency_before: of the period and of the one before.
        volume: one row for each bucket, indexed by its start; a column of counts for each of
            `OUTCOMES`, `watchlist_amnt` (USD), and `end`. The last bucket is not over.
        totals, before: of the period and of the one before, as long and up to the same moment;
            before is None for the period that has no beginning.
    """

    progress: Progress
    latency: Latency
    latency_before: Latency
    buckets: Buckets
    volume: pd.DataFrame
    totals: Totals
    before: Totals | None

    @property
    def scored(self) -> dict[str, int]:
        """Scored applications of the period by tier, the riskiest first."""
        return {tier: int(self.volume[tier].sum()) for tier in reversed(TIERS)}


@dataclass(frozen=True)
class Breakdown:
    """Where the risk is.

    Attributes:
        since: beginning of the period.
        rows: one for each value of each of `SEGMENT_COLUMNS`: `dimension`, `value_of` (as text; ''
            and a term of '0' are unknown), `applications`, `elevated`, `watchlist`, `loan_amnt`,
            `watchlist_amnt` (USD).
    """

    as_of: pd.Timestamp
    since: pd.Timestamp
    rows: pd.DataFrame


_BREAKDOWN = [
    *("dimension", "value_of", "applications", "elevated", "watchlist"),
    *("loan_amnt", "watchlist_amnt"),
]


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


def _warehouse() -> Warehouse:
    return Warehouse(WarehouseSettings().of_dashboard())


def _open() -> psycopg.Connection[Any]:
    connection = _warehouse().connect("dashboard", autocommit=False)
    # A page that refreshes every two seconds must rather fail than queue up behind itself, and
    # compiling costs more than these short queries.
    connection.execute(
        "SELECT set_config('statement_timeout', '5s', false), set_config('jit', 'off', false)"
    )
    connection.commit()
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


# --- overview -----------------------------------------------------------------------------------


@st.cache_data(ttl=1, max_entries=100, show_spinner=False)
def overview(period: str, zone: str, segment: Segment = EVERYTHING) -> Overview:
    """The key figures of one of `PERIODS`, with times in a zone.

    Those of a segment come from a rollup by hour: its buckets are no shorter, and in zones half an
    hour off, half an hour may be in the next one.
    """
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        progress, rollup = _progress(db), _rollup(db)
        length = PERIODS[period].length
        cut = _cut(period, zone, segment, progress, rollup)
        since = cut.edges[0].to_pydatetime()
        if segment:
            volume = _segment_volume(db, cut.edges, segment, rollup)
        else:
            volume = _volume(db, cut.edges)
        now = progress.as_of.to_pydatetime()
        earlier = None if length is None else since - (now - since)
        return Overview(
            progress=progress,
            latency=_latency(db, since, now),
            latency_before=Latency(math.nan, math.nan)
            if earlier is None
            else _latency(db, earlier, since),
            buckets=cut,
            volume=volume,
            totals=_totals(volume, segment),
            before=None if earlier is None else _before(db, earlier, since, segment, rollup),
        )


@st.cache_data(ttl=30, max_entries=100, show_spinner=False)
def breakdown(period: str, zone: str, segment: Segment = EVERYTHING) -> Breakdown:
    """The applications of a period by each of `SEGMENT_COLUMNS`."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        progress, rollup = _progress(db), _rollup(db)
        cut = _cut(period, zone, segment, progress, rollup)
        since = None if PERIODS[period].length is None else cut.edges[0].to_pydatetime()
        query, parameters = _segment_query(
            """
            SELECT CASE GROUPING(purpose, grade, addr_state, term_months, amount_from)
                       WHEN 15 THEN 'purpose' WHEN 23 THEN 'grade' WHEN 27 THEN 'addr_state'
                       WHEN 29 THEN 'term_months' ELSE 'amount_from' END AS dimension,
                   coalesce(purpose, grade, addr_state, term_months::text, amount_from::text)
                       AS value_of,
                   sum(applications)::bigint AS applications, sum(elevated)::bigint AS elevated,
                   sum(watchlist)::bigint AS watchlist, sum(loan_amnt) AS loan_amnt,
                   sum(watchlist_amnt) AS watchlist_amnt
              FROM cells
             GROUP BY GROUPING SETS
                   ((purpose), (grade), (addr_state), (term_months), (amount_from))
            """,
            segment,
            rollup.pieces(since, None),
            by="segment",
        )
        rows = pd.DataFrame(
            db.execute(text(query), parameters).mappings().all(), columns=_BREAKDOWN
        )
        begins = rollup.edge(cut.edges[0].to_pydatetime())
        return Breakdown(progress.as_of, pd.Timestamp(begins).tz_convert(zone), rows)


def _cut(
    period: str, zone: str, segment: Segment, progress: Progress, rollup: "_Rollup"
) -> Buckets:
    first = progress.first_minute
    return buckets(
        PERIODS[period],
        progress.as_of.tz_convert(zone),
        None if first is None else first.tz_convert(zone),
        finest=rollup.grain(progress.as_of, PERIODS[period].length) if segment else None,
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


def _latency(db: Connection, since: datetime, until: datetime) -> Latency:
    histogram: Sequence[int] | None = db.execute(
        text("""
            WITH newest AS (
                SELECT latency_buckets FROM batches
                 WHERE committed_at >= :since AND committed_at <= :until
                 ORDER BY committed_at DESC LIMIT :batches
            ), summed AS (
                SELECT bucket, sum(events)::bigint AS events
                  FROM newest, unnest(latency_buckets) WITH ORDINALITY AS _ (events, bucket)
                 GROUP BY bucket
            )
            SELECT array_agg(events ORDER BY bucket) FROM summed
        """),
        {"since": since, "until": until, "batches": LATENCY_BATCHES},
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
                   risk_tier, sum(applications)::bigint AS applications,
                   sum(loan_amnt) AS loan_amnt
              FROM risk_by_minute
             WHERE minute >= :first AND minute < :last
             GROUP BY bucket, risk_tier
        """),
        {"edges": edges, "first": edges[0], "last": edges[-1]},
    )
    counts = _no_counts(len(edges) - 1)
    for bucket, outcome, applications, amount in rows:
        counts.loc[bucket, outcome] = applications
        counts.loc[bucket, "loan_amnt"] += amount
        if outcome == "Watchlist":
            counts.loc[bucket, "watchlist_amnt"] = amount
    return counts


def _no_counts(length: int) -> pd.DataFrame:
    amounts = dict.fromkeys(("loan_amnt", "watchlist_amnt"), 0.0)
    return pd.DataFrame({**dict.fromkeys(OUTCOMES, 0), **amounts}, index=range(length))


def _totals(volume: pd.DataFrame, segment: Segment) -> Totals:
    return Totals(
        applications=int(volume[list(TIERS)].to_numpy().sum()),
        elevated=int(volume["Elevated"].sum()),
        watchlist=int(volume["Watchlist"].sum()),
        loan_amnt=float(volume["loan_amnt"].sum()),
        watchlist_amnt=float(volume["watchlist_amnt"].sum()),
        rejected=None if segment else int(volume["Rejected"].sum()),
    )


def _before(
    db: Connection, since: datetime, until: datetime, segment: Segment, rollup: "_Rollup"
) -> Totals:
    if segment:
        query, parameters = _segment_query(
            f"SELECT {_SUMS}, NULL AS rejected FROM cells",  # noqa: S608 (a constant)
            segment,
            rollup.pieces(since, until),
            by="time",
        )
    else:
        query = """
            SELECT coalesce(sum(applications) FILTER (WHERE risk_tier <> 'Rejected'), 0)::bigint
                       AS applications,
                   coalesce(sum(applications) FILTER (WHERE risk_tier = 'Elevated'), 0)::bigint
                       AS elevated,
                   coalesce(sum(applications) FILTER (WHERE risk_tier = 'Watchlist'), 0)::bigint
                       AS watchlist,
                   coalesce(sum(loan_amnt), 0) AS loan_amnt,
                   coalesce(sum(loan_amnt) FILTER (WHERE risk_tier = 'Watchlist'), 0)
                       AS watchlist_amnt,
                   coalesce(sum(applications) FILTER (WHERE risk_tier = 'Rejected'), 0)::bigint
                       AS rejected
              FROM risk_by_minute WHERE minute >= :since AND minute < :until
        """
        parameters = {"since": since, "until": until}
    return Totals(**db.execute(text(query), parameters).mappings().one())


# --- segments: hours of the rollup, and what is not in it from the applications themselves -------

_SUMS = """
    coalesce(sum(applications), 0)::bigint AS applications,
    coalesce(sum(elevated), 0)::bigint AS elevated,
    coalesce(sum(watchlist), 0)::bigint AS watchlist,
    coalesce(sum(loan_amnt), 0) AS loan_amnt,
    coalesce(sum(watchlist_amnt), 0) AS watchlist_amnt
"""


@dataclass(frozen=True)
class _Rollup:
    """How far `segments_by_hour` is, and up to when its hours are merged to days."""

    rolled_up_to: datetime
    merged_to: datetime

    def grain(self, now: pd.Timestamp, length: pd.Timedelta | None) -> pd.Timedelta:
        """The shortest buckets that a period up to now can have."""
        if length is not None and length <= _SHORT / 2:
            return pd.Timedelta("1min")
        if length is not None and now - length >= self.merged_to:
            return pd.Timedelta("1h")
        return pd.Timedelta("1D")

    def pieces(self, since: datetime | None, until: datetime | None) -> dict[str, datetime]:
        """A period (None is without end) as whole hours of the rollup, first <= hour < last, and
        two stretches that have to be counted in the applications: head and tail. What begins not
        long before the rollup's end is counted there as a whole. Where hours are merged to days, a
        period begins and ends with a day (UTC)."""
        since, until = self.edge(since or _EVER), self.edge(until or _NEVER)
        first = since if since < self.merged_to else _hour(since, up=True)
        last = until if until < self.merged_to or until == _NEVER else _hour(until, up=False)
        if until > self.rolled_up_to:
            last = _NEVER
        if first > last or since > self.rolled_up_to - _SHORT:
            first = last = head = tail = since
        else:
            head, tail = first, min(max(last, since), self.rolled_up_to)
        return {
            "first": first,
            "last": last,
            "head_from": since,
            "head_to": head,
            "tail_from": tail,
            "tail_to": until,
        }

    def edge(self, moment: datetime) -> datetime:
        """The moment, or the beginning of its day where there are only days."""
        if moment >= self.merged_to:
            return moment
        return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _hour(moment: datetime, *, up: bool) -> datetime:
    begun = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return begun + timedelta(hours=1) if up and begun < moment else begun


_SHORT = timedelta(hours=2)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = datetime(9000, 1, 1, tzinfo=UTC)


def _rollup(db: Connection) -> _Rollup:
    row = db.execute(
        text("""
            SELECT greatest(rolled_up_to, :ever) AS rolled_up_to,
                   greatest(merged_to, :ever) AS merged_to
              FROM segments_progress
        """),
        {"ever": _EVER},
    ).one()
    return _Rollup(row.rolled_up_to, row.merged_to)


def _segment_query(
    query: str, segment: Segment, pieces: dict[str, datetime], *, by: str
) -> tuple[str, dict[str, Any]]:
    """A query over `cells`: counts and amounts of the segment's applications; with its parameters.

    Args:
        by: what a cell has besides: `segment`, the columns of `Segment`; or `time`, its hour or
            moment, as `at`.
    """
    chosen = {column: list(values) for column, values in vars(segment).items() if values}
    # Only names of columns go into the text; what the viewer chose are parameters.
    where = " AND ".join(f"{column} = ANY (:{column})" for column in chosen) or "true"
    columns = ", ".join(vars(segment)) if by == "segment" else "at"
    key = "segment_id" if by == "segment" else "hour AS at"
    join = "JOIN segments USING (segment_id)" if by == "segment" else ""
    applications = f"""
        SELECT {columns}, 1 AS applications, (risk_tier = 'Elevated')::int AS elevated,
               (risk_tier = 'Watchlist')::int AS watchlist, loan_amnt,
               CASE risk_tier WHEN 'Watchlist' THEN loan_amnt ELSE 0 END AS watchlist_amnt
          FROM (SELECT scored_at AS at, * FROM application_segments) AS _
         WHERE {where}
    """  # noqa: S608
    # Summed up by the number of the segment, before its texts are looked up and compared.
    cells = f"""
        WITH counted AS MATERIALIZED (
            SELECT {key}, {_SUMS}
              FROM segments_by_hour
             WHERE hour >= :first AND hour < :last
               AND segment_id IN (SELECT segment_id FROM segments WHERE {where})
             GROUP BY 1
        ), cells AS (
            SELECT {columns}, applications, elevated, watchlist, loan_amnt, watchlist_amnt
              FROM counted {join}
             UNION ALL {applications} AND scored_at >= :head_from AND scored_at < :head_to
             UNION ALL {applications} AND scored_at >= :tail_from AND scored_at < :tail_to
        )
    """  # noqa: S608
    return cells + query, {**pieces, **chosen}


def _segment_volume(
    db: Connection, edges: pd.DatetimeIndex, segment: Segment, rollup: _Rollup
) -> pd.DataFrame:
    moments = edges.to_pydatetime().tolist()
    query, parameters = _segment_query(
        f"""
        SELECT greatest(width_bucket(at, CAST(:edges AS timestamptz[])) - 1, 0) AS bucket, {_SUMS}
          FROM cells GROUP BY bucket
        """,  # noqa: S608
        segment,
        rollup.pieces(moments[0], moments[-1]),
        by="time",
    )
    counts = _no_counts(len(edges) - 1)
    for row in db.execute(text(query), parameters | {"edges": moments}):
        counts.loc[row.bucket, list(counts.columns)] = (
            *(row.applications - row.elevated - row.watchlist, row.elevated, row.watchlist, 0),
            *(row.loan_amnt, row.watchlist_amnt),
        )
    return counts.assign(end=edges[1:]).set_index(edges[:-1].rename("start"))


# --- watchlist ----------------------------------------------------------------------------------

Key = tuple[int, int, int]
"""Source, partition and offset of an application."""

SORTS = {
    "Newest": "scored_at DESC",
    "Largest amount": "loan_amnt DESC",
    "Highest PD": "pd DESC NULLS LAST",
    "Highest DTI": "dti DESC",
    "Highest rate": "int_rate DESC",
    "Highest utilization": "revol_util DESC NULLS LAST",
}
REVIEW_STATES = ("All", "Open", "Reviewed")
WATCHLIST_ROWS = 500
EXPORT_ROWS = 200_000


@dataclass(frozen=True)
class Flagged:
    """Which applications of the Watchlist: scored from `since` (None is ever) up to `until`, of a
    segment, with any of the reasons, in one of `REVIEW_STATES`; or those of one loan, of any tier.
    """

    until: datetime
    since: datetime | None = None
    segment: Segment = EVERYTHING
    reasons: tuple[str, ...] = ()
    review: str = "All"
    sort: str = "Newest"
    loan_id: str = ""


@dataclass(frozen=True)
class Watchlist:
    """The first `WATCHLIST_ROWS` of the matching applications, in order.

    Attributes:
        matching, loan_amnt: how many there are, and their amounts (USD).
        rows: `source_id`, `partition`, `offset`, `loan_id`, `scored_at`, `risk_tier`, `loan_amnt`
            (USD), `dti`, `int_rate`, `revol_util` (percent), `pd`, `reasons` (list of codes),
            `grade`, `purpose`, `addr_state`; `reviewed_at` and `reviewer` of the last review.
    """

    matching: int
    loan_amnt: float
    rows: pd.DataFrame


@st.cache_data(ttl=5, max_entries=50, show_spinner=False)
def watchlist(flagged: Flagged, zone: str) -> Watchlist:
    """The matching applications, with times in a zone."""
    where, parameters = _flagged(flagged)
    order = f'{SORTS[flagged.sort]}, scored_at DESC, source_id, partition, "offset" DESC'
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        total = db.execute(
            text(
                "SELECT count(*) AS matching, coalesce(sum(loan_amnt), 0) AS loan_amnt"  # noqa: S608
                f" FROM scored_applications s WHERE {where}"
            ),
            parameters,
        ).one()
        rows = _frame(
            db,
            f"""
            WITH first AS MATERIALIZED (  -- in the index alone; the rows are fetched after that
                SELECT source_id, partition, "offset", scored_at FROM scored_applications s
                 WHERE {where} ORDER BY {order} LIMIT :rows
            )
            SELECT s.source_id, s.partition, s."offset", s.loan_id, s.scored_at, s.risk_tier,
                   s.loan_amnt, s.dti, s.int_rate, s.revol_util, s.pd, s.reasons, s.grade,
                   s.purpose, s.addr_state, review.reviewed_at, review.reviewer
              FROM first
              JOIN scored_applications s USING (source_id, partition, "offset", scored_at)
              LEFT JOIN LATERAL (
                   SELECT reviewed_at, reviewer FROM application_reviews r
                    WHERE r.source_id = s.source_id AND r.partition = s.partition
                      AND r."offset" = s."offset"
                    ORDER BY review_id DESC LIMIT 1
              ) AS review ON true
             ORDER BY {order}
            """,  # noqa: S608 (see _flagged; the order is one of SORTS)
            zone,
            **parameters,
            rows=WATCHLIST_ROWS,
        )
    return Watchlist(total.matching, float(total.loan_amnt), rows)


def watchlist_csv(flagged: Flagged) -> bytes:
    """The matching applications in the same order, at most `EXPORT_ROWS`, as CSV with a header.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    where, parameters = _flagged(flagged)
    texts = ", ".join(
        f"CASE WHEN {name} ~ '^[-=+@\\t\\r]' THEN '''' || {name} ELSE {name} END AS {name}"
        for name in ("loan_id", "purpose", "grade", "addr_state")
    )
    query = f"""
        COPY (
            SELECT source_id, partition, "offset", scored_at, {texts}, risk_tier, loan_amnt,
                   annual_inc, dti, int_rate, revol_util, delinq_2yrs, inq_last_6mths,
                   credit_history_years, term_months, dti_band, util_band, rate_band,
                   array_to_string(reasons, '; ') AS reasons, pd, policy_id, model_id,
                   {_REVIEWED} AS reviewed
              FROM scored_applications s WHERE {where}
             ORDER BY {SORTS[flagged.sort]}, scored_at DESC, source_id, partition, "offset" DESC
             LIMIT :rows
        ) TO STDOUT (FORMAT csv, HEADER)
    """  # noqa: S608 (see _flagged; the order is one of SORTS)
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        db.execute(text("SET LOCAL statement_timeout = '60s'"))
        # A COPY has no parameters on the server: the driver quotes them into its text.
        statement = text(query).compile(db.engine)
        values = statement.construct_params(parameters | {"rows": EXPORT_ROWS})
        driver = cast("psycopg.Connection[Any]", db.connection.driver_connection)
        with driver.cursor().copy(str(statement), values) as copy:
            return b"".join(bytes(block) for block in copy)


_REVIEWED = """EXISTS (SELECT FROM application_reviews r WHERE r.source_id = s.source_id
                          AND r.partition = s.partition AND r."offset" = s."offset")"""
_COLUMNS = {
    "purpose": "coalesce(s.purpose, '')",
    "grade": "coalesce(s.grade, '')",
    "addr_state": "coalesce(s.addr_state, '')",
    "term_months": "CASE WHEN s.term_months IN (36, 60) THEN s.term_months ELSE 0 END",
    "amount_from": "(CAST(:amounts AS int[]))[width_bucket(s.loan_amnt,"
    " CAST(:amounts AS float8[]))]",
}


def _flagged(flagged: Flagged) -> tuple[str, dict[str, Any]]:
    """The condition on `scored_applications s`, of constants alone, and its parameters."""
    if flagged.loan_id:
        return "s.loan_id = :loan_id", {"loan_id": flagged.loan_id}
    # The tier is a literal, because only then the partial index scored_applications_watchlist fits.
    conditions = ["s.risk_tier = 'Watchlist'", "s.scored_at <= :until"]
    parameters: dict[str, Any] = {"until": flagged.until}
    if flagged.since is not None:
        conditions.append("s.scored_at >= :since")
        parameters["since"] = flagged.since
    for column, values in vars(flagged.segment).items():
        if values:
            conditions.append(f"{_COLUMNS[column]} = ANY (:{column})")
            parameters[column] = list(values)
    if flagged.segment.amount_from:
        parameters["amounts"] = list(AMOUNTS_FROM)
    if flagged.reasons:
        conditions.append("s.reasons && CAST(:reasons AS text[])")
        parameters["reasons"] = list(flagged.reasons)
    if flagged.review != "All":
        conditions.append(f"{_REVIEWED} = :reviewed")
        parameters["reviewed"] = flagged.review == "Reviewed"
    return " AND ".join(conditions), parameters


@st.cache_data(ttl=60, show_spinner=False)
def purposes() -> tuple[str, ...]:
    """Every purpose that there is."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        # What the rollup does not have yet; of a long backlog, what is newest.
        since = max(_rollup(db).rolled_up_to, datetime.now(UTC) - timedelta(hours=1))
        rows = db.execute(
            text("""
                SELECT purpose FROM segments
                 UNION SELECT purpose FROM application_segments WHERE scored_at >= :since
                 ORDER BY 1
            """),
            {"since": since},
        )
        return tuple(rows.scalars())


@st.cache_data(ttl=60, show_spinner=False)
def reason_codes() -> tuple[str, ...]:
    """The reasons of every policy that ever scored."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        documents = db.execute(text("SELECT document FROM policies ORDER BY policy_id")).scalars()
        policies = map(Policy.model_validate_json, documents)
        return tuple(dict.fromkeys(code for policy in policies for code in policy.reason_codes))


@st.cache_data(ttl=1, show_spinner=False)
def newer_on_watchlist(since: datetime) -> int:
    """How many were flagged after a moment; not more than a thousand are counted."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        newer = db.execute(
            text("""
                SELECT count(*) FROM (
                    SELECT FROM scored_applications
                     WHERE risk_tier = 'Watchlist' AND scored_at > :since LIMIT 1000
                ) AS newer
            """),
            {"since": since},
        )
        return int(newer.scalar_one())


@dataclass(frozen=True)
class Application:
    """One decision, and where it came from.

    Attributes:
        row: the columns of `scored_applications`; also `policy` and `model` (their versions),
            `run_id`, `topic` and `cluster_id`.
        redriven: `reason`, `redriven_at` and `run_id` of one that had been rejected first.
        decisions: every decision on the same loan, newest first: `scored_at`, `risk_tier`, `pd`,
            `policy`, `source_id`, `partition`, `offset`.
        reviews: newest first: `reviewed_at`, `reviewer`, `note`.
    """

    row: dict[str, Any]
    redriven: dict[str, Any] | None
    decisions: pd.DataFrame
    reviews: pd.DataFrame


@st.cache_data(ttl=1, max_entries=50, show_spinner=False)
def application(key: Key, zone: str) -> Application | None:
    """The application at a source, partition and offset, with times in a zone."""
    at = dict(zip(("source_id", "partition", "offset"), key, strict=True))
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        rows = db.execute(text(_APPLICATION), at).mappings().all()
        if not rows:
            return None
        redriven = db.execute(text(_REDRIVEN), at).mappings().all()
        return Application(
            dict(rows[0]),
            dict(redriven[0]) if redriven else None,
            _frame(db, _DECISIONS, zone, loan_id=rows[0]["loan_id"]),
            _frame(db, _REVIEWS, zone, **at),
        )


_APPLICATION = """
    SELECT s.*, p.name || '@' || left(p.content_hash, 12) AS policy, m.version AS model,
           o.topic, o.cluster_id, b.run_id
      FROM scored_applications s
      JOIN policies p USING (policy_id)
      JOIN sources o USING (source_id)
      LEFT JOIN models m USING (model_id)
      LEFT JOIN LATERAL (SELECT run_id FROM batches WHERE batch_id = s.batch_id) AS b ON true
     WHERE s.source_id = :source_id AND s.partition = :partition AND s."offset" = :offset
     ORDER BY s.scored_at DESC LIMIT 1
"""

_REDRIVEN = """
    SELECT reason, redriven_at, run_id FROM redriven_events
     WHERE source_id = :source_id AND partition = :partition AND "offset" = :offset
"""

_DECISIONS = """
    SELECT scored_at, risk_tier, pd, p.name || '@' || left(p.content_hash, 12) AS policy,
           source_id, partition, "offset"
      FROM scored_applications JOIN policies p USING (policy_id)
     WHERE loan_id = :loan_id ORDER BY scored_at DESC LIMIT 50
"""

_REVIEWS = """
    SELECT reviewed_at, reviewer, note FROM application_reviews
     WHERE source_id = :source_id AND partition = :partition AND "offset" = :offset
     ORDER BY review_id DESC
"""


NUMBERS = (
    *("loan_amnt", "annual_inc", "dti", "int_rate", "revol_util", "delinq_2yrs"),
    *("inq_last_6mths", "credit_history_years", "emp_length_yrs", "term_months"),
)
POPULATION_ROWS = 20_000


@dataclass(frozen=True)
class Population:
    """The percentiles 0 to 100 of each of `NUMBERS`, over the newest applications; None where
    no application has a value."""

    applications: int
    percentiles: dict[str, list[float] | None]

    def rank(self, column: str, value: float | None) -> float | None:
        """Share of the population (0 to 1) below the value, half of its equals among them."""
        steps = self.percentiles[column]
        if value is None or steps is None:
            return None
        below, not_above = (np.searchsorted(steps, value, side) for side in ("left", "right"))
        return float(np.clip((below + not_above - 1) / 200, 0, 1))


@st.cache_data(ttl="10min", show_spinner=False)
def population() -> Population:
    """What the applications of late are like: the newest batches of `POPULATION_ROWS` together."""
    percentiles = ", ".join(
        f"percentile_cont(CAST(:steps AS float8[])) WITHIN GROUP (ORDER BY {name}) AS {name}"
        for name in NUMBERS
    )
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        since = db.execute(
            text("""
                SELECT min(committed_at) - interval '1 minute' FROM (
                    SELECT committed_at,
                           sum(scored) OVER (ORDER BY committed_at DESC) - scored AS newer
                      FROM (SELECT committed_at, scored FROM batches
                             ORDER BY committed_at DESC LIMIT :rows) AS newest
                ) AS _ WHERE newer < :rows
            """),
            {"rows": POPULATION_ROWS},
        ).scalar_one()
        row = db.execute(
            text(f"""
                SELECT count(*) AS applications, {percentiles}
                  FROM (SELECT * FROM scored_applications WHERE scored_at >= :since
                         LIMIT {2 * POPULATION_ROWS}) AS newest
            """),  # noqa: S608 (constants)
            {"since": since or _NEVER, "steps": [step / 100 for step in range(101)]},
        )
        found = dict(row.mappings().one())
        return Population(found.pop("applications"), found)


def review(key: Key, reviewer: str, note: str) -> None:
    """Record that somebody looked at an application: all that the dashboard ever writes."""
    with _warehouse().session("dashboard review") as connection:
        connection.execute("SELECT review_application(%s, %s, %s, %s, %s)", (*key, reviewer, note))
    application.clear()
    watchlist.clear()


# --- operations ---------------------------------------------------------------------------------

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
            `scored`, `rejected`, `gaps`, `updated_at`, `archived` (offsets), `objects`, `bytes`,
            `verified` (objects), `lost` (events), `archived_at`.
        reasons: of the events rejected in the last 7 days: `reason`, `events`, `last`.
        rejected: the newest of all: `rejected_at`, `reason`, `source_id`, `partition`, `offset`.
        redriven: how many events were scored after they had been rejected.
    """

    as_of: pd.Timestamp
    minutes: pd.DataFrame
    batches: pd.DataFrame
    partitions: pd.DataFrame
    reasons: pd.DataFrame
    rejected: pd.DataFrame
    redriven: int


@st.cache_data(ttl=1, max_entries=20, show_spinner=False)
def operations(zone: str) -> Operations:
    """What the pipeline did of late, with times in a zone."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        as_of = pd.Timestamp(db.execute(text("SELECT now()")).scalar_one()).tz_convert(zone)
        return Operations(
            as_of=as_of,
            minutes=_minutes(db, as_of),
            batches=_batches(db, zone),
            partitions=_frame(db, _PARTITIONS, zone),
            reasons=_frame(db, _REJECT_REASONS, zone),
            rejected=_frame(db, _REJECTED, zone, rows=REJECTED_ROWS),
            redriven=db.execute(text("SELECT count(*) FROM redriven_events")).scalar_one(),
        )


def _minutes(db: Connection, as_of: pd.Timestamp) -> pd.DataFrame:
    starts = pd.date_range(end=as_of.floor("min"), periods=MINUTES, freq="min", name="minute")
    since = {"since": starts[0].to_pydatetime()}
    minutes = pd.DataFrame(
        {"scored": 0, "rejected": 0, "p50": math.nan, "p95": math.nan}, index=starts
    )
    events = db.execute(
        text("""
            SELECT minute, sum(applications) FILTER (WHERE risk_tier <> 'Rejected') AS scored,
                   sum(applications) FILTER (WHERE risk_tier = 'Rejected') AS rejected
              FROM risk_by_minute WHERE minute >= :since GROUP BY minute
        """),
        since,
    )
    for minute, scored, rejected in events:
        minutes.loc[pd.Timestamp(minute), ["scored", "rejected"]] = (
            int(scored or 0),
            int(rejected or 0),
        )
    latencies = db.execute(
        text("""
            SELECT minute, array_agg(events ORDER BY bucket) FROM (
                SELECT date_trunc('minute', committed_at) AS minute, bucket,
                       sum(events)::bigint AS events
                  FROM batches, unnest(latency_buckets) WITH ORDINALITY AS _ (events, bucket)
                 WHERE committed_at >= :since GROUP BY 1, 2
            ) AS counted GROUP BY minute
        """),
        since,
    )
    for minute, histogram in latencies:
        minutes.loc[pd.Timestamp(minute), ["p50", "p95"]] = (
            *(percentile(histogram, 50), percentile(histogram, 95)),
        )
    return minutes


def _batches(db: Connection, zone: str) -> pd.DataFrame:
    frame = _frame(
        db,
        """
        SELECT committed_at, run_id, lane, scored, rejected, gaps, watchlist, fetch_ms, decode_ms,
               score_ms, copy_ms, latency_buckets
          FROM batches ORDER BY committed_at DESC LIMIT :rows
        """,
        zone,
        rows=BATCH_ROWS,
    )
    histograms = frame.pop("latency_buckets")
    return frame.assign(
        p50=[percentile(h, 50) for h in histograms], p95=[percentile(h, 95) for h in histograms]
    )


_PARTITIONS = """
    SELECT o.source_id, s.topic, s.cluster_id, o.partition, o.first_offset, o.next_offset,
           o.scored, o.rejected, o.gaps, o.updated_at, a.archived, a.objects, a.bytes, a.verified,
           a.lost, a.archived_at
      FROM stream_offsets o JOIN sources s USING (source_id)
      LEFT JOIN LATERAL (
           SELECT coalesce(sum(next_offset - first_offset), 0)::bigint AS archived,
                  count(key) AS objects, coalesce(sum(bytes), 0)::bigint AS bytes,
                  count(verified_at) AS verified, coalesce(sum(lost), 0)::bigint AS lost,
                  max(archived_at) AS archived_at
             FROM archive_objects a
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
     ORDER BY rejected_at DESC LIMIT :rows
"""


def _frame(db: Connection, query: str, zone: str, **parameters: Any) -> pd.DataFrame:
    """The rows of a query, with its times in a zone."""
    result = db.execute(text(query), parameters)
    frame = pd.DataFrame(result.all(), columns=list(result.keys()))
    for column in frame.columns.intersection([*_TIMES]):
        frame[column] = pd.to_datetime(frame[column], utc=True).dt.tz_convert(zone)
    return frame


_TIMES = (
    *("scored_at", "reviewed_at", "committed_at", "updated_at", "archived_at", "rejected_at"),
    *("created_at", "activated_at", "retired_at", "window_start", "window_end", "last"),
)


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


# --- drift --------------------------------------------------------------------------------------

DRIFT_REPORTS = 500


@dataclass(frozen=True)
class DriftHistory:
    """The drift reports of a period against one baseline, the oldest first.

    Attributes:
        baselines: every baseline, the active one first: `baseline_id`, `name`, `rows`, `active`.
        baseline_id: of the one whose reports these are; None without any.
        reports: the newest `DRIFT_REPORTS` of them, with the columns of `drift_reports`, times in
            the zone.
        features: `report_id`, `feature`, `psi`, `psi_limit` and `verdict` of each of them.
    """

    as_of: pd.Timestamp
    baselines: pd.DataFrame
    baseline_id: int | None
    reports: pd.DataFrame
    features: pd.DataFrame


@st.cache_data(ttl=10, max_entries=50, show_spinner=False)
def drift_history(period: str, baseline_id: int | None, zone: str) -> DriftHistory:
    """The reports of one of `PERIODS` against a baseline; None is the active one."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        as_of = pd.Timestamp(db.execute(text("SELECT now()")).scalar_one()).tz_convert(zone)
        baselines = _frame(db, _BASELINES, zone)
        if baseline_id not in baselines["baseline_id"].to_list():
            baseline_id = None if baselines.empty else int(baselines["baseline_id"].iloc[0])
        length = PERIODS[period].length
        since = datetime.min.replace(tzinfo=UTC) if length is None else as_of - length
        newest = _frame(
            db, _DRIFT_REPORTS, zone, baseline=baseline_id, since=since, reports=DRIFT_REPORTS
        )
        reports = newest[::-1].reset_index(drop=True)
        features = _frame(db, _DRIFT_HISTORY, zone, reports=reports["report_id"].to_list())
    return DriftHistory(as_of, baselines, baseline_id, reports, features)


@st.cache_data(ttl="10min", max_entries=50, show_spinner=False)
def drift_features(report_id: int) -> pd.DataFrame:
    """Every feature of a report, as `drift_features` and, for its bins, `edges`, `categories` and
    `reference_shares` of the baseline."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        return _frame(db, _DRIFT_FEATURES, "UTC", report=report_id)


_BASELINES = """
    SELECT baseline_id, name, rows, activated_at IS NOT NULL AND retired_at IS NULL AS active
      FROM drift_baselines ORDER BY active DESC, baseline_id DESC
"""
_DRIFT_REPORTS = """
    SELECT * FROM drift_reports WHERE baseline_id = :baseline AND created_at >= :since
     ORDER BY created_at DESC, report_id DESC LIMIT :reports
"""
_DRIFT_HISTORY = """
    SELECT report_id, feature, psi, psi_limit, verdict FROM drift_features
     WHERE report_id = ANY(:reports) ORDER BY report_id, feature
"""
_DRIFT_FEATURES = """
    SELECT f.*, b.edges, b.categories, b.shares AS reference_shares
      FROM drift_features f
      JOIN drift_reports r USING (report_id)
      JOIN drift_baseline_features b USING (baseline_id, feature)
     WHERE f.report_id = :report ORDER BY f.psi DESC NULLS LAST, f.feature
"""


# --- model --------------------------------------------------------------------------------------

BENCHMARKS = 100
SUBJECTS = ("rules", "logistic", "gradient_boosting", "scorecard")


@dataclass(frozen=True)
class ModelHistory:
    """What was trained and measured, the newest first; times in a zone.

    Attributes:
        benchmarks: the newest `BENCHMARKS`, a row for each subject, the rules first:
            `benchmark_id`, `subject`, `created_at`, `outcome`, `sample`, `rows`, `auc`, `auc_low`,
            `auc_high`.
        models: every model: the columns of `models` without the artifact and the coefficients, and
            `can_score`.
    """

    as_of: pd.Timestamp
    benchmarks: pd.DataFrame
    models: pd.DataFrame


@st.cache_data(ttl=10, max_entries=20, show_spinner=False)
def model_history(zone: str) -> ModelHistory:
    """The benchmarks and the models."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        return ModelHistory(
            as_of=pd.Timestamp(db.execute(text("SELECT now()")).scalar_one()).tz_convert(zone),
            benchmarks=_frame(db, _BENCHMARKS, zone, benchmarks=BENCHMARKS, subjects=[*SUBJECTS]),
            models=_frame(db, _MODELS, zone),
        )


@dataclass(frozen=True)
class ModelBenchmark:
    """A benchmark.

    Attributes:
        subjects: by `subject`, the rules first: the columns of `model_benchmarks`.
        curves: `subject`, `curve`, `point`, `x`, `y`.
    """

    subjects: pd.DataFrame
    curves: pd.DataFrame


@st.cache_data(ttl="10min", max_entries=20, show_spinner=False)
def model_benchmark(benchmark_id: int, zone: str) -> ModelBenchmark:
    """A benchmark with all that was measured, times in a zone."""
    with st.connection("warehouse", type=WarehousePool).snapshot() as db:
        return ModelBenchmark(
            subjects=_frame(
                db, _BENCHMARK, zone, benchmark=benchmark_id, subjects=[*SUBJECTS]
            ).set_index("subject"),
            curves=_frame(db, _CURVES, zone, benchmark=benchmark_id),
        )


_BENCHMARKS = """
    SELECT benchmark_id, subject, created_at, outcome, sample, rows, auc, auc_low, auc_high
      FROM model_benchmarks
     WHERE benchmark_id > (SELECT coalesce(max(benchmark_id), 0) FROM model_benchmarks)
                          - :benchmarks
     ORDER BY benchmark_id DESC, array_position(CAST(:subjects AS text[]), subject)
"""
_BENCHMARK = """
    SELECT * FROM model_benchmarks WHERE benchmark_id = :benchmark
     ORDER BY array_position(CAST(:subjects AS text[]), subject)
"""
_MODELS = """
    SELECT model_id, kind, version, created_at, activated_at, retired_at, run_id, outcome, features,
           sample, seed, rows, bads, code_version, metrics, coefficients IS NOT NULL AS can_score
      FROM models ORDER BY model_id DESC
"""
_CURVES = """
    SELECT subject, curve, point, x, y FROM model_curves
     WHERE benchmark_id = :benchmark ORDER BY subject, curve, point
"""
