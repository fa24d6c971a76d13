"""What the drift tests share: the real loans, scored, and tables made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.drift.baseline import (
    COLUMNS,
    FEATURES,
    Baseline,
    count,
)
from credit_risk_dagster.domain.drift.comparison import Window
from credit_risk_dagster.domain.policy import TIERS, load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.settings import DEFAULT_POLICY

NUMBERS = tuple(feature.name for feature in FEATURES if feature.kind == "number")


def score(loans: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The scored rows of loans."""
    encode = msgspec.json.Encoder().encode
    assessment = assess(decode([encode(loan) for loan in loans]), load_policy(DEFAULT_POLICY))
    scored = pa.Table.from_batches([assessment.scored])
    return scored.append_column("pd", pc.divide(scored["int_rate"], 1_000.0))


def rows(length: int, **columns: Any) -> pa.Table:
    """Scored rows that are all alike, apart from the given columns."""
    alike: dict[str, Any] = {
        feature.column: 36.0
        if feature.name == "term"
        else "x"
        if feature.kind == "category"
        else 1.0
        for feature in FEATURES
    } | {"risk_tier": "Low"}
    return pa.table(
        {
            name: pa.array(columns[name], from_pandas=True, type=pa.array([value]).type)
            if name in columns
            else pa.array([value] * length)
            for name, value in alike.items()
        }
    )


def window_of(table: pa.Table, baseline: Baseline, rejected: int = 0) -> Window:
    """Count rows as a window, without a database."""
    columns = dict(zip((f.name for f in FEATURES), COLUMNS, strict=True))
    tiers = table["risk_tier"].to_pylist()
    return Window(
        rows=len(table),
        rejected=rejected,
        tiers=pa.array([tiers.count(tier) for tier in TIERS]).to_numpy(),
        features={r.feature: count(r, table[columns[r.feature]]) for r in baseline.references},
    )
