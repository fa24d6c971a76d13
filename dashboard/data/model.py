"""What the Model page shows: models, and the benchmarks of their kinds."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.model.benchmark import SUBJECTS
from dashboard.data.connection import snapshot

BENCHMARKS = 100


@dataclass(frozen=True)
class ModelHistory:
    """What was trained and measured, the newest first; times in a zone.

    Attributes:
        benchmarks: the newest `BENCHMARKS`, a row for each subject, the rules first:
            `benchmark_id`, `subject`, `created_at`, `outcome`, `sample`, `rows`, `auc`, `auc_low`,
            `auc_high`.
        models: every model: the columns of `models` without the artifact, and `can_score`.
    """

    as_of: pd.Timestamp
    benchmarks: pd.DataFrame
    models: pd.DataFrame


@st.cache_data(ttl=10, max_entries=20, show_spinner=False)
def model_history(zone: str) -> ModelHistory:
    """The benchmarks and the models."""
    with snapshot() as db:
        return ModelHistory(
            as_of=db.now(zone),
            benchmarks=db.frame(_BENCHMARKS, zone, benchmarks=BENCHMARKS, subjects=[*SUBJECTS]),
            models=db.frame(_MODELS, zone),
        )


@dataclass(frozen=True)
class ModelBenchmark:
    """A benchmark.

    Attributes:
        subjects: by `subject`, the rules first: the columns of `model_benchmarks`.
        curves: `subject`, `curve`, `point`, `x`, `y`.
    """

    subjects: pd.DataFrame
    curves: pd.DataFrame


@st.cache_data(ttl="10min", max_entries=20, show_spinner=False)
def model_benchmark(benchmark_id: int, zone: str) -> ModelBenchmark:
    """A benchmark with all that was measured, times in a zone."""
    with snapshot() as db:
        return ModelBenchmark(
            subjects=db.frame(
                _BENCHMARK, zone, benchmark=benchmark_id, subjects=[*SUBJECTS]
            ).set_index("subject"),
            curves=db.frame(_CURVES, zone, benchmark=benchmark_id),
        )


_BENCHMARKS = """
    SELECT benchmark_id, subject, created_at, outcome, sample, rows, auc, auc_low, auc_high
      FROM model_benchmarks
     WHERE benchmark_id > (SELECT coalesce(max(benchmark_id), 0) FROM model_benchmarks)
                          - %(benchmarks)s
     ORDER BY benchmark_id DESC, array_position(%(subjects)s::text[], subject)
"""
_BENCHMARK = """
    SELECT * FROM model_benchmarks WHERE benchmark_id = %(benchmark)s
     ORDER BY array_position(%(subjects)s::text[], subject)
"""
_MODELS = """
    SELECT model_id, m.kind, version, created_at, effective_from AS activated_at,
           effective_to AS retired_at, run_id, outcome, features, purpose, sample, seed, rows, bads,
           code_version, metrics, coefficients::text, coefficients IS NOT NULL AS can_score
      FROM models m
      LEFT JOIN LATERAL (SELECT effective_from, effective_to FROM activations
                          WHERE kind = 'model' AND subject_id = model_id
                          ORDER BY effective_from DESC LIMIT 1) AS last ON true
     ORDER BY model_id DESC
"""
_CURVES = """
    SELECT subject, curve, point, x, y FROM model_curves
     WHERE benchmark_id = %(benchmark)s ORDER BY subject, curve, point
"""
