"""Fair lending figures: the built-in loans under the first policy, and planted differences."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import contingency

from credit_risk_dagster.domain.fairness import Segment, by_class, by_segment, risk_ratio

# Loans and those on the Watchlist, of the built-in loans under lendingclub-v1 as it began.
BUILT_IN = {
    "application_type": {"Individual": (8505, 296), "Joint App": (1438, 144)},
    "home_ownership": {"MORTGAGE": (4754, 194), "OWN": (1348, 58), "RENT": (3841, 188)},
    "addr_state": {"PA": (298, 23), "SC": (144, 1)},
    "grade": {
        "A": (2448, 32),
        "B": (3021, 97),
        "C": (2640, 152),
        "D": (1433, 119),
        "E": (332, 32),
        "F": (57, 7),
        "G": (12, 1),
    },
}


def segments(counts: dict[str, tuple[int, int]], **more: Any) -> dict[str, Segment]:
    values = np.array([v for v, (rows, _) in counts.items() for _ in range(rows)], dtype=object)
    flagged = np.concatenate([np.arange(rows) < part for rows, part in counts.values()])
    return {s.value: s for s in by_segment({"attribute": values}, flagged, **more)}


@pytest.mark.parametrize(
    ("attribute", "value", "ratio", "verdict"),
    [
        ("application_type", "Joint App", 0.932, "fair"),
        ("home_ownership", "RENT", 0.992, "fair"),
        ("addr_state", "PA", 0.929, "fair"),
        ("grade", "F", 0.889, "too_few_rows"),
        ("grade", "E", 0.916, "fair"),
    ],
)
def test_the_built_in_loans(attribute: str, value: str, ratio: float, verdict: str) -> None:
    found = segments(BUILT_IN[attribute])[value]
    assert found.ratio.value == pytest.approx(ratio, abs=0.0006)
    assert found.ratio.low < found.ratio.value < found.ratio.high
    assert found.verdict == verdict


def test_the_interval_of_a_ratio_is_scipys() -> None:
    for counts in ((90, 100, 450, 480), (1294, 1438, 8209, 8505), (5, 9, 3, 40)):
        expected = contingency.relative_risk(*counts)
        found = risk_ratio(*counts)
        assert found.value == pytest.approx(expected.relative_risk)
        interval = expected.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    nobody = risk_ratio(0, 100, 90, 100)
    assert nobody.value == 0
    assert math.isnan(nobody.high)


@pytest.mark.parametrize(
    ("flagged", "verdict"), [(100, "fair"), (101, "warning"), (200, "warning"), (201, "alarm")]
)
def test_warning_and_alarm(flagged: int, verdict: str) -> None:
    found = segments({"a": (1_000, 0), "b": (1_000, flagged)})
    assert (found["a"].verdict, found["b"].verdict) == ("fair", verdict)
    assert found["b"].reference == "a"


def test_few_people_have_figures_and_no_verdict() -> None:
    found = segments({"a": (1_000, 10), "b": (500, 20), "c": (99, 99)})
    assert (found["c"].verdict, found["c"].ratio.value) == ("too_few_rows", 0)
    assert found["c"].reference == "a"
    assert segments({"a": (1_000, 10), "b": (99, 9)}) == {}


def test_who_has_no_value_is_nobody() -> None:
    values = np.array([None] * 200 + ["a"] * 200 + ["b"] * 200, dtype=object)
    found = by_segment({"x": values}, np.arange(600) % 20 == 0)
    assert [segment.rows for segment in found] == [200, 200]


def test_scores_and_outcomes_by_segment() -> None:
    random = np.random.default_rng(2)
    score = np.concatenate([random.normal(0, 1, 20_000), random.normal(0.5, 1, 20_000)])
    bad = np.concatenate([np.tile([1.0, 0.0, np.nan, 0.0], 5_000)] * 2)
    values = np.repeat(np.array(["a", "b"], dtype=object), 20_000)
    flagged = (bad == 1) & (np.arange(40_000) % 8 == 0) | (bad == 0) & (score > 2)
    found = {s.value: s for s in by_segment({"x": values}, flagged, score, bad)}
    assert found["b"].difference == pytest.approx(0.5, abs=0.03)
    assert found["a"].difference == 0
    for name, part in (("a", values == "a"), ("b", values == "b")):
        recall, wrongly = found[name].recall, found[name].false_positive
        assert recall.value == flagged[part & (bad == 1)].mean() == 0.5
        assert wrongly.value == flagged[part & (bad == 0)].mean()
        assert recall.low < recall.value < recall.high
    assert math.isnan(segments({"a": (200, 1), "b": (200, 2)})["a"].recall.value)


def test_classes_that_are_known_are_segments() -> None:
    random = np.random.default_rng(3)
    values = random.choice(np.array(["a", "b", "c"], dtype=object), 3_000)
    flagged, score = random.random(3_000) < 0.1, random.normal(size=3_000)
    bad = random.choice([0.0, 1.0, np.nan], 3_000)
    weights = {v: (values == v).astype(float) for v in "abc"}
    by_weights = by_class({"x": weights}, flagged, score, bad)
    assert by_weights == by_segment({"x": values}, flagged, score, bad)


@pytest.mark.parametrize("sure", [0.99, 0.8, 0.6])
def test_by_probability_a_difference_is_found_and_the_intervals_hold(sure: float) -> None:
    """Group b is flagged at 30 %, a at 10 %; by a probability of `sure` one is taken for what one
    is: each class is a mixture of both, and the ratio is that of the mixtures."""
    same = sure**2 + (1 - sure) ** 2
    kept = [1 - (same * one + (1 - same) * other) for one, other in ((0.1, 0.3), (0.3, 0.1))]
    truth = kept[1] / kept[0]
    random = np.random.default_rng(4)
    covered, ratios = 0, []
    for _ in range(200):
        of_b = random.random(2_000) < 0.5
        seen_as_b = of_b == (random.random(2_000) < sure)
        p = np.where(seen_as_b, sure, 1 - sure)
        flagged = random.random(2_000) < np.where(of_b, 0.3, 0.1)
        found = {s.value: s for s in by_class({"x": {"a": 1 - p, "b": p}}, flagged)}
        ratio = found["b"].ratio
        ratios.append(ratio.value)
        covered += ratio.low <= truth <= ratio.high
        assert found["b"].rows == pytest.approx(1_000, abs=150)
    assert np.mean(ratios) == pytest.approx(truth, abs=0.01)
    assert covered >= 185


def test_few_people_by_probability_are_few() -> None:
    weights = {"a": np.full(1_000, 0.55), "b": np.full(1_000, 0.36), "c": np.full(1_000, 0.09)}
    found = {s.value: s for s in by_class({"x": weights}, np.arange(1_000) % 10 == 0)}
    assert {v: (s.rows, s.verdict) for v, s in found.items()} == {
        "a": (550, "fair"),
        "b": (360, "fair"),
        "c": (90, "too_few_rows"),
    }
