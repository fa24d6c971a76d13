"""What the dashboard shows of cases: how many wait, the queue, and one with its history."""

from dataclasses import dataclass

import streamlit as st

from dashboard.data.connection import snapshot


@dataclass(frozen=True)
class Unreviewed:
    """Cases that nobody began to review: how many loans, since when the oldest waits (seconds; None
    without any), and their amounts (USD)."""

    cases: int
    oldest_seconds: float | None
    loan_amnt: float


@st.cache_data(ttl=5, show_spinner=False)
def unreviewed() -> Unreviewed:
    """The cases that nobody began to review."""
    with snapshot() as db:
        return Unreviewed(
            **db.one(
                """
                SELECT count(*) AS cases,
                       extract(epoch FROM now() - min(opened_at))::float8 AS oldest_seconds,
                       coalesce(sum(loan_amnt), 0) AS loan_amnt
                  FROM cases WHERE state = 'open'
                """
            )
        )
