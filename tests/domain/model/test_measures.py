"""How scores are measured: against scikit-learn, scipy and optbinning, and in cases whose answer is
known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from credit_risk_dagster.domain.model.measures import (
    Ranking,
    auc_interval,
    calibration,
    evaluate,
    gains,
    rate_interval,
)
from tests.data import optbinning_answers
from tests.data.optbinning_answers import SEEDS
from tests.data.optbinning_answers import drawn_loans as drawn

OPTBINNING = optbinning_answers.stored()


# --- parity -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=60))
def test_auc_gini_and_ks_are_scikit_learns(loans: list[tuple[bool, int]]) -> None:
    bad = np.array([outcome for outcome, _ in loans])
    score = np.array([value for _, value in loans], dtype=np.float64)
    if bad.all() or not bad.any():
        return
    found = evaluate(bad, score, is_probability=False)
    assert found.auc == pytest.approx(roc_auc_score(bad, score), abs=1e-12)
    assert found.gini == pytest.approx(2 * roc_auc_score(bad, score) - 1, abs=1e-12)
    false_positive, true_positive, _ = roc_curve(bad, score, drop_intermediate=False)
    assert found.ks == pytest.approx(np.abs(true_positive - false_positive).max(), abs=1e-12)
    assert found.auc_low <= found.auc <= found.auc_high


@pytest.mark.parametrize("seed", SEEDS)
def test_figures_are_optbinnings_and_scikit_learns(seed: int) -> None:
    bad, pd = drawn(seed)
    found = evaluate(bad, pd)
    assert found.gini == pytest.approx(OPTBINNING["gini"][seed], abs=1e-12)
    # optbinning counts good loans from minus one on.
    assert found.ks == pytest.approx(OPTBINNING["ks"][seed], abs=1.5 / (~bad).sum())
    two_samples = stats.ks_2samp(pd[bad], pd[~bad], method="asymp").statistic
    assert found.ks == pytest.approx(two_samples, abs=1e-12)
    assert found.brier == pytest.approx(brier_score_loss(bad, pd), abs=1e-12)
    x, y = found.curves["roc"]
    points = {
        (round(a, 12), round(b, 12))
        for a, b in zip(*roc_curve(bad, pd, drop_intermediate=False)[:2], strict=True)
    }
    assert {(round(a, 12), round(b, 12)) for a, b in zip(x, y, strict=True)} <= points
    assert ((x[0], y[0]), (x[-1], y[-1])) == ((0, 0), (1, 1))
    assert len(x) <= 201


def test_optbinning_still_says_so() -> None:
    pytest.importorskip("optbinning", reason="its answers are kept; its solvers take 310 MB")
    for name, figures in optbinning_answers.answers().items():
        assert figures == pytest.approx(OPTBINNING[name], abs=1e-12), name


@pytest.mark.parametrize("ties", [False, True])
def test_the_interval_is_delongs_by_its_definition(ties: bool) -> None:
    """Compared with the structural components, pair by pair, as the paper of 1988 writes them."""
    bad, score = drawn(3, 200, ties)
    pairs = score[bad][:, None] - score[~bad][None, :]
    kernel = np.where(pairs > 0, 1.0, np.where(pairs == 0, 0.5, 0.0))
    variance = kernel.mean(1).var(ddof=1) / bad.sum() + kernel.mean(0).var(ddof=1) / (~bad).sum()
    auc, low, high = auc_interval(bad, score)
    assert auc == pytest.approx(kernel.mean())
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    assert (low, high) == (pytest.approx(auc - half), pytest.approx(auc + half))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Bad loans score one standard deviation above good ones: then the AUC is Phi(1 / sqrt 2)."""
    truth = stats.norm.cdf(1 / np.sqrt(2))
    random = np.random.default_rng(1)
    bad = np.arange(400) < 60
    inside = 0
    for _ in range(500):
        _, low, high = auc_interval(bad, random.normal(size=400) + bad)
        inside += low <= truth <= high
    assert 0.93 <= inside / 500 <= 0.97


@pytest.mark.parametrize(("events", "trials"), [(0, 10), (10, 10), (3, 40), (500, 10_000), (1, 1)])
def test_the_interval_of_a_rate_is_scipys(events: int, trials: int) -> None:
    expected = stats.binomtest(events, trials).proportion_ci(method="wilson")
    assert rate_interval(events, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_is_known_of_a_rate_without_trials() -> None:
    assert rate_interval(0, 0) == (0, 1)


# --- known answers ------------------------------------------------------------------------------


def test_a_perfect_score() -> None:
    bad = np.arange(100) < 10
    found = evaluate(bad, bad.astype(np.float64))
    assert (found.auc, found.auc_low, found.auc_high) == (1, 1, 1)
    assert (found.gini, found.ks, found.brier) == (1, 1, 0)
    assert found.gains[0]["captured"] == 1
    assert found.gains[0]["lift"] == 10
    assert found.calibration
    assert np.isfinite(found.calibration["slope"])


def test_a_score_that_says_nothing() -> None:
    bad = np.arange(100) < 10
    found = evaluate(bad, np.full(100, 0.1))
    assert (found.auc, found.gini, found.ks) == (0.5, 0, 0)
    assert [row["lift"] for row in found.gains] == pytest.approx([1] * 10)
    assert sum(row["bads"] for row in found.gains) == pytest.approx(10)


def test_a_random_score_is_within_chance() -> None:
    random = np.random.default_rng(7)
    bad = random.random(5_000) < 0.1
    auc, low, high = auc_interval(bad, random.random(5_000))
    assert low < 0.5 < high
    assert auc == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("ties", [False, True])
def test_the_order_of_the_rows_does_not_matter(ties: bool) -> None:
    bad, pd = drawn(5, 300, ties)
    shuffled = np.random.default_rng(0).permutation(300)
    one, other = (evaluate(b, p) for b, p in ((bad, pd), (bad[shuffled], pd[shuffled])))
    assert one.auc == pytest.approx(other.auc, abs=1e-12)
    assert one.ks == other.ks
    assert [row["bads"] for row in one.gains] == pytest.approx([row["bads"] for row in other.gains])


def test_gains_are_those_of_sorting() -> None:
    bad, pd = drawn(2, 1_000)
    ordered = bad[np.argsort(-pd)]
    table = gains(Ranking.of(bad, pd))
    for at, row in enumerate(table):
        inside = ordered[100 * at : 100 * (at + 1)]
        assert (row["tenth"], row["loans"], row["bads"]) == (at + 1, 100, inside.sum())
        assert row["bad_rate"] == pytest.approx(inside.mean())
        assert row["lift"] == pytest.approx(inside.mean() / bad.mean())
        so_far = ordered[: 100 * (at + 1)]
        assert row["captured"] == pytest.approx(so_far.sum() / bad.sum())
        assert row["cumulative_lift"] == pytest.approx(so_far.mean() / bad.mean())


def test_calibration_finds_a_distortion() -> None:
    """Log-odds that are twice as far apart as they should be have slope 0.5."""
    random = np.random.default_rng(11)
    log_odds = random.normal(-2, 1, 200_000)
    bad = random.random(200_000) < 1 / (1 + np.exp(-log_odds))
    right = calibration(bad, 1 / (1 + np.exp(-log_odds)))
    assert right["slope"] == pytest.approx(1, abs=0.03)
    assert right["intercept"] == pytest.approx(0, abs=0.06)
    assert right["mean_pd"] == pytest.approx(right["bad_rate"], abs=0.003)
    doubled = calibration(bad, 1 / (1 + np.exp(-2 * log_odds - 1)))
    assert doubled["slope"] == pytest.approx(0.5, abs=0.02)
    assert doubled["intercept"] == pytest.approx(-0.5, abs=0.06)
    assert [row["loans"] for row in right["bins"]] == [20_000] * 10


def test_the_bins_of_a_calibration_are_the_tenths_by_pd() -> None:
    bad, pd = drawn(6, 1_000)
    found = evaluate(bad, pd)
    assert found.calibration is not None
    bins = found.calibration["bins"]
    order = np.argsort(pd)
    for at, row in enumerate(bins):
        inside = order[100 * at : 100 * (at + 1)]
        interval = stats.binomtest(int(bad[inside].sum()), 100).proportion_ci(method="wilson")
        assert row == pytest.approx(
            {
                "loans": 100,
                "mean_pd": pd[inside].mean(),
                "bad_rate": bad[inside].mean(),
                "low": interval.low,
                "high": interval.high,
            }
        )
    x, y = found.curves["calibration"]
    assert x.tolist() == [row["mean_pd"] for row in bins]
    assert y.tolist() == [row["bad_rate"] for row in bins]


def test_an_interval_ends_at_zero_and_one() -> None:
    bad = np.array([True, False, True, False, False])
    score = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert [auc_interval(bad, score)[i] for i in (0, 2)] == [pytest.approx(5 / 6), 1]
    assert [auc_interval(bad, -score)[i] for i in (0, 1)] == [pytest.approx(1 / 6), 0]


def test_densities_are_those_of_good_and_bad_loans() -> None:
    bad, pd = drawn(4, 2_000)
    found = evaluate(bad, pd)
    assert pd[bad].mean() - pd[~bad].mean() > 0.1
    shown = pd.clip(max=np.quantile(pd, 0.995))
    for name, loans in (("scores_good", ~bad), ("scores_bad", bad)):
        x, y = found.curves[name]
        width = x[1] - x[0]
        assert (y * width).sum() == pytest.approx(1)
        assert (x * y * width).sum() == pytest.approx(shown[loans].mean(), abs=width / 2)
