"""What the Portfolio page shows: the newest reports of vintages and of the portfolio."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.data.connection import snapshot


@dataclass(frozen=True)
class Report:
    """A document that a run stored.

    Attributes:
        about: the sample or the policy that it is of.
    """

    run_id: str
    created_at: pd.Timestamp
    about: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Portfolio:
    """The newest report of each kind; None where there is none yet."""

    vintages: Report | None
    portfolio: Report | None


@st.cache_data(ttl=30, max_entries=20, show_spinner=False)
def portfolio(zone: str) -> Portfolio:
    """The reports, with their times in a zone."""
    with snapshot() as db:
        found = {
            row["kind"]: Report(
                row["run_id"],
                pd.Timestamp(row["created_at"]).tz_convert(zone),
                row["about"],
                row["document"],
            )
            for row in db.rows("""
                SELECT DISTINCT ON (kind) kind, run_id, created_at, about, document
                  FROM risk_reports ORDER BY kind, report_id DESC
            """)
        }
    return Portfolio(found.get("vintages"), found.get("portfolio"))
