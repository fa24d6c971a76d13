"""Experiments: what runs, what came of the arms of a split, and what a shadow says beside."""

import pandas as pd
import streamlit as st

from credit_risk_dagster.pipelines import experiments
from credit_risk_dagster.pipelines.experiment_results import Arm, arms_of
from dashboard.data.connection import snapshot
from dashboard.data.policy_lab import OUTCOME_DEFINITIONS
from resources.postgres.shadow import Cell, matrix

DIFFERENCES = 100


@st.cache_data(ttl=2, show_spinner=False)
def lives() -> list[experiments.ExperimentLife]:
    """Every experiment, the newest first."""
    with snapshot() as db:
        return experiments.lives(db.connection)


@st.cache_data(ttl=10, max_entries=20, show_spinner=False)
def arms(experiment_id: int, definition: str) -> list[Arm]:
    """The arms of a split by an outcome definition; empty where it never ran."""
    with snapshot() as db:
        life = experiments.life(db.connection, experiment_id)
        return arms_of(db.connection, life, OUTCOME_DEFINITIONS[definition])


@st.cache_data(ttl=5, max_entries=20, show_spinner=False)
def beside(experiment_id: int) -> list[Cell]:
    """What a shadow says beside what was decided."""
    with snapshot() as db:
        return matrix(db.connection, experiment_id)


@st.cache_data(ttl=5, max_entries=20, show_spinner=False)
def differences(experiment_id: int, zone: str) -> pd.DataFrame:
    """The newest applications of which a shadow says otherwise."""
    with snapshot() as db:
        return db.frame(_DIFFERENCES, zone, experiment_id=experiment_id, limit=DIFFERENCES)


_DIFFERENCES = """
SELECT loan_id, s.scored_at, d.decided, d.candidate, d.recommendation, d.reasons,
       d.decided_pd, d.candidate_pd, s.loan_amnt
  FROM (SELECT * FROM shadow_differences WHERE experiment_id = %(experiment_id)s
         ORDER BY decided_at DESC LIMIT %(limit)s) AS d
  LEFT JOIN scored_applications s ON s.source_id = d.source_id AND s.partition = d.partition
       AND s."offset" = d."offset" AND s.scored_at >= d.decided_at
 ORDER BY d.decided_at DESC, d."offset" DESC
"""
