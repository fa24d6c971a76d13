"""What the Overview page shows: the stream, counts by bucket, and where the risk is."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.policy import TIERS
from dashboard.data.connection import Snapshot, snapshot
from dashboard.data.loans import are_few, loans_query
from dashboard.data.segments import (
    EVERYTHING,
    SUMS,
    Rollup,
    Segment,
    rollup_progress,
    segment_query,
)
from dashboard.data.volume import outcomes
from dashboard.parts.periods import AGAINST, Buckets, Period, buckets, period_of

OUTCOMES = (*TIERS, "Rejected")
NEWEST = 20_000  # applications of which recommendations are counted
RATE_MINUTES = 5  # throughput is of these, here and on the page Operations


@dataclass(frozen=True)
class Progress:
    """Where the stream stands, over all sources and all time."""

    as_of: pd.Timestamp
    scored: int
    rejected: int
    last_commit: pd.Timestamp | None
    first_minute: pd.Timestamp | None
    events_per_second: float
    """Scored and rejected events of the last `RATE_MINUTES`, per second."""

    @property
    def silence_seconds(self) -> float:
        """Seconds since the last commit; NaN before the first."""
        if self.last_commit is None:
            return float("nan")
        return max((self.as_of - self.last_commit).total_seconds(), 0.0)


@dataclass(frozen=True)
class Recommended:
    """What the policy recommended for the newest loans of a period, each by its newest decision;
    `approve` are those, too, of which no rule recommends anything."""

    loans: int
    approve: int
    refer: int
    decline: int


@dataclass(frozen=True)
class Totals:
    """Decisions of a period, or its applications: its loans, each by its newest decision. Amounts
    in USD."""

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
        volume: one row for each bucket, indexed by its start; a column of counts for each of
            `OUTCOMES`, `watchlist_amnt` (USD), and `end`. The last bucket is not over.
        totals, before: decisions of the period and of the one before, as long and up to the same
            moment; before is None for the period that has no beginning.
        recommended: of the period's newest applications; None for a segment.
        policy: which one decides now, and who activated it when, in words; empty before the first.
    """

    progress: Progress
    buckets: Buckets
    volume: pd.DataFrame
    totals: Totals
    before: Totals | None
    recommended: Recommended | None
    policy: str

    @property
    def scored(self) -> dict[str, int]:
        """Decisions of the period by tier, the riskiest first."""
        return {tier: int(self.volume[tier].sum()) for tier in reversed(TIERS)}


@dataclass(frozen=True)
class Counted:
    """What money and shares are of: applications, where `once`, and else decisions. `before` as in
    `Overview`."""

    totals: Totals
    before: Totals | None
    once: bool


@dataclass(frozen=True)
class Breakdown:
    """Where the risk is.

    Attributes:
        once: each loan counts once; else each decision.
        since: beginning of the period.
        rows: one for each value of each of `SEGMENT_COLUMNS`: `dimension`, `value_of` (as text; ''
            and a term of '0' are unknown), `applications`, `elevated`, `watchlist`, `loan_amnt`,
            `watchlist_amnt` (USD).
        before: the same of the period that it is compared with; None for one without a beginning.
        utc: the days are UTC's and not the viewer's: so long ago, sums of other days are not kept.
    """

    as_of: pd.Timestamp
    since: pd.Timestamp
    once: bool
    rows: pd.DataFrame
    before: pd.DataFrame | None = None
    utc: bool = False


@st.cache_data(ttl=1, max_entries=100, show_spinner=False)
def overview(
    period: str, zone: str, segment: Segment = EVERYTHING, against: str = AGAINST[0]
) -> Overview:
    """The key figures of a period (`period_of`), with times in a zone, and of one of `AGAINST`.

    Those of a segment come from a rollup by hour: its buckets are no shorter, and in zones half an
    hour off, half an hour may be in the next one.
    """
    with snapshot() as db:
        progress, rollup = _progress(db), rollup_progress(db)
        chosen, end = period_of(period).at(progress.as_of.tz_convert(zone))
        cut = _cut(chosen, end, zone, segment, progress, rollup)
        since = cut.edges[0].to_pydatetime()
        if segment:
            volume = _segment_volume(db, cut.edges, segment, rollup)
        else:
            volume = _volume(db, cut.edges)
        now = end.to_pydatetime()
        earlier = None if chosen.length is None else _earlier(since, now, against)
        return Overview(
            progress=progress,
            buckets=cut,
            volume=volume,
            totals=_totals(volume, segment),
            before=None if earlier is None else _before(db, *earlier, segment, rollup),
            recommended=None if segment else _settled_recommendations(db, since, now, chosen),
            policy=_policy(db),
        )


@st.cache_data(ttl=10, max_entries=100, show_spinner=False)
def counted(
    period: str, zone: str, segment: Segment = EVERYTHING, against: str = AGAINST[0]
) -> Counted:
    """The applications of a period, each loan once; its decisions where they are too many
    (`MOST_DECISIONS`). Arguments as of `overview`."""
    data = overview(period, zone, segment, against)
    now = data.progress.as_of.tz_convert(zone)
    chosen, end = period_of(period).at(now)
    since, until = data.buckets.edges[0].to_pydatetime(), end.to_pydatetime()
    spans = [(since, None if end == now else until)]
    if chosen.length is not None:
        spans.append(_earlier(since, until, against))
    query = f"SELECT {SUMS}, NULL AS rejected FROM cells"  # noqa: S608 (a constant)
    with snapshot() as db:
        if not all(are_few(db, *span) for span in spans):
            return Counted(data.totals, data.before, once=False)
        found = []
        for span in spans:
            text, parameters = loans_query(query, segment, *span)
            found.append(Totals(**db.one(text, **parameters)))
    return Counted(found[0], found[1] if len(found) > 1 else None, once=True)


@st.cache_data(ttl=30, max_entries=100, show_spinner=False)
def breakdown(
    period: str, zone: str, segment: Segment = EVERYTHING, against: str = AGAINST[0]
) -> Breakdown:
    """The applications (see `counted`) of a period by each of `SEGMENT_COLUMNS`, and of one of
    `AGAINST`."""
    with snapshot() as db:
        progress, rollup = _progress(db), rollup_progress(db)
        now = progress.as_of.tz_convert(zone)
        chosen, end = period_of(period).at(now)
        cut = _cut(chosen, end, zone, segment, progress, rollup)
        begins, until = cut.edges[0].to_pydatetime(), end.to_pydatetime()
        spans: list[tuple[datetime, datetime | None]] = [(begins, None if end == now else until)]
        if chosen.length is not None:
            spans.append(_earlier(begins, until, against))
        once = all(are_few(db, *span) for span in spans)
        found = []
        for since, before in spans:
            if once:
                query, parameters = loans_query(_BREAKDOWN, segment, since, before)
            else:
                pieces = rollup.pieces(None if chosen.length is None else since, before)
                query, parameters = segment_query(_BREAKDOWN, segment, pieces, by="segment")
            found.append(db.frame(query, zone, **parameters))
        moments = [moment for span in spans for moment in span if moment is not None]
        utc = not once and any(rollup.edge(moment) != moment for moment in moments)
        begins = begins if once else rollup.edge(begins)
        return Breakdown(
            *(progress.as_of, pd.Timestamp(begins).tz_convert(zone), once, found[0]),
            found[1] if len(found) > 1 else None,
            utc,
        )


_BREAKDOWN = """
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
"""


def _cut(
    period: Period,
    end: pd.Timestamp,
    zone: str,
    segment: Segment,
    progress: Progress,
    rollup: Rollup,
) -> Buckets:
    first = progress.first_minute
    return buckets(
        period,
        end,
        None if first is None else first.tz_convert(zone),
        finest=rollup.grain(end, period.length) if segment else None,
    )


def _progress(db: Snapshot) -> Progress:
    row = db.one("""
        SELECT now() AS as_of,
               coalesce(sum(scored), 0)::bigint AS scored,
               coalesce(sum(rejected), 0)::bigint AS rejected,
               (SELECT max(committed_at) FROM batches) AS last_commit,
               (SELECT min(minute) FROM risk_by_minute) AS first_minute
          FROM stream_offsets
    """)
    for moment in ("as_of", "last_commit", "first_minute"):
        row[moment] = row[moment] and pd.Timestamp(row[moment])
    return Progress(**row, events_per_second=events_per_second(db))


def events_per_second(db: Snapshot) -> float:
    """Scored and rejected events of the last `RATE_MINUTES`, per second."""
    row = db.one(
        """
        SELECT coalesce(sum(scored + rejected), 0) / (60.0::float8 * %(minutes)s) AS rate
          FROM batches WHERE committed_at > now() - make_interval(mins => %(minutes)s)
        """,
        minutes=RATE_MINUTES,
    )
    return float(row["rate"])


def _earlier(since: datetime, now: datetime, against: str) -> tuple[datetime, datetime]:
    """The period that it is compared with, as long."""
    if against == AGAINST[0]:
        return since - (now - since), since
    year_ago = (pd.Timestamp(since) - pd.DateOffset(years=1)).to_pydatetime()
    return year_ago, year_ago + (now - since)


def _settled_recommendations(
    db: Snapshot, since: datetime, now: datetime, period: Period
) -> Recommended:
    """Counted every ten seconds at most: of so many, two more seconds change nothing. Days of the
    calendar end when they do."""
    every = timedelta(seconds=10)
    if period.since is not None:
        return _recommended(db, since, now)
    until = datetime.fromtimestamp(now.timestamp() // every.seconds * every.seconds, UTC)
    return _recommended(db, since, until + every)


@st.cache_data(ttl=10, max_entries=100, show_spinner=False)
def _recommended(_db: Snapshot, since: datetime, until: datetime) -> Recommended:
    row = _db.one(
        """
        SELECT count(*) AS loans,
               count(*) FILTER (WHERE coalesce(recommendation, 'approve') = 'approve') AS approve,
               count(*) FILTER (WHERE recommendation = 'refer') AS refer,
               count(*) FILTER (WHERE recommendation = 'decline') AS decline
          FROM (SELECT DISTINCT ON (loan) recommendation
                  FROM (SELECT scored_at, recommendation,
                               coalesce(loan_id, source_id || '/' || partition || '/' || "offset")
                                   AS loan
                          FROM scored_applications
                         WHERE scored_at >= %(since)s AND scored_at < %(until)s
                         ORDER BY scored_at DESC LIMIT %(newest)s) AS newest
                 ORDER BY loan, scored_at DESC) AS decided
        """,
        since=since,
        until=until,
        newest=NEWEST,
    )
    return Recommended(**row)


def _policy(db: Snapshot) -> str:
    rows = db.rows("""
        SELECT p.name || '@' || left(content_hash, 12) AS version, who, effective_from
          FROM activations JOIN policies p ON policy_id = subject_id
         WHERE kind = 'policy' AND effective_from <= now()
           AND (effective_to IS NULL OR effective_to > now())
    """)
    return (
        "{version}, activated by {who} on {effective_from:%-d %b %Y}".format(**rows[0])
        if rows
        else ""
    )


def _volume(db: Snapshot, edges: pd.DatetimeIndex) -> pd.DataFrame:
    """Count the outcomes by bucket, at a cost that does not grow with history.

    Only the bucket of now and, for commits that are under way as it begins, the one before can
    still change; the others are counted once and kept.
    """
    moments = edges.to_pydatetime().tolist()
    settled = _settled_counts(db, moments[:-2])
    live = _counts(db, moments[-3:])
    return pd.concat([settled, live]).assign(end=edges[1:]).set_index(edges[:-1].rename("start"))


@st.cache_data(ttl="10min", max_entries=200, show_spinner=False)
def _settled_counts(_db: Snapshot, edges: list[datetime]) -> pd.DataFrame:
    return _counts(_db, edges)


def _counts(db: Snapshot, edges: list[datetime]) -> pd.DataFrame:
    if len(edges) < 2:
        return _no_counts(0)
    counts = _no_counts(len(edges) - 1)
    for row in outcomes(db, edges):
        counts.loc[row["bucket"], row["risk_tier"]] = row["applications"]
        counts.loc[row["bucket"], "loan_amnt"] += row["loan_amnt"]
        if row["risk_tier"] == "Watchlist":
            counts.loc[row["bucket"], "watchlist_amnt"] = row["loan_amnt"]
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
    db: Snapshot, since: datetime, until: datetime, segment: Segment, rollup: Rollup
) -> Totals:
    if segment:
        query, parameters = segment_query(
            f"SELECT {SUMS}, NULL AS rejected FROM cells",  # noqa: S608 (a constant)
            segment,
            rollup.pieces(since, until),
            by="time",
        )
        return Totals(**db.one(query, **parameters))
    return _totals(_counts(db, [since, until]), EVERYTHING)


def _segment_volume(
    db: Snapshot, edges: pd.DatetimeIndex, segment: Segment, rollup: Rollup
) -> pd.DataFrame:
    moments = edges.to_pydatetime().tolist()
    query, parameters = segment_query(
        f"""
        SELECT greatest(width_bucket(at, %(edges)s::timestamptz[]) - 1, 0) AS bucket, {SUMS}
          FROM cells GROUP BY bucket
        """,  # noqa: S608
        segment,
        rollup.pieces(moments[0], moments[-1]),
        by="time",
    )
    counts = _no_counts(len(edges) - 1)
    for row in db.rows(query, **parameters, edges=moments):
        low = row["applications"] - row["elevated"] - row["watchlist"]
        counts.loc[row["bucket"], list(counts.columns)] = (
            *(low, row["elevated"], row["watchlist"], 0),
            *(row["loan_amnt"], row["watchlist_amnt"]),
        )
    return counts.assign(end=edges[1:]).set_index(edges[:-1].rename("start"))


@st.cache_data(ttl=60, show_spinner=False)
def history() -> pd.Timedelta:
    """How long ago the first application was scored; zero before."""
    with snapshot() as db:
        row = db.one("SELECT now() - min(minute) AS age FROM risk_by_minute")
        return pd.Timedelta(row["age"] or 0)
