"""Segments of applications: hours of the rollup, and what is not in it from the applications
themselves."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.data.connection import Snapshot, snapshot

SEGMENT_COLUMNS = ("purpose", "grade", "addr_state", "term_months", "amount_from")
AMOUNTS_FROM = (0, 5_000, 10_000, 15_000, 25_000)  # as the view application_segments has them


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


@st.cache_data(ttl=60, show_spinner=False)
def purposes() -> tuple[str, ...]:
    """Every purpose that there is."""
    with snapshot() as db:
        # What the rollup does not have yet; of a long backlog, what is newest.
        since = max(rollup_progress(db).rolled_up_to, datetime.now(UTC) - timedelta(hours=1))
        rows = db.rows(
            """
            SELECT purpose FROM segments
             UNION SELECT purpose FROM application_segments WHERE scored_at >= %(since)s
             ORDER BY 1
            """,
            since=since,
        )
        return tuple(row["purpose"] for row in rows)


SUMS = """
    coalesce(sum(applications), 0)::bigint AS applications,
    coalesce(sum(elevated), 0)::bigint AS elevated,
    coalesce(sum(watchlist), 0)::bigint AS watchlist,
    coalesce(sum(loan_amnt), 0) AS loan_amnt,
    coalesce(sum(watchlist_amnt), 0) AS watchlist_amnt
"""


@dataclass(frozen=True)
class Rollup:
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
        since, until = self.edge(since or _EVER), self.edge(until or NEVER)
        first = since if since < self.merged_to else _hour(since, up=True)
        last = until if until < self.merged_to or until == NEVER else _hour(until, up=False)
        if until > self.rolled_up_to:
            last = NEVER
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
NEVER = datetime(9000, 1, 1, tzinfo=UTC)


def rollup_progress(db: Snapshot) -> Rollup:
    """How far the rollup is."""
    row = db.one(
        """
        SELECT greatest(rolled_up_to, %(ever)s) AS rolled_up_to,
               greatest(merged_to, %(ever)s) AS merged_to
          FROM segments_progress
        """,
        ever=_EVER,
    )
    return Rollup(**row)


def segment_query(
    query: str, segment: Segment, pieces: dict[str, datetime], *, by: str
) -> tuple[str, dict[str, Any]]:
    """A query over `cells`: counts and amounts of the segment's applications; with its parameters.

    Args:
        by: what a cell has besides: `segment`, the columns of `Segment`; or `time`, its hour or
            moment, as `at`.
    """
    chosen = {column: list(values) for column, values in vars(segment).items() if values}
    # Only names of columns go into the text; what the viewer chose are parameters.
    where = " AND ".join(f"{column} = ANY (%({column})s)" for column in chosen) or "true"
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
    kept = "segments_by_hour WHERE hour >= %(first)s AND hour < %(last)s"
    if by == "segment" and (pieces["first"], pieces["last"]) == (_EVER, NEVER):
        kept = "segments_total WHERE true"
    # Summed up by the number of the segment, before its texts are looked up and compared.
    cells = f"""
        WITH counted AS MATERIALIZED (
            SELECT {key}, {SUMS}
              FROM {kept}
               AND segment_id IN (SELECT segment_id FROM segments WHERE {where})
             GROUP BY 1
        ), cells AS (
            SELECT {columns}, applications, elevated, watchlist, loan_amnt, watchlist_amnt
              FROM counted {join}
             UNION ALL {applications} AND scored_at >= %(head_from)s AND scored_at < %(head_to)s
             UNION ALL {applications} AND scored_at >= %(tail_from)s AND scored_at < %(tail_to)s
        )
    """  # noqa: S608
    return cells + query, {**pieces, **chosen}
