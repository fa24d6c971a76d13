"""Figures before the outcomes: they hold without drift, and see other people come."""

import numpy as np
import pytest

from credit_risk_dagster.domain.model.estimated import Estimate, estimate
from credit_risk_dagster.domain.model.measures import auc_interval
from credit_risk_dagster.domain.pd import probability


def window(
    random: np.random.Generator, size: int = 5_000, shift: float = 0.0, spread: float = 1.0
) -> np.ndarray:
    """PDs of a window of about 3 % bad loans."""
    return probability(random.normal(-3.7 + shift, spread, size))


def estimated(pd: np.ndarray) -> Estimate:
    found = estimate(pd, pd > 0.08)
    assert found
    return found


def test_without_drift_the_realised_figures_are_in_their_intervals() -> None:
    random = np.random.default_rng(1)
    inside = {"auc": 0, "bad_rate": 0, "recall": 0}
    for _ in range(40):
        pd = window(random)
        bad = random.random(len(pd)) < pd
        realised = {
            "auc": auc_interval(bad, pd)[0],
            "bad_rate": bad.mean(),
            "recall": bad[pd > 0.08].sum() / bad.sum(),
        }
        found = estimated(pd)
        for name, value in realised.items():
            interval = getattr(found, name)
            inside[name] += interval.low <= value <= interval.high
    assert all(count >= 36 for count in inside.values()), inside


def test_the_expectation_is_that_of_the_pds() -> None:
    """By its definition, pair by pair."""
    pd = window(np.random.default_rng(2), 400)
    above = (pd[:, None] > pd[None, :]) + 0.5 * (pd[:, None] == pd[None, :])
    weight = pd[:, None] * (1 - pd[None, :])
    np.fill_diagonal(weight, 0)
    found = estimated(pd)
    assert found.auc.value == pytest.approx((above * weight).sum() / weight.sum(), abs=0.02)
    assert found.bad_rate.value == pytest.approx(pd.mean(), rel=0.05)


def test_other_people_are_seen() -> None:
    """A shift of the covariates; the realised figures follow."""
    random = np.random.default_rng(3)
    before, alike = (estimated(window(random)) for _ in range(2))
    riskier = estimated(window(random, shift=0.7))
    assert riskier.bad_rate.low > before.bad_rate.high
    assert alike.bad_rate.low < before.bad_rate.value < alike.bad_rate.high
    narrow = window(random, spread=0.4)
    bad = random.random(len(narrow)) < narrow
    found = estimated(narrow)
    assert found.auc.high < before.auc.value
    assert found.auc.low <= auc_interval(bad, narrow)[0] <= found.auc.high


def test_the_same_people_who_became_riskier_are_not_seen() -> None:
    """Which is what the page says: only outcomes tell."""
    random = np.random.default_rng(4)
    pd = window(random)
    bad = random.random(len(pd)) < np.minimum(2 * pd, 1)
    assert bad.mean() > estimated(pd).bad_rate.high


def test_nothing_is_estimated_of_nothing() -> None:
    assert estimate(np.empty(0), np.empty(0, dtype=np.bool_)) is None
    assert estimate(np.full(100, 0.02), np.zeros(100, dtype=np.bool_)) is None


def test_a_large_window_is_sampled() -> None:
    pd = window(np.random.default_rng(5), 90_000)
    found = estimated(pd)
    assert found.loans == 90_000
    assert found.bad_rate.value == pytest.approx(pd.mean(), rel=0.05)
