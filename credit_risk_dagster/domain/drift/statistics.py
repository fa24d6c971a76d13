"""The statistics of drift: PSI, Kolmogorov-Smirnov, chi-square and control limits, from counts.

scipy is imported where a distribution is needed.
"""

import math
from typing import Final

import numpy as np

from credit_risk_dagster.domain.drift.baseline import Counts

# A PSI is no drift that more than one window in so many has by chance.
CHANCE: Final = 0.001
CONTROL_SIGMAS: Final = 3.0


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
