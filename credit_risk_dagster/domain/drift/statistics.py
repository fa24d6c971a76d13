"""Drift: how far a window of applications is from a frozen baseline.

A baseline keeps counts and no rows: for each feature the bins that PSI is computed over, and for
numbers the distinct values, so that Kolmogorov-Smirnov is exact. A window is counted over the same
cells, by `count` here or by Postgres (`resources.postgres.drift`); then only counts are compared.

Missing values are NaN or null. scipy is imported where a distribution is needed.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.intervals import wilson_interval
from credit_risk_dagster.domain.policy import TIERS

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Kind = Literal["number", "category"]
Verdict = Literal["too_few_rows", "stable", "moderate", "significant"]

# The worst last.
VERDICTS: Final[tuple[Verdict, ...]] = ("too_few_rows", "stable", "moderate", "significant")
MISSING: Final = "(missing)"
OTHER: Final = "(other)"

DECILES: Final = np.arange(1, 10) / 10
# A category with a smaller share is one of the others: too few of it are in a window to tell.
SMALLEST_SHARE: Final = 0.01
# Distinct values that are kept of a number. With as many rows or fewer, KS is exact; with more, it
# is too small by at most 1 / MAX_SUPPORT.
MAX_SUPPORT: Final = 5_000
# A PSI is no drift that more than one window in so many has by chance.
CHANCE: Final = 0.001
CONTROL_SIGMAS: Final = 3.0


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
FEATURES: Final = (
    *(Feature(name, "number", name) for name in _NUMBERS),
    *(Feature(name, "category", name) for name in ("purpose", "grade", "addr_state")),
    Feature("term", "category", "term_months"),
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
        return _shares(self.counts)

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
        counts=np.append(_bins(edges, support, support_counts), len(values) - len(known)),
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


def _bins(edges: Floats, support: Floats, cells: Counts) -> Counts:
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


# --- statistics -----------------------------------------------------------------------------------


def psi(reference: Counts, current: Counts) -> float | None:
    """Population Stability Index of counts by bin: the sum of (q - p) ln(q / p) over the bins'
    shares p and q (Siddiqi, Credit Risk Scorecards, 2006; Jeffreys' divergence).

    An empty bin counts as half a row, so that its logarithm exists and a bin that is empty by
    chance weighs as little as it should; bins that are empty on both sides are left out. None when
    one side has no rows.
    """
    if not reference.sum() or not current.sum():
        return None
    used = (reference + current) > 0
    p = np.maximum(reference[used], 0.5) / reference.sum()
    q = np.maximum(current[used], 0.5) / current.sum()
    return float(((q - p) * np.log(q / p)).sum())


def psi_by_chance(reference: Counts, current: Counts) -> tuple[float, float] | None:
    """What PSI is without any drift: its expectation, and what it exceeds once in 1 / `CHANCE`.

    With B bins and samples of m and n rows, PSI / (1/m + 1/n) has a chi-square distribution with
    B - 1 degrees of freedom (Yurdakul, Statistical Properties of the Population Stability Index,
    2018), and so the expectation (B - 1) (1/m + 1/n). None when one side has no rows.
    """
    m, n = reference.sum(), current.sum()
    if not m or not n:
        return None
    freedom = int(((reference + current) > 0).sum()) - 1
    if not freedom:
        return 0.0, 0.0
    from scipy.special import chdtri

    scale = 1 / m + 1 / n
    return float(freedom * scale), float(chdtri(freedom, CHANCE) * scale)


def kolmogorov_smirnov(reference: Counts, current: Counts) -> tuple[float, float] | None:
    """Greatest distance of two distribution functions, from counts by the same ascending cells, and
    its asymptotic two-sided p-value (`scipy.stats.ks_2samp(method="asymp")`: Hodges, 1958).

    Exact when every value of one sample has a cell of its own: the other one's function cannot be
    farther away between two of them than at their ends. None when one side has no rows.
    """
    m, n = int(reference.sum()), int(current.sum())
    if not m or not n:
        return None
    from scipy.stats import kstwo

    distance = float(np.abs(np.cumsum(reference) / m - np.cumsum(current) / n).max())
    effective = np.round(m * n / (m + n))  # 0 for one row against one: nothing can be told
    return distance, float(np.clip(kstwo.sf(distance, effective), 0, 1)) if effective else 1.0


def chi_square(reference: Counts, current: Counts) -> tuple[float, float] | None:
    """Pearson's chi-square of homogeneity of two samples by category, and its p-value, without
    continuity correction (`scipy.stats.chi2_contingency(..., correction=False)`). Categories that
    are empty on both sides are left out. None when one side has no rows."""
    m, n = reference.sum(), current.sum()
    if not m or not n:
        return None
    from scipy.special import chdtrc

    used = (reference + current) > 0
    observed = np.stack([reference[used], current[used]]).astype(np.float64)
    expected = np.outer([m, n], observed.sum(axis=0) / (m + n))
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = int(used.sum()) - 1
    return statistic, float(chdtrc(freedom, statistic)) if freedom else 1.0


def control_limits(successes: int, baseline_rows: int, rows: int) -> tuple[float, float] | None:
    """Between which a window's share stays when nothing changed: the baseline's share and
    `CONTROL_SIGMAS` standard errors of the difference of the two, as of a p-chart (Montgomery,
    Statistical Quality Control) whose centre is itself estimated.

    The errors are those of a share with z^2 more trials, half of them successes (Agresti and Coull,
    1998), so that a baseline without a single one has limits too. None without rows.
    """
    if not baseline_rows or not rows:
        return None
    z = CONTROL_SIGMAS
    share = successes / baseline_rows
    spread = (successes + z * z / 2) / (baseline_rows + z * z)
    half = z * math.sqrt(spread * (1 - spread) * (1 / baseline_rows + 1 / rows))
    return max(0.0, share - half), min(1.0, share + half)


# --- the report -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thresholds:
    """From which PSI on drift is moderate and significant, and rows below which neither is said."""

    moderate: float = 0.10
    significant: float = 0.25
    min_rows: int = 500


def judge(value: float | None, limit: float, rows: int, thresholds: Thresholds) -> Verdict:
    """The usual convention, but never from few rows, and never what chance explains."""
    if value is None or rows < thresholds.min_rows:
        return "too_few_rows"
    if value > thresholds.significant and value > limit:
        return "significant"
    return "moderate" if value >= thresholds.moderate and value > limit else "stable"


@dataclass(frozen=True)
class FeatureDrift:
    """How far a feature is from its reference. What cannot be computed is None.

    Attributes:
        psi, psi_floor, psi_limit: see `psi` and `psi_by_chance`.
        ks, ks_p: of numbers; chi2, chi2_p: of categories.
        shares: of the window's rows by bin, in the order of `Reference.shares`.
    """

    feature: str
    kind: Kind
    psi: float | None
    psi_floor: float | None
    psi_limit: float | None
    ks: float | None
    ks_p: float | None
    chi2: float | None
    chi2_p: float | None
    mean: float | None
    reference_mean: float | None
    median: float | None
    reference_median: float | None
    missing_share: float | None
    reference_missing_share: float | None
    verdict: Verdict
    shares: Floats


def compare(reference: Reference, current: Current, thresholds: Thresholds) -> FeatureDrift:
    """Compare a window's counts of a feature with the baseline's."""
    counts = current.counts
    ks = chi2 = None
    if reference.kind == "number":
        ks = kolmogorov_smirnov(reference.support_counts, counts)
        counts = np.append(_bins(reference.edges, reference.support, counts), current.missing)
    else:
        chi2 = chi_square(reference.counts, counts)
    rows = int(counts.sum())
    value, chance = psi(reference.counts, counts), psi_by_chance(reference.counts, counts)
    return FeatureDrift(
        feature=reference.feature,
        kind=reference.kind,
        psi=value,
        psi_floor=chance and chance[0],
        psi_limit=chance and chance[1],
        ks=ks and ks[0],
        ks_p=ks and ks[1],
        chi2=chi2 and chi2[0],
        chi2_p=chi2 and chi2[1],
        mean=current.mean,
        reference_mean=reference.mean,
        median=current.median,
        reference_median=reference.median,
        missing_share=current.missing / rows if rows else None,
        reference_missing_share=reference.missing / reference.rows if reference.rows else None,
        verdict=judge(value, chance[1] if chance else 0.0, rows, thresholds),
        shares=_shares(counts),
    )


@dataclass(frozen=True)
class Window:
    """A window, counted.

    Attributes:
        rows, rejected: scored applications, and events that could not be scored.
        tiers: rows by position in `TIERS`.
        features: by name of the feature.
    """

    rows: int
    rejected: int
    tiers: Counts
    features: Mapping[str, Current]


@dataclass(frozen=True)
class Drift:
    """How far a window is from a baseline.

    Attributes:
        tier_psi, tier_psi_floor: of the tiers' distribution.
        tier_shares: by position in `TIERS`.
        watchlist: share of the window; its 95 % interval; its control limits from the baseline.
        reject: share of the events that could not be scored, and its control limits.
        features: in the order of `FEATURES`.
    """

    tier_psi: float | None
    tier_psi_floor: float | None
    tier_verdict: Verdict
    tier_shares: Floats
    watchlist_share: float | None
    watchlist_interval: tuple[float, float] | None
    watchlist_limits: tuple[float, float] | None
    reject_share: float | None
    reject_limits: tuple[float, float] | None
    features: tuple[FeatureDrift, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the features' and the tiers'."""
        found = [self.tier_verdict, *(feature.verdict for feature in self.features)]
        return max(found, key=VERDICTS.index)

    def with_verdict(self, verdict: Verdict) -> list[FeatureDrift]:
        """The features with that verdict, the highest PSI first."""
        found = [feature for feature in self.features if feature.verdict == verdict]
        return sorted(found, key=lambda feature: -(feature.psi or 0))


def compare_window(baseline: Baseline, window: Window, thresholds: Thresholds) -> Drift:
    """Compare a window with a baseline."""
    chance = psi_by_chance(baseline.tiers, window.tiers)
    tier_psi = psi(baseline.tiers, window.tiers)
    watchlist, baseline_watchlist = int(window.tiers[-1]), int(baseline.tiers[-1])
    events = window.rows + window.rejected
    return Drift(
        tier_psi=tier_psi,
        tier_psi_floor=chance and chance[0],
        tier_verdict=judge(tier_psi, chance[1] if chance else 0.0, window.rows, thresholds),
        tier_shares=_shares(window.tiers),
        watchlist_share=watchlist / window.rows if window.rows else None,
        watchlist_interval=wilson_interval(watchlist, window.rows),
        watchlist_limits=control_limits(baseline_watchlist, baseline.rows, window.rows),
        reject_share=window.rejected / events if events else None,
        reject_limits=control_limits(baseline.rejected, baseline.rows + baseline.rejected, events),
        features=tuple(
            compare(reference, window.features[reference.feature], thresholds)
            for reference in baseline.references
        ),
    )


def _shares(counts: Counts) -> Floats:
    return counts / max(int(counts.sum()), 1)


def bin_labels(reference: Reference) -> Sequence[str]:
    """A name for each bin, in the order of `Reference.shares`."""
    if reference.kind == "category":
        return [*reference.categories, OTHER]
    edges = [f"{edge:,.6g}" for edge in reference.edges]
    if not edges:
        return ["all", MISSING]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"< {edges[0]}", *between, f">= {edges[-1]}", MISSING]
