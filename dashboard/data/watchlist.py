"""What the Watchlist page lists: the matching applications, and their export."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.policy import PolicyError, parse_policy
from dashboard.data.connection import snapshot
from dashboard.data.segments import AMOUNTS_FROM, EVERYTHING, Segment

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
    with snapshot() as db:
        total = db.one(
            "SELECT count(*) AS matching, coalesce(sum(loan_amnt), 0) AS loan_amnt"  # noqa: S608
            f" FROM scored_applications s WHERE {where}",
            **parameters,
        )
        rows = db.frame(
            f"""
            WITH first AS MATERIALIZED (  -- in the index alone; the rows are fetched after that
                SELECT source_id, partition, "offset", scored_at FROM scored_applications s
                 WHERE {where} ORDER BY {order} LIMIT %(rows)s
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
    return Watchlist(**total, rows=rows)


def watchlist_csv(flagged: Flagged) -> bytes:
    """The matching applications in the same order, at most `EXPORT_ROWS`, as CSV with a header.

    A text that a spreadsheet would take for a formula begins with an apostrophe. Numbers have two
    decimals, and their unit in the heading.
    """
    where, parameters = _flagged(flagged)
    texts = ", ".join(
        f"CASE WHEN {name} ~ '^[-=+@\\t\\r]' THEN '''' || {name} ELSE {name} END AS {name}"
        for name in ("loan_id", "purpose", "grade", "addr_state", "application_type")
    )
    numbers = {
        name: f"round({name}::numeric, 2) AS {name}{unit}" for name, unit in _EXPORTED.items()
    }
    query = f"""
        COPY (
            SELECT (SELECT topic || ' of ' || cluster_id FROM sources o
                     WHERE o.source_id = s.source_id) AS source,
                   source_id, partition, "offset", scored_at, {texts}, risk_tier,
                   {", ".join(numbers.values())},
                   delinq_2yrs, inq_last_6mths, term_months, dti_band, util_band, rate_band,
                   array_to_string(reasons, '; ') AS reasons, recommendation, figures,
                   round(100 * pd::numeric, 2) AS pd_percent, policy_id, model_id,
                   {_REVIEWED} AS reviewed
              FROM scored_applications s WHERE {where}
             ORDER BY {SORTS[flagged.sort]}, scored_at DESC, source_id, partition, "offset" DESC
             LIMIT %(rows)s
        ) TO STDOUT (FORMAT csv, HEADER)
    """  # noqa: S608 (see _flagged; the order is one of SORTS)
    with snapshot() as db:
        db.connection.execute("SET LOCAL statement_timeout = '60s'")
        # A COPY has no parameters on the server: the driver quotes them into its text.
        with db.connection.cursor().copy(query, parameters | {"rows": EXPORT_ROWS}) as copy:
            return b"".join(bytes(block) for block in copy)


# Numbers with decimals, and the unit that their heading ends with.
_EXPORTED = {
    **dict.fromkeys(("loan_amnt", "annual_inc"), "_usd"),
    **dict.fromkeys(("dti", "int_rate", "revol_util"), "_percent"),
    "credit_history_years": "",
    **dict.fromkeys(("annual_inc_primary", "annual_inc_joint"), "_usd"),
    **dict.fromkeys(("dti_primary", "dti_joint"), "_percent"),
}
_REVIEWED = """EXISTS (SELECT FROM application_reviews r WHERE r.source_id = s.source_id
                          AND r.partition = s.partition AND r."offset" = s."offset")"""
_COLUMNS = {
    "purpose": "coalesce(s.purpose, '')",
    "grade": "coalesce(s.grade, '')",
    "addr_state": "coalesce(s.addr_state, '')",
    "term_months": "CASE WHEN s.term_months IN (36, 60) THEN s.term_months ELSE 0 END",
    "amount_from": "(%(amounts)s::int[])[width_bucket(s.loan_amnt, %(amounts)s::float8[])]",
}


def _flagged(flagged: Flagged) -> tuple[str, dict[str, Any]]:
    """The condition on `scored_applications s`, of constants alone, and its parameters."""
    if flagged.loan_id:
        return "s.loan_id = %(loan_id)s", {"loan_id": flagged.loan_id}
    # The tier is a literal, because only then the partial index scored_applications_watchlist fits.
    conditions = ["s.risk_tier = 'Watchlist'", "s.scored_at <= %(until)s"]
    parameters: dict[str, Any] = {"until": flagged.until}
    if flagged.since is not None:
        conditions.append("s.scored_at >= %(since)s")
        parameters["since"] = flagged.since
    for column, values in vars(flagged.segment).items():
        if values:
            conditions.append(f"{_COLUMNS[column]} = ANY (%({column})s)")
            parameters[column] = list(values)
    if flagged.segment.amount_from:
        parameters["amounts"] = list(AMOUNTS_FROM)
    if flagged.reasons:
        conditions.append("s.reasons && %(reasons)s::text[]")
        parameters["reasons"] = list(flagged.reasons)
    if flagged.review != "All":
        conditions.append(f"{_REVIEWED} = %(reviewed)s")
        parameters["reviewed"] = flagged.review == "Reviewed"
    return " AND ".join(conditions), parameters


@st.cache_data(ttl=60, show_spinner=False)
def reason_codes() -> tuple[str, ...]:
    """The reasons of every policy that was submitted or scored."""
    with snapshot() as db:
        rows = db.rows("SELECT document FROM policies ORDER BY policy_id")
    codes: dict[str, None] = {}
    for row in rows:
        with suppress(PolicyError):  # one that was submitted, and decides nothing
            codes |= dict.fromkeys(parse_policy(row["document"], "of before").reason_codes)
    return tuple(codes)


@st.cache_data(ttl=1, show_spinner=False)
def newer_on_watchlist(since: datetime) -> int:
    """How many were flagged after a moment; not more than a thousand are counted."""
    with snapshot() as db:
        found = db.one(
            """
            SELECT count(*) AS newer FROM (
                SELECT FROM scored_applications
                 WHERE risk_tier = 'Watchlist' AND scored_at > %(since)s LIMIT 1000
            ) AS first
            """,
            since=since,
        )
        return int(found["newer"])
