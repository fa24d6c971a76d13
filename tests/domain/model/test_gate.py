"""Which model may score the stream: its calibration, its signs, and what the gate refuses."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from statsmodels.discrete.discrete_model import Logit
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.tools import add_constant

from credit_risk_dagster.domain.features import (
    CLASSIC_FEATURES,
    LENDERS_DECISION,
    FeatureRefused,
    select_features,
    without_price,
)
from credit_risk_dagster.domain.model.additive import columns_of, matrix_of, signs_of
from credit_risk_dagster.domain.model.benchmark import PRICE, WITHOUT_PRICE
from credit_risk_dagster.domain.model.design import design
from credit_risk_dagster.domain.model.gate import objections
from credit_risk_dagster.domain.model.linear import (
    calibration_in_the_large,
    fit_signed,
    recalibrate,
)
from credit_risk_dagster.domain.model.measures import auc_interval, calibration, paired_auc_error
from credit_risk_dagster.domain.model.outcome import probability_of
from credit_risk_dagster.domain.model.refit import refit
from credit_risk_dagster.domain.model.training import time_split
from credit_risk_dagster.domain.pd import Coefficients, NumberTerm
from credit_risk_dagster.pipelines.modelling import Modelling
from tests.domain.model import reference
from tests.domain.model.samples import builtin_sample

WITHOUT_RATE = tuple(name for name in CLASSIC_FEATURES if name != "int_rate")
WITHOUT_RATE_PENALTIES = (0.001, 0.01, 0.001, 0.01, 0.01)


# --- calibration ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "penalties", "intercept", "slope"),
    [
        (CLASSIC_FEATURES, (0.1,), -0.390, 0.898),
        (WITHOUT_RATE, WITHOUT_RATE_PENALTIES, -1.662, 0.585),
    ],
)
def test_the_calibration_of_the_classic_features_is_exact(
    features: tuple[str, ...], penalties: tuple[float, ...], intercept: float, slope: float
) -> None:
    """A search that starts at log-odds of zero stops at -0.22 and 0.94 for either."""
    sample = builtin_sample()
    out_of_fold, _ = reference.built_in(features, *penalties)
    found = calibration(sample.bad, out_of_fold)
    assert found["intercept"] == pytest.approx(intercept, abs=0.001)
    assert found["slope"] == pytest.approx(slope, abs=0.001)


@pytest.mark.slow
def test_out_of_time_too_many_bad_loans_were_expected() -> None:
    sample = builtin_sample()
    march = time_split(sample)
    assert march
    _, later = reference.built_in(CLASSIC_FEATURES, 0.1)
    bad = sample.bad[march.after]
    assert (round(later.sum(), 1), bad.sum()) == (72.5, 49)
    z = (bad.sum() - later.sum()) / np.sqrt((later * (1 - later)).sum())
    assert z == pytest.approx(-2.8, abs=0.05)
    found = calibration(bad, later)
    assert found["ratio"] == pytest.approx(1.48, abs=0.005)
    assert found["ratio_low"] > 1


@pytest.mark.parametrize("seed", range(20))
def test_calibration_is_statsmodels(seed: int) -> None:
    """On small samples, too, where a search that stops early is farthest away."""
    random = np.random.default_rng(seed)
    log_odds = random.normal(-3, 1, int(random.integers(30, 200)))
    bad = random.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))
    bad[:3] = (True, False, True)
    outcome = bad.astype(float)
    fitted = Logit(outcome, add_constant(log_odds)).fit(
        disp=0, method="newton", maxiter=200, tol=1e-12
    )
    assert recalibrate(bad, log_odds) == pytest.approx(tuple(fitted.params), abs=1e-6)
    level = GLM(outcome, np.ones(len(bad)), family=Binomial(), offset=log_odds).fit(tol=1e-12)
    assert calibration_in_the_large(bad, log_odds) == pytest.approx(level.params[0], abs=1e-6)


def test_calibration_in_the_large_is_its_own_figure() -> None:
    """Slope and intercept of 1 and 0 hide nothing: twice the odds are log 2 too much."""
    random = np.random.default_rng(0)
    log_odds = random.normal(-3, 1, 200_000)
    bad = random.random(200_000) < 1 / (1 + np.exp(-log_odds))
    found = calibration(bad, 1 / (1 + np.exp(-log_odds - np.log(2))))
    assert found["in_the_large"] == pytest.approx(-np.log(2), abs=0.03)
    assert found["slope"] == pytest.approx(1, abs=0.03)
    assert found["brier_skill"] < calibration(bad, 1 / (1 + np.exp(-log_odds)))["brier_skill"]


def test_the_same_for_everybody_has_no_skill() -> None:
    bad = np.arange(1_000) < 20
    found = calibration(bad, np.full(1_000, 0.02))
    assert found["brier_skill"] == pytest.approx(0)
    assert (found["slope"], found["ratio"]) == (0, pytest.approx(1))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.02, 0.2])), min_size=20, max_size=80))
def test_tenths_do_not_depend_on_the_order_of_ties(loans: list[tuple[bool, float]]) -> None:
    """Bad loans first made 6 of 10 bins miss the line, of PDs that were right."""
    bad = np.array([outcome for outcome, _ in loans] + [True, False])
    pd = np.array([value for _, value in loans] + [0.02, 0.2])
    as_given = calibration(bad, pd)["bins"]
    for order in (np.argsort(~bad, kind="stable"), np.argsort(bad, kind="stable")):
        for one, other in zip(as_given, calibration(bad[order], pd[order])["bins"], strict=True):
            assert one == pytest.approx(other, abs=1e-12)
    assert sum(row["bad_rate"] * row["loans"] for row in as_given) == pytest.approx(bad.sum())


# --- signs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse_penalty", [0.001, 0.1, 1.0, 10.0])
def test_without_a_binding_sign_it_is_scikit_learns(inverse_penalty: float) -> None:
    random = np.random.default_rng(3)
    matrix = random.normal(size=(3_000, 5))
    truth = np.array([0.5, -0.3, 0.2, -0.1, 0.4])
    bad = random.random(3_000) < 1 / (1 + np.exp(3 - matrix @ truth))
    expected = LogisticRegression(C=inverse_penalty, tol=1e-12, max_iter=10_000).fit(matrix, bad)
    found = fit_signed(matrix, bad, np.sign(truth), inverse_penalty)
    assert found == pytest.approx([*expected.intercept_, *expected.coef_[0]], abs=1e-6)
    # Twice the weight is the loan twice.
    twice = fit_signed(matrix, bad, np.sign(truth), inverse_penalty, 1.0 + bad)
    doubled = np.append(matrix, matrix[bad], axis=0), np.append(bad, bad[bad])
    assert twice == pytest.approx(fit_signed(*doubled, np.sign(truth), inverse_penalty), abs=1e-6)


def test_a_sign_that_binds_is_as_good_as_leaving_the_column_out() -> None:
    random = np.random.default_rng(4)
    matrix = random.normal(size=(3_000, 3))
    bad = random.random(3_000) < 1 / (1 + np.exp(2 - matrix @ [0.5, -0.4, 0.2]))
    found = fit_signed(matrix, bad, [1, 1, 1], 1.0)
    assert found[2] == 0
    left = fit_signed(matrix[:, [0, 2]], bad, [1, 1], 1.0)
    assert found[[0, 1, 3]] == pytest.approx(left, abs=1e-6)


@pytest.mark.slow
def test_no_feature_of_the_built_in_model_is_against_the_field(trained: Modelling) -> None:
    """Unconstrained, four of the seven are: debt, utilization, delinquencies and history."""
    fitted = reference.pipeline(CLASSIC_FEATURES, 0.1).fit(
        builtin_sample().rows.select(list(CLASSIC_FEATURES)).to_pandas(), builtin_sample().bad
    )
    signs = [feature.risk_rises for feature in select_features(CLASSIC_FEATURES)]
    weights = fitted[-1].coef_[0][: len(signs)]
    assert [n for n, w, s in zip(CLASSIC_FEATURES, weights, signs, strict=True) if w * s < 0] == [
        *("dti", "revol_util", "credit_history_years", "delinq_2yrs")
    ]
    assert trained.trained[0].estimator.coefficients.against_the_field() == []


@pytest.mark.slow
def test_a_category_is_told_against_the_mean_of_the_loans() -> None:
    """A small business has odds of 1.18 times the sample's; against the mean of the purposes, of
    which most are rare, it was 0.946."""
    from credit_risk_dagster.domain.features import FEATURES
    from credit_risk_dagster.domain.model.training import kinds

    sample, features = builtin_sample(), select_features(FEATURES)
    fitted = kinds()[0].fit(design(sample.rows, features), sample.bad, features, 0)
    found = {effect.name: effect for effect in fitted.effects}
    small = found["purpose_small_business"]
    assert small.odds_ratio == pytest.approx(1.18, abs=0.01)
    assert small.low < 1.18 < small.high


# --- the gate -------------------------------------------------------------------------------------

RIGHT = {
    "slope": 0.9,
    "mean_pd": 0.02,
    "bad_rate": 0.02,
    "ratio": 1.0,
    "ratio_low": 0.8,
    "ratio_high": 1.3,
    "brier_skill": 0.01,
}
LATE = {"month": "2018-03", "rows": 3_000, "bads": 60, "auc": 0.7, "auc_low": 0.6}
GOOD: dict[str, Any] = {
    "rows": 10_000,
    "bads": 200,
    "auc": 0.7,
    "auc_low": 0.65,
    "comparison": {"difference": 0.1, "model": {"recall": 0.2}, "rules": {"recall": 0.1}},
    "calibration": RIGHT,
    "out_of_time": {**LATE, "calibration": RIGHT},
}
AHEAD = {"difference": -0.1, "model": {"recall": 0.1}, "rules": {"recall": 0.2}}


def late(**change: Any) -> dict[str, Any]:
    return {"out_of_time": {**LATE, "calibration": RIGHT | change}}


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({}, None),
        ({"comparison": None}, None),
        ({"out_of_time": None}, None),
        ({"auc_low": 0.49}, None),  # the later loans say
        ({"bads": 99}, "99 bad loans are too few to judge it, 100 are needed"),
        ({"bads": 100}, None),
        (
            {"out_of_time": {**LATE, "auc_low": 0.5, "calibration": RIGHT}},
            "of the loans from 2018-03 on, its AUC of 0.700 could be chance",
        ),
        ({"out_of_time": None, "auc_low": 0.49}, "its AUC of 0.700 could be chance"),
        ({"comparison": AHEAD}, "it finds 10 % of the bad loans, the rules 20 % at the same share"),
        (
            late(ratio=1.48, mean_pd=0.02, ratio_low=1.12, ratio_high=1.95),
            "it expects 60.0 bad and 60 were: 1.48 times as many, 95 % interval 1.12 to 1.95, not",
        ),
        (late(ratio=1.26), "1.26 times as many"),
        (late(ratio=1.25), None),
        (late(ratio=0.79), "0.79 times as many"),
        (late(ratio=0.8), None),
        (late(brier_skill=0.0), "its Brier skill is 0.0000"),
        (late(brier_skill=-0.003), "of the loans from 2018-03 on, its Brier skill is -0.0030"),
        ({"out_of_time": None, "calibration": RIGHT | {"ratio": 2.0}}, "2.00 times as many"),
        ({"calibration": RIGHT | {"slope": 0.3}}, "its calibration slope is 0.30, not 0.5 to 1.5"),
        ({"calibration": {"slope": 1.0}, "out_of_time": None}, "did not ask"),
        ({"out_of_time": LATE}, "train it again"),
    ],
)
def test_the_gate(change: dict[str, Any], objection: str | None) -> None:
    found = objections({**GOOD, **change})
    assert len(found) == (0 if objection is None else 1), found
    assert all(objection in text for text in found if objection)


def test_the_gate_looks_at_the_signs() -> None:
    right = NumberTerm("dti", 0.1, 20.0, 0.0, 1.0)
    wrong = NumberTerm("credit_history_years", 0.1, 20.0, 0.0, 1.0)
    assert objections(GOOD, Coefficients(-4.0, [right])) == []
    (text,) = objections(GOOD, Coefficients(-4.0, [right, wrong]))
    assert text == "credit_history_years moves its PD against what the field expects"


@pytest.mark.slow
def test_it_refuses_the_built_in_seven_and_says_why(trained: Modelling) -> None:
    """March's loans had less time to go bad than those that the model was fitted to."""
    (against,) = trained.objections()["logistic"]
    assert "of the loans from 2018-03 on, it expects 72.5 bad and 49 were: 1.48 times" in against
    assert "95 % interval 1.12 to 1.95, not 0.8 to 1.25" in against


# --- what the lender decided ----------------------------------------------------------------------


@pytest.mark.parametrize("name", LENDERS_DECISION)
def test_a_model_for_decisions_knows_no_decision_of_the_lender(name: str) -> None:
    with pytest.raises(FeatureRefused, match=f"^{name} cannot be a feature of a model for decis"):
        select_features(["dti", name], "decision")


def test_a_benchmark_may_know_the_price() -> None:
    features = select_features(["dti", "int_rate", "grade"])
    assert [feature.name for feature in without_price(features)] == ["dti"]


@pytest.mark.slow
def test_the_price_alone_and_the_model_without_it_are_in_every_benchmark(
    trained: Modelling,
) -> None:
    measured = trained.benchmark
    price, without, model = (measured.subject(n) for n in (PRICE, WITHOUT_PRICE, "logistic"))
    assert price.evaluation.auc == pytest.approx(0.688, abs=0.001)
    assert price.comparison
    assert price.comparison.model["recall"] == pytest.approx(0.147, abs=0.001)
    assert price.comparison.share == pytest.approx(0.044, abs=0.001)
    assert price.evaluation.calibration is None
    assert 0.54 < without.evaluation.auc < 0.57
    assert model.against_price
    difference = model.evaluation.auc - price.evaluation.auc
    assert model.against_price.difference == pytest.approx(difference)
    assert model.against_price.low < 0 < model.against_price.high
    assert f"its AUC differs by {difference:+.4f}" in measured.verdict
    assert measured.verdict.endswith("that could be chance")


@pytest.mark.slow
def test_what_the_classic_model_adds_to_the_price() -> None:
    """Without signs: 0.0015, by DeLong's error of a pair between -0.02 and +0.03."""
    sample = builtin_sample()
    rate = sample.rows["int_rate"].to_numpy()
    out_of_fold, _ = reference.built_in(CLASSIC_FEATURES, 0.1)
    aucs = [auc_interval(sample.bad, score)[0] for score in (out_of_fold, rate)]
    assert aucs[0] - aucs[1] == pytest.approx(0.0015, abs=0.0001)
    assert 1.96 * paired_auc_error(sample.bad, out_of_fold, rate) == pytest.approx(0.024, abs=0.004)
    without, _ = reference.built_in(WITHOUT_RATE, *WITHOUT_RATE_PENALTIES)
    assert auc_interval(sample.bad, without)[0] == pytest.approx(0.552, abs=0.001)
    flagged = np.argsort(-without)[:440]
    assert sample.bad[flagged].sum() / sample.bads == pytest.approx(0.102, abs=0.001)


# --- fitting anew ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_headline_is_fitted_anew(trained: Modelling) -> None:
    """Its interval is wider than that of the same scores, and around the figure."""
    compared = trained.benchmark.subject("logistic").comparison
    assert compared
    assert compared.refitted
    assert compared.low < compared.difference < compared.high
    assert "fitted anew for each draw" in trained.benchmark.verdict
    others = [s.comparison for s in trained.benchmark.subjects if s.name == "gradient_boosting"]
    assert not any(found.refitted for found in others if found)


@pytest.mark.slow
def test_the_refitted_interval_holds_the_truth_of_new_loans() -> None:
    """Of a model and a score whose AUCs are as far apart as drawing very many loans says."""
    random = np.random.default_rng(8)
    names = ("dti", "int_rate")
    features = select_features(names)

    def loans(size: int) -> tuple[Any, Any]:
        import pandas as pd

        frame = pd.DataFrame({name: random.normal(20, 5, size) for name in names})
        odds = -2 + 0.6 * (frame["dti"] - 20) / 5 + 0.6 * (frame["int_rate"] - 20) / 5
        return frame, random.random(size) < 1 / (1 + np.exp(-odds.to_numpy()))

    many, outcome = loans(200_000)
    both = (many["dti"] + many["int_rate"]).to_numpy()
    truth = auc_interval(outcome, both)[0] - auc_interval(outcome, many["int_rate"].to_numpy())[0]
    held = 0
    for seed in range(20):
        frame, bad = loans(600)
        columns = columns_of(frame, features)
        rate = frame["int_rate"].to_numpy()
        found = refit(frame, columns, bad, np.zeros(600, dtype=np.bool_), rate, 1.0, seed, 60)
        assert found.recall is None
        matrix = matrix_of(columns, frame)
        beta = fit_signed(matrix, bad, signs_of(columns), 1.0)
        value = auc_interval(bad, matrix @ beta[1:])[0] - auc_interval(bad, rate)[0]
        held += value + found.auc[0] <= truth <= value + found.auc[1]
    assert held >= 17


# --- names ----------------------------------------------------------------------------------------


def test_only_a_default_probability_is_called_one() -> None:
    assert probability_of("early-delinquency-v2@1a2b3c4d5e6f")[0] == "early delinquency probability"
    assert probability_of("matured-v2@1a2b3c4d5e6f") == (
        "default probability",
        "over the loan's whole term",
    )
    assert probability_of("ninety-days@1a2b3c4d5e6f")[0] == "probability of ninety days"
