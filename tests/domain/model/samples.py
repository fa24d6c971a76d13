"""Samples whose truth is known."""

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.features import FEATURES
from credit_risk_dagster.domain.model.outcome import Outcome, load_outcome
from credit_risk_dagster.domain.model.sample import COLUMNS, Sample, first_decisions, make_sample
from credit_risk_dagster.domain.policy import Policy, load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY

OUTCOME = load_outcome("early_delinquency")


def rows_by(policy: Policy) -> pa.Table:
    """The built-in loans as the stream scores them by a policy."""
    values: list[bytes | None] = [msgspec.json.encode(row) for row in builtin_loans()]
    return pa.Table.from_batches([assess(decode(values), policy).scored])


@lru_cache
def builtin_rows() -> pa.Table:
    """The built-in loans that all figures here were measured on: by their first borrowers, without
    those whose DTI is above 100."""
    rows = rows_by(load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml")))
    return rows.filter(pc.less_equal(rows["dti"], 100))


def sample_of(name: str, outcome: Outcome, rows: pa.Table) -> Sample:
    """A sample of a file's rows."""
    return make_sample(outcome, first_decisions(name, rows))


@lru_cache
def streamed_sample() -> Sample:
    """The built-in loans as the default policy's stream has them."""
    return sample_of("streamed", OUTCOME, rows_by(load_policy(DEFAULT_POLICY)))


@lru_cache
def builtin_sample() -> Sample:
    return sample_of("builtin", OUTCOME, builtin_rows())


def planted(bad: Any, seed: int = 1_000, **columns: Any) -> pa.Table:
    """Rows with these outcomes; what is not given is noise that says nothing of them."""
    random = np.random.default_rng(seed)
    size = len(bad)
    noise: dict[str, Any] = {name: random.normal(50, 10, size).clip(0.1, 99) for name in FEATURES}
    noise |= {
        "loan_id": [f"{number:07d}" for number in range(size)],
        "loan_status": np.where(bad, "Charged Off", "Fully Paid").tolist(),
        "issue_d": np.full(size, "2018-01-01", dtype="datetime64[D]"),
        "delinq_2yrs": random.integers(0, 3, size).astype(np.float64),
        "inq_last_6mths": random.integers(0, 4, size).astype(np.float64),
        "term_months": random.choice([36.0, 60.0], size),
        "purpose": random.choice(["car", "medical"], size).tolist(),
        "home_ownership": random.choice(["RENT", "OWN", "MORTGAGE"], size).tolist(),
        "grade": random.choice(["A", "B", "C"], size).tolist(),
    }
    values = noise | columns
    types = builtin_rows().schema
    return pa.table(
        {
            name: pa.array(values[name], types.field(name).type, from_pandas=True)
            for name in ("loan_id", "loan_status", *COLUMNS[1:])
        }
    )


def planted_sample(bad: Any, seed: int = 1_000, **columns: Any) -> Sample:
    return sample_of("planted", OUTCOME, planted(bad, seed, **columns))


def truthful_sample() -> Sample:
    """4,000 loans of ten months, 370 of them bad, whose debts and rates tell the truth."""
    random = np.random.default_rng(6)
    size = 4_000
    dti, rate = random.uniform(0, 50, size), random.uniform(5, 30, size)
    odds = -5.5 + 0.06 * dti + 0.08 * rate
    months = np.arange("2018-01", "2018-11", dtype="datetime64[M]").repeat(size // 10)
    return planted_sample(
        random.random(size) < 1 / (1 + np.exp(-odds)),
        dti=dti,
        int_rate=rate,
        revol_util=random.uniform(0, 100, size),
        issue_d=months.astype("datetime64[D]"),
    )
