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
    for interval in (share(0, 0), paired_difference(0, 0, 0)):
        assert all(math.isnan(limit) for limit in vars(interval).values())


def test_a_paired_difference_covers_the_truth_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(1)
    gains, loses, cases, trials = 0.05, 0.02, 2_000, 4_000
    changes = rng.multinomial(cases, [gains, loses, 1 - gains - loses], trials)
    intervals = [paired_difference(int(new), int(old), cases) for new, old, _ in changes]
    covered = np.mean([i.low <= gains - loses <= i.high for i in intervals])
    assert covered == pytest.approx(0.95, abs=0.012)


def test_equal_judgements_differ_by_nothing() -> None:
    interval = paired_difference(0, 0, 10)
    assert (interval.low, interval.value, interval.high) == (0, 0, 0)
