"""How far applications are from the sample that a model was developed on: PSI of its score, and of
each of its features (CSI). The sample is kept as counts by bin, with the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from credit_risk_dagster.domain.drift.baseline import (
    Feature,
    Kind,
    Reference,
    count,
    freeze_feature,
)
from credit_risk_dagster.domain.drift.comparison import Thresholds, Verdict, judge
from credit_risk_dagster.domain.drift.statistics import psi, psi_by_chance
from credit_risk_dagster.domain.features import FEATURES

SCORE = "score"


@dataclass(frozen=True)
class Stability:
    """A feature, or the score, against the development sample; None where a side has no rows."""

    feature: str
    psi: float | None
    limit: float | None
    verdict: Verdict


def freeze_sample(rows: pa.Table, features: Sequence[str], score: pa.Array) -> dict[str, Any]:
    """The bins of a development sample, as JSON.

    Args:
        rows: with the features as columns.
        score: the model's, of these rows.
    """
    columns = {SCORE: score, **{name: rows[name] for name in features}}
    found = {}
    for name, column in columns.items():
        frozen = freeze_feature(Feature(name, _kind(name), name), column)
        found[name] = {
            "edges": frozen.edges.tolist(),
            "categories": list(frozen.categories),
            "counts": frozen.counts.tolist(),
        }
    return found


def stability(
    development: Mapping[str, Any], rows: pa.Table, score: pa.Array, thresholds: Thresholds
) -> list[Stability]:
    """The applications against what `freeze_sample` kept, the score first."""
    found = []
    for name, kept in development.items():
        column = score if name == SCORE else rows[name]
        edges = np.array(kept["edges"], np.float64)
        reference = Reference(
            name,
            _kind(name),
            np.array(kept["counts"], np.int64),
            edges,
            tuple(kept["categories"]),
            edges,  # cells between the edges are the bins
            np.zeros(2 * len(edges) + 1, np.int64),
            None,
            None,
        )
        now = _counts(reference, column)
        value = psi(reference.counts, now)
        chance = psi_by_chance(reference.counts, now, len(development))
        limit = chance[1] if chance else None
        verdict = judge(value, limit or 0.0, len(rows), thresholds)
        found.append(Stability(name, value, limit, verdict))
    return sorted(found, key=lambda one: (one.feature != SCORE, -(one.psi or 0)))


def _counts(reference: Reference, column: pa.Array | pa.ChunkedArray) -> Any:
    """Rows by bin of the reference."""
    found = count(reference, column)
    if reference.kind == "category":
        return found.counts
    cells = found.counts
    starts = 2 * np.arange(1, len(reference.edges) + 1) - 1  # the cell at each edge
    bins = np.add.reduceat(cells, [0, *starts]) if len(starts) else np.array([cells.sum()])
    return np.append(bins, found.missing)


def _kind(name: str) -> Kind:
    return "category" if name in FEATURES and not FEATURES[name].risk_rises else "number"
