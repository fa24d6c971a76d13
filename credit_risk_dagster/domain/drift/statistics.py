"""The statistics of drift: PSI, Kolmogorov-Smirnov, chi-square and control limits, from counts.

scipy is imported where a distribution is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from credit_risk_dagster.domain.drift.baseline import Counts

# A report is no drift of which, every half hour, chance makes more than one in 20 weeks.
CHANCE: Final = 0.05 / 336
# Share that a bin counts as which is empty in the baseline: not a part of a row, or its weight
# would grow with the baseline.
EMPTY_SHARE: Final = 1e-4
_FEWEST = 5  # expected rows of a chi-square's cell
# Of a share's control limits: false alarms a day, and the part of them that is for a rise. Of the
# windows of a day, which slide on, fewer are independent: how many, simulation says.
_A_DAY, _RISES = 0.05 / 7, 0.9
_WINDOWS: Final = 14
_Z: Final = 2.5
FEWEST_DAYS: Final = 10
ORDINARY_SPREAD: Final = 0.10
# Of the false alarms of a share that has both limits, those of its last 24 hours and of its window.
_OF_DAYS: Final = 0.95
OF_WINDOWS: Final = 0.05
# Of a day's windows of 24 hours, how many are independent: as simulation says, some eight where
# chance alone moves them, and one or two where days differ; by chance's part of the variance.
_SLIDING: Final = (1.4, 8.0, 1.4)
_NODES: Final = np.linspace(-6, 12, 361)


def psi(reference: Counts, current: Counts) -> float | None:
    """Population Stability Index of counts by bin: the sum of (q - p) ln(q / p) over the bins'
    shares p and q (Siddiqi, Credit Risk Scorecards, 2006; Jeffreys' divergence).

    A bin that is empty in the reference counts as `EMPTY_SHARE`, so that 3 % that are newly missing
    weigh the same against 5,000 rows and 100,000; one that is empty now as half a row, if that is
    more, so that it weighs as little as it should by chance. Bins that are empty on both sides are
    left out. None when one side has no rows.
    """
    if not reference.sum() or not current.sum():
        return None
    used = (reference + current) > 0
    p = np.maximum(reference[used] / reference.sum(), EMPTY_SHARE)
    q = np.maximum(current[used] / current.sum(), max(EMPTY_SHARE, 0.5 / current.sum()))
    return float(((q - p) * np.log(q / p)).sum())


def psi_by_chance(
    reference: Counts, current: Counts, comparisons: int = 1
) -> tuple[float, float] | None:
    """What PSI is without any drift: its expectation, and what it exceeds once in 1 / `CHANCE`.

    Args:
        comparisons: that a report makes; each may be wrong that much less often (Bonferroni).

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
    return float(freedom * scale), float(chdtri(freedom, CHANCE / comparisons) * scale)


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


def counts_of_values(reference: Counts, current: Counts) -> tuple[Counts, Counts]:
    """Cells of a grid (below, at, between and above values in turn) as a chi-square of counts wants
    them: a cell for each value, and the largest ones together until the window expects some."""
    size = max((len(reference) - 1) // 2, 1)
    value = ((np.arange(len(reference)) - 1) // 2).clip(0, size - 1)
    m, n = reference.sum(), current.sum()
    before, now = (
        np.bincount(value, counts, minlength=size).astype(np.int64)
        for counts in (reference, current)
    )
    expected = (before + now) * (min(m, n) / max(m + n, 1))
    from_above = expected[::-1].cumsum()[::-1]
    last = max(int((from_above >= _FEWEST).sum()) - 1, 0)
    return tuple(np.append(c[:last], c[last:].sum()) for c in (before, now))  # type: ignore[return-value]


@dataclass(frozen=True)
class _Process:
    """A share as it is while nothing changes: its centre, of how many trials, the variance of a
    trial and of a day's own difference, and the days that say so (0: the baseline does)."""

    centre: float
    rows: int
    chance: float
    between: float
    days: int

    @classmethod
    def of(cls, successes: int, rows: int, days: Sequence[tuple[int, int]]) -> "_Process | None":
        days = [day for day in days if day[1]]
        known = len(days) >= FEWEST_DAYS
        if known:
            successes, rows = (sum(day[i] for day in days) for i in (0, 1))
        if not rows:
            return None
        share = successes / rows
        # With z^2 more trials, half of them successes (Agresti and Coull, 1998), so that a share of
        # zero has limits too.
        spread = (successes + _Z * _Z / 2) / (rows + _Z * _Z)
        chance = spread * (1 - spread)
        if not known:
            return cls(share, rows, chance, 2 * (ORDINARY_SPREAD * share) ** 2, 0)
        of_days = np.array([part / whole for part, whole in days])
        by_chance = np.mean([chance / whole for _, whole in days])
        between = max(float(of_days.var(ddof=1) - by_chance), 0.0) * (1 + 1 / len(days))
        return cls(share, rows, chance, between, len(days))

    def limits(
        self, rows: int, alarms: float, windows: float, freedom: int = 0
    ) -> tuple[float, float]:
        """Of a share of so many rows, which may be wrong in so many of all false alarms; of a day
        so many are independent. With degrees of freedom, days are known no better than by them."""
        errors = math.sqrt(self.between), math.sqrt(self.chance * (1 / self.rows + 1 / rows))
        below, above = (
            _reach(alarms * _A_DAY * part, *errors, windows, freedom)
            for part in (1 - _RISES, _RISES)
        )
        return max(0.0, self.centre - below), min(1.0, self.centre + above)


def day_limits(
    successes: int, baseline_rows: int, rows: int, days: Sequence[tuple[int, int]] = ()
) -> tuple[float, float] | None:
    """Between which the share of the last 24 hours stays when nothing changed, but for one week in
    20 together with `control_limits`.

    Days differ by more than chance: by how much, the days before say, and the limits are those of a
    prediction from so many days (Student's t; a p' chart, D. Laney, Quality Engineering 14, 2002).
    Arguments as of `control_limits`.
    """
    process = _Process.of(successes, baseline_rows, days)
    if process is None or not rows:
        return None
    by_chance = process.chance * (1 / process.rows + 1 / rows)
    part = by_chance / (by_chance + process.between)
    windows = _SLIDING[0] + _SLIDING[1] * part ** _SLIDING[2]
    return process.limits(rows, _OF_DAYS, windows, process.days - 1)


def control_limits(
    successes: int,
    baseline_rows: int,
    rows: int,
    days: Sequence[tuple[int, int]] = (),
    alarms: float = 1.0,
) -> tuple[float, float] | None:
    """Between which a window's share stays when nothing changed, but for one week in 20.

    All windows of a day have its difference in common: a share is chance around the day's own (a p
    chart with a random effect of the day). The centre is the share of the days before. Before there
    are `FEWEST_DAYS`, the centre is the baseline's share, and its days and the window's are taken
    to differ by `ORDINARY_SPREAD` of it. Nine tenths of the false alarms are for a rise. None
    without rows.

    Args:
        successes, baseline_rows: of the baseline.
        rows: of the window.
        days: successes and rows of the days before the window, in order.
        alarms: of all false alarms, the part that these limits may make.
    """
    process = _Process.of(successes, baseline_rows, days)
    if process is None or not rows:
        return None
    a_day = process.rows / process.days if process.days else rows
    return process.limits(rows, alarms, _WINDOWS * max(1.0, a_day / rows) ** 1.5)


def _reach(alarm: float, of_day: float, of_window: float, windows: float, freedom: int) -> float:
    """How far the farthest of a day's windows is from the centre, but with this probability."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    # Of the day's difference: normal, or Student's where few days tell how much they differ.
    exponent = -(freedom + 1) / 2
    weights = (1 + _NODES**2 / freedom) ** exponent if freedom > 0 else np.exp(-(_NODES**2) / 2)
    weights = weights / weights.sum()

    def excess(reach: float) -> float:
        within = ndtr((reach - of_day * _NODES) / of_window) ** windows
        return float(1 - (weights * within).sum()) - alarm

    return float(brentq(excess, 0, 50 * (of_day + of_window)))
