"""How many applications there were of which outcome, at a cost that does not grow with history."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dashboard.data.connection import Snapshot


def outcomes(db: Snapshot, edges: Sequence[datetime]) -> list[dict[str, Any]]:
    """Counts by bucket (i is edges[i] <= time < edges[i + 1]): `bucket`, `risk_tier`,
    `applications` and `loan_amnt` (USD); no row of nothing.

    Hours are summed up, in UTC. Minutes are read of those hours alone that an edge divides: of days
    in most zones none.
    """
    return db.rows(_OUTCOMES, edges=list(edges), first=edges[0], last=edges[-1])


_OUTCOMES = """
    WITH divided AS MATERIALIZED (
        SELECT DISTINCT date_trunc('hour', edge, 'UTC') AS hour
          FROM unnest(%(edges)s::timestamptz[]) AS edge
         WHERE edge <> date_trunc('hour', edge, 'UTC')
    ), counted AS (
        SELECT hour AS at, risk_tier, applications, loan_amnt FROM risk_by_hour
         WHERE hour >= %(first)s AND hour < %(last)s AND hour NOT IN (SELECT hour FROM divided)
         UNION ALL
        SELECT minute, risk_tier, applications, loan_amnt
          FROM divided JOIN risk_by_minute
               ON minute >= hour AND minute < hour + interval '1 hour'
         WHERE minute >= %(first)s AND minute < %(last)s
    )
    SELECT width_bucket(at, %(edges)s::timestamptz[]) - 1 AS bucket, risk_tier,
           sum(applications)::bigint AS applications, sum(loan_amnt) AS loan_amnt
      FROM counted GROUP BY bucket, risk_tier
"""
