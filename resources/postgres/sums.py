"""The sums that triggers keep (migrations 0034 to 0036): are they those of their rows, and anew."""

from typing import Any, LiteralString

import psycopg


def wrong_sums(connection: psycopg.Connection[Any]) -> list[str]:
    """What is wrong, in words: tables of sums, and how many of their rows. Each is one statement,
    so that nothing changes meanwhile."""
    found = []
    for table, of, query in (
        ("closed_by_day", "cases", _CLOSED),
        ("risk_by_hour", "risk_by_minute", _HOURS),
        ("segments_total", "segments_by_hour", _SEGMENTS),
    ):
        row = connection.execute(query).fetchone()
        if row and row[0]:
            found.append(
                f"{row[0]:,} sums of {table} are not those of {of}, which somebody changed with "
                "its triggers off: sum it up again (docs/runbook.md#wrong-sums)"
            )
    return found


def sum_up(connection: psycopg.Connection[Any]) -> None:
    """Make them anew, of rows that were changed with their triggers off; nobody else may change
    them meanwhile. As the owner of the tables."""
    connection.execute("DELETE FROM closed_by_day")
    connection.execute(
        "INSERT INTO closed_by_day SELECT (closed_at AT TIME ZONE 'UTC')::date, rule, closed_by,"
        " disposition, count(*) FROM cases, unnest(array_prepend('', reasons)) AS rule"
        " WHERE state = 'closed' GROUP BY 1, 2, 3, 4"
    )
    connection.execute("DELETE FROM risk_by_hour")
    connection.execute(
        "INSERT INTO risk_by_hour SELECT date_trunc('hour', minute, 'UTC'), source_id, risk_tier,"
        " sum(applications), sum(loan_amnt) FROM risk_by_minute GROUP BY 1, 2, 3"
    )
    connection.execute("DELETE FROM segments_total")
    connection.execute(
        "INSERT INTO segments_total SELECT segment_id, sum(applications), sum(elevated),"
        " sum(watchlist), sum(loan_amnt), sum(watchlist_amnt) FROM segments_by_hour GROUP BY 1"
    )


_CLOSED: LiteralString = """
SELECT count(*) FROM closed_by_day FULL JOIN (
    SELECT (closed_at AT TIME ZONE 'UTC')::date AS day, rule, closed_by AS reviewer, disposition,
        count(*) AS counted
    FROM cases, unnest(array_prepend('', reasons)) AS rule WHERE state = 'closed'
    GROUP BY 1, 2, 3, 4
) AS c USING (day, rule, reviewer, disposition)
WHERE cases IS DISTINCT FROM counted
"""

# Amounts are added in another order, and taken away again: of a sum of billions of dollars that is
# not exact to the cent.
_HOURS: LiteralString = """
SELECT count(*) FROM risk_by_hour h FULL JOIN (
    SELECT date_trunc('hour', minute, 'UTC') AS hour, source_id, risk_tier,
        sum(applications) AS applications, sum(loan_amnt) AS loan_amnt
    FROM risk_by_minute GROUP BY 1, 2, 3
) AS m USING (hour, source_id, risk_tier)
WHERE coalesce(h.applications, 0) <> coalesce(m.applications, 0)
    OR abs(coalesce(h.loan_amnt, 0) - coalesce(m.loan_amnt, 0))
        > 0.01 + 1e-9 * abs(coalesce(m.loan_amnt, 0))
"""

_SEGMENTS: LiteralString = """
SELECT count(*) FROM segments_total t FULL JOIN (
    SELECT segment_id, sum(applications) AS applications, sum(elevated) AS elevated,
        sum(watchlist) AS watchlist, sum(loan_amnt) AS loan_amnt,
        sum(watchlist_amnt) AS watchlist_amnt
    FROM segments_by_hour GROUP BY segment_id
) AS h USING (segment_id)
WHERE (t.applications, t.elevated, t.watchlist) IS DISTINCT FROM
        (h.applications, h.elevated, h.watchlist)
    OR abs(t.loan_amnt - h.loan_amnt) > 0.01 + 1e-9 * abs(h.loan_amnt)
    OR abs(t.watchlist_amnt - h.watchlist_amnt) > 0.01 + 1e-9 * abs(h.watchlist_amnt)
"""
