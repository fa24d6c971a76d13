"""The baseline of drift, and counting a window over its cells.

A baseline keeps counts and no rows: for each feature the bins that PSI is computed over, and for
numbers the distinct values, so that Kolmogorov-Smirnov is exact. A window is counted over the same
cells, by `count` here or by Postgres (`resources.postgres.drift`).

Missing values are NaN or null.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.policy import TIERS

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Kind = Literal["number", "category"]

MISSING: Final = "(missing)"
OTHER: Final = "(other)"

DECILES: Final = np.arange(1, 10) / 10
# A category with a smaller share is one of the others: too few of it are in a window to tell.
SMALLEST_SHARE: Final = 0.01
# Distinct values that are kept of a number. With as many rows or fewer, KS is exact; with more, it
# is too small by at most 1 / MAX_SUPPORT.
MAX_SUPPORT: Final = 5_000


@dataclass(frozen=True)
class Feature:
    """A feature that is watched; `column` is its column of scored_applications."""

    name: str
    kind: Kind
    column: str


_NUMBERS = (
    *("loan_amnt", "annual_inc", "dti", "int_rate", "revol_util", "delinq_2yrs"),
    *("inq_last_6mths", "credit_history_years", "emp_length_yrs"),
)
_CATEGORIES = ("purpose", "grade", "addr_state", "home_ownership")
# Numbers of few values: Kolmogorov-Smirnov, which knows no ties, hardly ever sees them move.
COUNTED: Final = frozenset(("delinq_2yrs", "inq_last_6mths"))
# The score: there only while a model is active, and of another kind with another model.
SCORE: Final = "pd"
FEATURES: Final = (
    *(Feature(name, "number", name) for name in _NUMBERS),
    *(Feature(name, "category", name) for name in _CATEGORIES),
    Feature("term", "category", "term_months"),
    Feature(SCORE, "number", SCORE),
)
COLUMNS: Final = tuple(feature.column for feature in FEATURES)


# --- the baseline ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What a baseline keeps of a feature.

    Attributes:
        edges: of a number's bins, ascending: bin i holds edges[i-1] <= x < edges[i].
        categories: the frequent ones, then `MISSING`.
        counts: rows by bin. Numbers: len(edges) + 1 bins, then missing. Categories: each of
            `categories`, then all others.
        support: distinct values of a number, ascending.
        support_counts: rows by cell of `grid`.
        mean, median: of a number's values; None without any. The median is the lower one, the mean
            is of the finite ones.
    """

    feature: str
    kind: Kind
    counts: Counts
    edges: Floats
    categories: tuple[str, ...]
    support: Floats
    support_counts: Counts
    mean: float | None
    median: float | None

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def missing(self) -> int:
        return int(self.counts[-1] if self.kind == "number" else self.counts[-2])

    @property
    def shares(self) -> Floats:
        """Share of the rows by bin."""
        return shares(self.counts)

    @property
    def grid(self) -> Floats:
        """Bounds of 2 * len(support) + 1 cells: below, at, between and above the support's values
        in turn. A value x is in cell `searchsorted(grid, x, "right")`, Postgres' width_bucket."""
        return _grid(self.support)


@dataclass(frozen=True)
class Baseline:
    """A frozen population.

    Attributes:
        origin: where the rows came from, for people.
        rows: scored applications.
        rejected: events beside them that could not be scored.
        tiers: rows by position in `TIERS`.
        references: one for each of `FEATURES`, in that order.
    """

    origin: str
    rows: int
    rejected: int
    tiers: Counts
    references: tuple[Reference, ...]

    @property
    def content_hash(self) -> str:
        """SHA-256 of all counts, in hexadecimal: equal populations have equal hashes."""
        content: dict[str, Any] = {"rejected": self.rejected, "tiers": self.tiers.tolist()}
        for reference in self.references:
            content[reference.feature] = [
                list(reference.categories),
                reference.edges.tolist(),
                reference.counts.tolist(),
                reference.support.tolist(),
                reference.support_counts.tolist(),
            ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def freeze(rows: pa.Table, *, rejected: int, origin: str) -> Baseline:
    """Make a baseline of scored rows.

    Args:
        rows: `COLUMNS` and risk_tier of at least one scored application.
        rejected: events beside them that could not be scored.
        origin: where they came from.
    """
    tiers = _category_counts(rows["risk_tier"])
    return Baseline(
        origin=origin,
        rows=len(rows),
        rejected=rejected,
        tiers=np.array([tiers.get(tier, 0) for tier in TIERS], np.int64),
        references=tuple(freeze_feature(feature, rows[feature.column]) for feature in FEATURES),
    )


def with_score(rows: pa.Table) -> pa.Table:
    """Scored rows with a column for the score, empty when no model was active."""
    if SCORE in rows.schema.names:
        return rows
    return rows.append_column(SCORE, pa.nulls(len(rows), pa.float64()))


def freeze_feature(feature: Feature, column: pa.ChunkedArray | pa.Array) -> Reference:
    """Bins and counts of a feature's column."""
    if feature.kind == "category":
        return _freeze_category(feature.name, column)
    values = _numbers(column)
    known = values[~np.isnan(values)]
    support = _support(known)
    edges = _edges(known)
    support_counts = _count_cells(support, known)
    mean, median = _centre(known)
    return Reference(
        feature.name,
        "number",
        counts=np.append(bins(edges, support, support_counts), len(values) - len(known)),
        edges=edges,
        categories=(),
        support=support,
        support_counts=support_counts,
        mean=mean,
        median=median,
    )


def _freeze_category(feature: str, column: pa.ChunkedArray | pa.Array) -> Reference:
    counts = _category_counts(column)
    missing = counts.pop(MISSING, 0)
    least = SMALLEST_SHARE * len(column)
    by_size = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [(name, count) for name, count in by_size if count >= least]
    others = sum(counts.values()) - sum(count for _, count in named)
    none: Floats = np.empty(0)
    return Reference(
        feature,
        "category",
        counts=np.array([*(count for _, count in named), missing, others], np.int64),
        edges=none,
        categories=(*(name for name, _ in named), MISSING),
        support=none,
        support_counts=np.empty(0, np.int64),
        mean=None,
        median=None,
    )


def _edges(values: Floats) -> Floats:
    """Deciles that are values themselves, so that every bin has some; fewer where values repeat.

    When one value is so frequent that all deciles are equal to it, it has a bin of its own.
    """
    if not len(values):
        return values
    edges = np.unique(np.quantile(values, DECILES, method="inverted_cdf"))
    edges = edges[edges > values.min()]
    return edges if len(edges) else _grid(values.min(keepdims=True))


def _support(values: Floats) -> Floats:
    distinct = np.unique(values)
    if len(distinct) <= MAX_SUPPORT:
        return distinct
    kept = np.quantile(values, np.arange(1, MAX_SUPPORT) / MAX_SUPPORT, method="inverted_cdf")
    return np.unique(np.concatenate([distinct[[0, -1]], kept, _edges(values)]))


def _grid(support: Floats) -> Floats:
    with np.errstate(over="ignore"):  # after the greatest number comes infinity
        return np.column_stack([support, np.nextafter(support, math.inf)]).ravel()


def bins(edges: Floats, support: Floats, cells: Counts) -> Counts:
    """Sum cells of the grid to bins; every edge is a bound of a cell."""
    starts = np.searchsorted(_grid(support), edges, side="left") + 1
    return np.add.reduceat(cells, [0, *starts])


# --- counting a window ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Current:
    """What a window holds of a feature.

    Attributes:
        counts: rows by cell of the reference's grid (numbers, without the missing ones), or by its
            categories and then all others.
        missing: rows without a value.
        mean, median: as in `Reference`.
    """

    counts: Counts
    missing: int
    mean: float | None = None
    median: float | None = None


def count(reference: Reference, column: pa.ChunkedArray | pa.Array) -> Current:
    """Count a feature's column over the cells of its reference."""
    if reference.kind == "number":
        values = _numbers(column)
        known = values[~np.isnan(values)]
        counts = _count_cells(reference.support, known)
        return Current(counts, len(values) - len(known), *_centre(known))
    found = _category_counts(column)
    named = [found.pop(name, 0) for name in reference.categories]
    return Current(np.array([*named, sum(found.values())], np.int64), named[-1])


def _count_cells(support: Floats, values: Floats) -> Counts:
    cells = np.searchsorted(_grid(support), values, side="right")
    return np.bincount(cells, minlength=2 * len(support) + 1)


def _category_counts(column: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    texts = pc.fill_null(pc.cast(column, pa.string()), MISSING)
    found = pc.value_counts(texts)
    return dict(
        zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    )


def _numbers(column: pa.ChunkedArray | pa.Array) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _centre(values: Floats) -> tuple[float | None, float | None]:
    """Mean of the finite values and lower median of all."""
    if not len(values):
        return None, None
    finite = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        mean = float(finite.mean()) if len(finite) else math.nan
    median = float(np.quantile(values, 0.5, method="inverted_cdf"))
    return mean if math.isfinite(mean) else None, median


def shares(counts: Counts) -> Floats:
    """Each bin's share of all rows; 0 without rows."""
    return counts / max(int(counts.sum()), 1)


def bin_labels(
    kind: Kind, edges: Sequence[float] | Floats, categories: Sequence[str]
) -> Sequence[str]:
    """A name for each bin of a `Reference`, in the order of its shares."""
    if kind == "category":
        return [*categories, OTHER]
    names = [f"{edge:,.6g}" for edge in edges]
    if not names:
        return ["all", MISSING]
    between = [f"{low} to {high}" for low, high in pairwise(names)]
    return [f"< {names[0]}", *between, f">= {names[-1]}", MISSING]
