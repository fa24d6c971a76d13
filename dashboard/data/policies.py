"""The life of policies: reads it, and submits."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.pipelines import policies
from credit_risk_dagster.settings import WarehouseSettings
from dashboard.data.connection import snapshot
from resources.postgres.connection import Warehouse
from resources.postgres.policies import submit_policy


@st.cache_data(ttl=2, show_spinner=False)
def lives() -> list[policies.PolicyLife]:
    """Every policy, the newest first."""
    with snapshot() as db:
        return policies.lives(db.connection)


@st.cache_data(ttl=2, show_spinner=False)
def decided_by_another() -> str:
    """What to say where the newest batch, whichever process decided it, was not decided by the
    active policy; empty where it was."""
    with snapshot() as db:
        rows = db.rows("""
            SELECT d.name || '@' || left(d.content_hash, 12) AS decided,
                   p.name || '@' || left(p.content_hash, 12) AS active
              FROM (SELECT policy_id, committed_at FROM batches
                     ORDER BY committed_at DESC LIMIT 1) AS newest
              JOIN activations a ON kind = 'policy' AND effective_from <= committed_at
                   - interval '5 s' AND (effective_to IS NULL OR effective_to > committed_at)
              JOIN policies d ON d.policy_id = newest.policy_id
              JOIN policies p ON p.policy_id = subject_id
             WHERE newest.policy_id <> subject_id
        """)
    if not rows:
        return ""
    return "The newest batch was decided by {decided}, and the active policy is {active}".format(
        **rows[0]
    )


def submit(policy: Policy, person: str | None, why: str, evidence: Mapping[str, Any]) -> int:
    """Submit a policy for whoever is signed in, or else as the dashboard's role; its id."""
    # The pool's connections cannot.
    with Warehouse(WarehouseSettings().of_dashboard()).session("dashboard submit") as connection:
        found = submit_policy(connection, policy, person, why, evidence)
    lives.clear()
    return found
