"""Applications as loans: each once, by its newest decision in a period."""

from datetime import datetime
from typing import Any

from dashboard.data.connection import Snapshot
from dashboard.data.segments import AMOUNTS_FROM, NEVER, Segment
from dashboard.data.volume import outcomes
from resources.postgres.management import MOST_DECISIONS


def are_few(db: Snapshot, since: datetime, until: datetime | None = None) -> bool:
    """Whether a time has so few decisions that each loan can be counted once."""
    edges = [since.replace(second=0, microsecond=0), until or NEVER]
    counts = (row["applications"] for row in outcomes(db, edges) if row["risk_tier"] != "Rejected")
    return sum(counts) <= MOST_DECISIONS


def loans_query(
    query: str, segment: Segment, since: datetime, until: datetime | None = None
) -> tuple[str, dict[str, Any]]:
    """A query over `cells`: a segment's loans, each by its newest decision from `since` to `until`
    (which says what its segment is); with its parameters. As `segment_query`, by segment."""
    chosen = {column: list(values) for column, values in vars(segment).items() if values}
    where = " AND ".join(f"{column} = ANY (%({column})s)" for column in chosen) or "true"
    cells = f"""
        WITH newest AS (
            SELECT DISTINCT ON (loan) * FROM (
                SELECT coalesce(loan_id, source_id || '/' || partition || '/' || "offset") AS loan,
                       scored_at, partition, "offset", risk_tier, loan_amnt,
                       coalesce(purpose, '') AS purpose, coalesce(grade, '') AS grade,
                       coalesce(addr_state, '') AS addr_state,
                       CASE WHEN term_months IN (36, 60) THEN term_months ELSE 0 END AS term_months,
                       (%(amounts)s::int[])[width_bucket(loan_amnt, %(amounts)s::float8[])]
                           AS amount_from
                  FROM scored_applications
                 WHERE scored_at >= %(since)s AND scored_at < %(until)s
            ) AS s ORDER BY loan, scored_at DESC, partition, "offset" DESC
        ), cells AS (
            SELECT {", ".join(vars(segment))}, 1 AS applications,
                   (risk_tier = 'Elevated')::int AS elevated,
                   (risk_tier = 'Watchlist')::int AS watchlist, loan_amnt,
                   CASE risk_tier WHEN 'Watchlist' THEN loan_amnt ELSE 0 END AS watchlist_amnt
              FROM newest WHERE {where}
        )
    """  # noqa: S608 (names of columns)
    period = {"since": since, "until": until or NEVER, "amounts": list(AMOUNTS_FROM)}
    return cells + query, {**period, **chosen}
