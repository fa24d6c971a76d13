"""Latency histograms against NumPy's percentiles of the same data."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_risk_dagster.domain.latency import BOUNDS_SECONDS, histogram, percentile

BUCKETS = len(BOUNDS_SECONDS) + 1


def bucket_of(seconds: float) -> int:
    """Its bucket, the slow way."""
    return next((i for i, bound in enumerate(BOUNDS_SECONDS) if seconds <= bound), BUCKETS - 1)


def test_bounds_ascend() -> None:
    assert list(BOUNDS_SECONDS) == sorted(set(BOUNDS_SECONDS))
    assert BOUNDS_SECONDS[0] > 0


def test_a_bound_belongs_to_its_own_bucket() -> None:
    bounds = np.array(BOUNDS_SECONDS)
    assert histogram(bounds).tolist() == [1] * (BUCKETS - 1) + [0]
    assert histogram(np.nextafter(bounds, np.inf)).tolist() == [0] + [1] * (BUCKETS - 1)


def test_clock_skew_counts_as_zero() -> None:
    skewed = histogram(np.array([-3600.0, -1e-9, 0.0]))
    assert skewed.tolist() == [3] + [0] * (BUCKETS - 1)
    assert 0 <= percentile(skewed.tolist(), 50) <= BOUNDS_SECONDS[0]


def test_nothing_has_no_percentile() -> None:
    empty = histogram(np.array([])).tolist()
    assert empty == [0] * BUCKETS
    assert math.isnan(percentile(empty, 50))


def test_beyond_the_last_bound_is_the_last_bound() -> None:
    buckets = histogram(np.array([BOUNDS_SECONDS[-1] + 1, 1e9, np.inf])).tolist()
    assert buckets[-1] == 3
    assert [percentile(buckets, q) for q in (0, 50, 100)] == [BOUNDS_SECONDS[-1]] * 3


def test_a_percentile_is_interpolated_inside_its_bucket() -> None:
    buckets = histogram(np.full(4, 0.11)).tolist()  # between 0.1 and 0.125
    assert [percentile(buckets, q) for q in (0, 25, 50, 100)] == pytest.approx(
        [0.1, 0.10625, 0.1125, 0.125]
    )


def test_histograms_add_up() -> None:
    random = np.random.default_rng(1)
    parts = [random.exponential(0.2, size) for size in (0, 1, 1_000)]
    total = sum(histogram(part) for part in parts)
    assert np.array_equal(total, histogram(np.concatenate(parts)))


@pytest.mark.parametrize("q", [0, 1, 50, 95, 99, 99.9, 100])
@pytest.mark.parametrize("size", [7, 1_000, 100_001])
@pytest.mark.parametrize("distribution", ["exponential", "lognormal", "uniform"])
def test_percentiles_of_random_latencies(distribution: str, size: int, q: float) -> None:
    random = np.random.default_rng(size)
    seconds = {
        "exponential": lambda: random.exponential(0.15, size),
        "lognormal": lambda: random.lognormal(-1.5, 1.0, size),
        "uniform": lambda: random.uniform(-0.1, 50.0, size),
    }[distribution]()
    exact = max(float(np.percentile(seconds, q, method="inverted_cdf")), 0.0)
    upper = bucket_of(exact)
    width = BOUNDS_SECONDS[upper] - (BOUNDS_SECONDS[upper - 1] if upper else 0.0)
    assert percentile(histogram(seconds).tolist(), q) == pytest.approx(exact, abs=width)


@given(
    seconds=st.lists(st.floats(-10, 10_000), min_size=1, max_size=50),
    q=st.integers(0, 100),
)
def test_a_percentile_is_in_the_bucket_of_the_latency_it_stands_for(
    seconds: list[float], q: int
) -> None:
    estimate = percentile(histogram(np.array(seconds)).tolist(), q)
    rank = max(-(-len(seconds) * q // 100), 1)  # rounded up
    bucket = bucket_of(sorted(seconds)[rank - 1])
    edges = [0.0, *BOUNDS_SECONDS, BOUNDS_SECONDS[-1]]
    assert edges[bucket] <= estimate <= edges[bucket + 1]


@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=50))
def test_percentiles_ascend(seconds: list[float]) -> None:
    buckets = histogram(np.array(seconds)).tolist()
    estimates = [percentile(buckets, q) for q in range(0, 101, 5)]
    assert estimates == sorted(estimates)
