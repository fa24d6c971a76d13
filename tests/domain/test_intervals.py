"""Confidence intervals, against scipy's and a simulation."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from credit_risk_dagster.domain.intervals import paired_difference, share


@pytest.mark.parametrize(
    ("part", "whole"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 50), (499, 1_000), (7, 1_000_000)]
)
def test_a_share_has_the_interval_that_scipy_gives_it(part: int, whole: int) -> None:
    expected = binomtest(part, whole).proportion_ci(0.95, method="wilson")
    interval = share(part, whole)
    assert interval.value == part / whole
    assert interval.low == pytest.approx(expected.low, abs=1e-12)
    assert interval.high == pytest.approx(expected.high, abs=1e-12)


def test_of_nothing_there_is_no_share() -> None:
    for interval in (share(0, 0), paired_difference(0, 0, 0, 0)):
        assert all(math.isnan(limit) for limit in vars(interval).values())


@pytest.mark.parametrize(
    ("gains", "loses", "cases"),
    [(0.05, 0.02, 2_000), (0.01, 0.002, 150), (0.004, 0.0, 500), (0.0, 0.03, 40), (0.2, 0.2, 30)],
)
def test_a_paired_difference_covers_the_truth_in_95_of_100_samples(
    gains: float, loses: float, cases: int
) -> None:
    """Also where few of the cases move: Wald's interval covers 59 to 83 % there."""
    rng = np.random.default_rng(1)
    kept = [0.04, gains, loses, 0.96 - gains - loses]
    intervals = [
        paired_difference(int(both), int(new), int(old), cases)
        for both, new, old, _ in rng.multinomial(cases, kept, 2_000)
    ]
    covered = np.mean([i.low <= gains - loses <= i.high for i in intervals])
    assert covered >= 0.938
    assert all(-1 <= i.low <= i.value <= i.high <= 1 for i in intervals)
    assert all(i.low < i.high for i in intervals)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((20, 12, 2, 16), 0.0562, 0.3292)],
)
def test_a_paired_difference_is_newcombes(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    both, gained, lost, _ = table
    interval = paired_difference(both, gained, lost, sum(table))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-4)
