"""One application: its decision, where it came from, and what others are like."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.data.connection import snapshot
from dashboard.data.segments import NEVER

Key = tuple[int, int, int]
"""Source, partition and offset of an application."""


@dataclass(frozen=True)
class Application:
    """One decision, and where it came from.

    Attributes:
        row: the columns of `scored_applications`; also `policy` and `model` (their versions),
            `outcome` (the model's), `run_id`, `topic` and `cluster_id`.
        redriven: `reason`, `redriven_at` and `run_id` of one that had been rejected first.
        decisions: every decision on the same loan, newest first: `scored_at`, `risk_tier`, `pd`,
            `policy`, `source_id`, `partition`, `offset`.
    """

    row: dict[str, Any]
    redriven: dict[str, Any] | None
    decisions: pd.DataFrame


@st.cache_data(ttl=1, max_entries=50, show_spinner=False)
def application(key: Key, zone: str) -> Application | None:
    """The application at a source, partition and offset, with times in a zone."""
    at = _coordinates(key)
    with snapshot() as db:
        rows = db.rows(_APPLICATION, **at)
        if not rows:
            return None
        redriven = db.rows(_REDRIVEN, **at)
        return Application(
            rows[0],
            redriven[0] if redriven else None,
            db.frame(_DECISIONS, zone, loan_id=rows[0]["loan_id"]),
        )


@st.cache_data(ttl=1, max_entries=50, show_spinner=False)
def newest_decision(loan_id: str) -> Key | None:
    """Where the newest decision on a loan is; None where there is none."""
    with snapshot() as db:
        rows = db.rows(
            """
            SELECT source_id, partition, "offset" FROM scored_applications
             WHERE loan_id = %(loan_id)s ORDER BY scored_at DESC LIMIT 1
            """,
            loan_id=loan_id,
        )
    return (rows[0]["source_id"], rows[0]["partition"], rows[0]["offset"]) if rows else None


def _coordinates(key: Key) -> dict[str, Any]:
    return dict(zip(("source_id", "partition", "offset"), key, strict=True))


_APPLICATION = """
    SELECT s.*, p.name || '@' || left(p.content_hash, 12) AS policy, m.version AS model, m.outcome,
           o.topic, o.cluster_id, b.run_id
      FROM scored_applications s
      JOIN policies p USING (policy_id)
      JOIN sources o USING (source_id)
      LEFT JOIN models m USING (model_id)
      LEFT JOIN LATERAL (SELECT run_id FROM batches WHERE batch_id = s.batch_id) AS b ON true
     WHERE s.source_id = %(source_id)s AND s.partition = %(partition)s AND s."offset" = %(offset)s
     ORDER BY s.scored_at DESC LIMIT 1
"""

_REDRIVEN = """
    SELECT reason, redriven_at, run_id FROM redriven_events
     WHERE source_id = %(source_id)s AND partition = %(partition)s AND "offset" = %(offset)s
"""

_DECISIONS = """
    SELECT scored_at, risk_tier, pd, p.name || '@' || left(p.content_hash, 12) AS policy,
           source_id, partition, "offset"
      FROM scored_applications JOIN policies p USING (policy_id)
     WHERE loan_id = %(loan_id)s ORDER BY scored_at DESC LIMIT 50
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
        f"percentile_cont(%(steps)s::float8[]) WITHIN GROUP (ORDER BY {name}) AS {name}"
        for name in NUMBERS
    )
    with snapshot() as db:
        newest = db.one(
            """
            SELECT min(committed_at) - interval '1 minute' AS since FROM (
                SELECT committed_at,
                       sum(scored) OVER (ORDER BY committed_at DESC) - scored AS newer
                  FROM (SELECT committed_at, scored FROM batches
                         ORDER BY committed_at DESC LIMIT %(rows)s) AS newest
            ) AS _ WHERE newer < %(rows)s
            """,
            rows=POPULATION_ROWS,
        )
        found = db.one(
            f"""
            SELECT count(*) AS applications, {percentiles}
              FROM (SELECT * FROM scored_applications WHERE scored_at >= %(since)s
                     LIMIT {2 * POPULATION_ROWS}) AS newest
            """,  # noqa: S608 (constants)
            since=newest["since"] or NEVER,
            steps=[step / 100 for step in range(101)],
        )
        return Population(found.pop("applications"), found)
