"""How far a window of applications is from a baseline: every feature, the tiers, the rejects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from credit_risk_dagster.domain.drift.baseline import (
    COUNTED,
    SCORE,
    Baseline,
    Counts,
    Current,
    Floats,
    Kind,
    Reference,
    bins,
    shares,
)
from credit_risk_dagster.domain.drift.statistics import (
    OF_WINDOWS,
    chi_square,
    control_limits,
    counts_of_values,
    day_limits,
    kolmogorov_smirnov,
    psi,
    psi_by_chance,
)
from credit_risk_dagster.domain.intervals import wilson_interval

Verdict = Literal["too_few_rows", "stable", "moderate", "significant"]
# The worst last.
VERDICTS: Final[tuple[Verdict, ...]] = ("too_few_rows", "stable", "moderate", "significant")


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
        ks, ks_p: of numbers; chi2, chi2_p: of categories, and of numbers that are counts.
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


def compare(
    reference: Reference, current: Current, thresholds: Thresholds, comparisons: int = 1
) -> FeatureDrift:
    """Compare a window's counts of a feature with the baseline's.

    Args:
        comparisons: that the report makes; see `psi_by_chance`.
    """
    counts = current.counts
    ks = chi2 = None
    if reference.kind == "number":
        if reference.feature in COUNTED:
            chi2 = chi_square(*counts_of_values(reference.support_counts, counts))
        else:
            ks = kolmogorov_smirnov(reference.support_counts, counts)
        counts = np.append(bins(reference.edges, reference.support, counts), current.missing)
    else:
        chi2 = chi_square(reference.counts, counts)
    rows = int(counts.sum())
    value = psi(reference.counts, counts)
    chance = psi_by_chance(reference.counts, counts, comparisons)
    # Without a model on either side there is no score to compare.
    unknown = reference.feature == SCORE and (
        reference.missing == reference.rows or current.missing == rows
    )
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
        verdict=judge(None if unknown else value, chance[1] if chance else 0.0, rows, thresholds),
        shares=shares(counts),
    )


@dataclass(frozen=True)
class Window:
    """A window, counted.

    Attributes:
        rows, rejected: scored applications, and events that could not be scored.
        tiers: rows by position in `TIERS`.
        features: by name of the feature.
        days: of the whole days before it, in order, scored, watchlist and rejected.
        last_day: of the 24 hours until its end, scored and watchlist.
    """

    rows: int
    rejected: int
    tiers: Counts
    features: Mapping[str, Current]
    days: Sequence[tuple[int, int, int]] = ()
    last_day: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Drift:
    """How far a window is from a baseline.

    Attributes:
        tier_psi, tier_psi_floor: of the tiers' distribution.
        tier_shares: by position in `TIERS`.
        watchlist: share of the window; its 95 % interval; its control limits.
        day: applications of the last 24 hours, their share of Watchlist, and its control limits.
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
    day_rows: int
    day_share: float | None
    day_limits: tuple[float, float] | None
    reject_share: float | None
    reject_limits: tuple[float, float] | None
    features: tuple[FeatureDrift, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the features' and the tiers'."""
        found = [self.tier_verdict, *(feature.verdict for feature in self.features)]
        return max(found, key=VERDICTS.index)


def compare_window(baseline: Baseline, window: Window, thresholds: Thresholds) -> Drift:
    """Compare a window with a baseline."""
    comparisons = len(baseline.references) + 1  # and the tiers
    chance = psi_by_chance(baseline.tiers, window.tiers, comparisons)
    tier_psi = psi(baseline.tiers, window.tiers)
    watchlist, baseline_watchlist = int(window.tiers[-1]), int(baseline.tiers[-1])
    events = window.rows + window.rejected
    days = [(part, scored) for scored, part, _ in window.days]
    scored, flagged = window.last_day
    return Drift(
        tier_psi=tier_psi,
        tier_psi_floor=chance and chance[0],
        tier_verdict=judge(tier_psi, chance[1] if chance else 0.0, window.rows, thresholds),
        tier_shares=shares(window.tiers),
        watchlist_share=watchlist / window.rows if window.rows else None,
        watchlist_interval=wilson_interval(watchlist, window.rows),
        watchlist_limits=control_limits(
            baseline_watchlist, baseline.rows, window.rows, days, alarms=OF_WINDOWS
        ),
        day_rows=scored,
        day_share=flagged / scored if scored else None,
        day_limits=day_limits(baseline_watchlist, baseline.rows, scored, days),
        reject_share=window.rejected / events if events else None,
        reject_limits=control_limits(
            baseline.rejected,
            baseline.rows + baseline.rejected,
            events,
            [(rejected, scored + rejected) for scored, _, rejected in window.days],
        ),
        features=tuple(
            compare(reference, window.features[reference.feature], thresholds, comparisons)
            for reference in baseline.references
        ),
    )
