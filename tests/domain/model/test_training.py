"""Samples, training and the benchmark: on real loans, and in cases whose truth is planted."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import cohen_kappa_score, jaccard_score

from credit_risk_dagster.domain.features import (
    CLASSIC_FEATURES,
    POST_ORIGINATION,
    FeatureRefused,
    select_features,
)
from credit_risk_dagster.domain.model.additive import Additive
from credit_risk_dagster.domain.model.benchmark import (
    RULES,
    benchmark,
    compare,
    rule_tiers,
    tier_table,
    verdict,
)
from credit_risk_dagster.domain.model.design import design
from credit_risk_dagster.domain.model.measures import auc_interval
from credit_risk_dagster.domain.model.outcome import (
    BUILTIN_OUTCOMES,
    Outcome,
    OutcomeError,
    load_outcome,
)
from credit_risk_dagster.domain.model.sample import SampleTooSmall
from credit_risk_dagster.domain.model.training import (
    Kind,
    Trained,
    dump,
    feature_aucs,
    folds,
    kinds,
    load,
    pd_of,
    time_split,
    train,
)
from credit_risk_dagster.domain.pd import read_coefficients
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.modelling import LeakingFeature, check_features
from tests.domain.model.samples import (
    OUTCOME,
    builtin_rows,
    builtin_sample,
    planted,
    planted_sample,
    sample_of,
)

pytestmark = pytest.mark.slow

CLASSIC = select_features(CLASSIC_FEATURES)
LOGISTIC, BOOSTING = kinds()[:2]  # and a scorecard, where optbinning is installed


def outcomes(size: int, rate: float = 0.2, seed: int = 0) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.random.default_rng(seed).random(size) < rate


# --- outcomes -----------------------------------------------------------------------------------


def test_the_builtin_outcomes() -> None:
    late = load_outcome("early_delinquency")
    ended = load_outcome("matured")
    assert BUILTIN_OUTCOMES == ("early_delinquency", "late_60_within_12_months", "matured")
    old = "Does not meet the credit policy. Status:"
    assert set(ended.bad) == {"Charged Off", "Default", f"{old}Charged Off"}
    assert ended.good == [f"{old}Fully Paid", "Fully Paid"]
    assert set(ended.bad) < set(late.bad)
    assert "In Grace Period" in late.bad
    assert late.version.startswith("early-delinquency-v2@")


def test_the_order_of_the_statuses_is_no_other_outcome() -> None:
    one = Outcome(name="a", bad=["Default", "Charged Off"], good=["Fully Paid"])
    other = Outcome(name="a", bad=["Charged Off", "Default"], good=["Fully Paid"])
    assert one.version == other.version
    assert one.version != Outcome(name="a", bad=["Default"], good=["Fully Paid"]).version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nbad: [x]\ngood: [x, y]", "x cannot be bad and good, remove it from one"),
        ("name: a\nbad: []\ngood: [y]", "bad: List should have at least 1 item"),
        ("name: a\nbad: {x: 1}\ngood: [y]", "bad: must be a list"),
        ("name: a\nbad: dpd >= 60\ngood: [y]", "'dpd >= 60' is no condition like days_past_due"),
        ("name: a\nhorizon_months: 0\nbad: x\ngood: y", "horizon_months: Input should be gr"),
        ("name: a\nbad: [x]", "good: is missing, add it"),
        ("name: a\nbad: [x]\ngood: [y]\nugly: [z]", "ugly: is no field of an outcome"),
        ("name: [", "is not YAML"),
    ],
)
def test_an_outcome_that_is_not_valid(tmp_path: Any, text: str, message: str) -> None:
    file = tmp_path / "outcome.yaml"
    file.write_text(text)
    with pytest.raises(OutcomeError, match=message):
        load_outcome(str(file))


def test_an_outcome_that_does_not_exist() -> None:
    with pytest.raises(OutcomeError, match="no outcome 'bad': take early_delinquency or "):
        load_outcome("bad")


# --- features -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(POST_ORIGINATION))
def test_what_is_known_only_afterwards_is_refused_by_name(name: str) -> None:
    with pytest.raises(
        FeatureRefused, match=f"^{name} cannot be a feature: it is known only after"
    ):
        select_features(["dti", name])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["addr_state"], "addr_state cannot be a feature: where a person lives"),
        (["risk_tier"], "there is no feature 'risk_tier'; there are: loan_amnt"),
        (["dti", "dti"], "dti is named twice"),
        ([], "a model needs a feature"),
    ],
)
def test_other_features_that_are_refused(names: Sequence[str], message: str) -> None:
    with pytest.raises(FeatureRefused, match=message):
        select_features(names)


# --- the sample ---------------------------------------------------------------------------------


def test_only_loans_with_an_outcome_count() -> None:
    bad = outcomes(300)
    status = np.where(bad, "Charged Off", "Fully Paid").astype(object)
    status[:50] = "Issued"
    status[50] = None
    sample = planted_sample(bad, loan_status=status.tolist())
    assert (len(sample), sample.bads) == (249, bad[51:].sum())
    assert sample.outcome == OUTCOME.version
    assert sample.left_out == {"status 'Issued'": 50, "no outcome observed": 1}
    assert sample.left_out_words == "51 left out: status 'Issued' 50, no outcome observed 1"


def test_a_loan_counts_once_with_its_first_features_and_its_last_outcome() -> None:
    """Copies in other folds would give away the outcome, and make intervals too narrow; features
    of later rows may know how the loan went."""
    bad = outcomes(400)
    first, later = planted(~bad), planted(bad, 1_001)
    sample = sample_of("planted", OUTCOME, pa.concat_tables([first, later, later]))
    assert (sample.bad == bad).all()
    assert sample.rows["dti"].equals(first["dti"])


def test_copies_across_folds_do_not_make_noise_look_like_a_model() -> None:
    """What a model finds in noise, from copies of the loans that it is measured on."""
    table = planted(outcomes(300))
    sample = sample_of("planted", OUTCOME, pa.concat_tables([table] * 4))
    found = train(BOOSTING, sample, CLASSIC, 0)
    _, low, high = auc_interval(sample.bad, found.out_of_fold)
    assert low < 0.5 < high
    # The same without the care: the copies are loans of their own.
    ids = [f"{number:07d}" for number in range(1_200)]
    copies = pa.concat_tables([table] * 4).set_column(0, "loan_id", pa.array(ids))
    careless = sample_of("planted", OUTCOME, copies)
    naive = train(BOOSTING, careless, CLASSIC, 0)
    assert auc_interval(careless.bad, naive.out_of_fold)[1] > 0.5


def test_rows_without_an_id_are_loans_of_their_own() -> None:
    bad = outcomes(200)
    sample = planted_sample(bad, loan_id=pa.nulls(200, pa.string()))
    assert len(sample) == 200


def test_the_order_of_the_rows_is_no_other_sample() -> None:
    table = planted(outcomes(300))
    shuffled = table.take(np.random.default_rng(1).permutation(300))
    one, other = (sample_of("planted", OUTCOME, rows) for rows in (table, shuffled))
    assert one.content_hash == other.content_hash
    changed = sample_of("planted", OUTCOME, planted(outcomes(300), 1_001))
    assert changed.content_hash != one.content_hash


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.arange(30) < 3, "has 3 bad and 27 good loans by early-delinquency-v2@"),
        (np.zeros(5_000, dtype=np.bool_), "has 0 bad and 5,000 good loans"),
        (np.ones(5_000, dtype=np.bool_), "has 5,000 bad and 0 good loans"),
        (np.zeros(0, dtype=np.bool_), "has 0 bad and 0 good loans"),
    ],
)
def test_too_few_of_one_class(bad: Any, message: str) -> None:
    with pytest.raises(SampleTooSmall, match=message):
        planted_sample(bad)


def test_the_builtin_loans_are_too_young_for_the_matured_outcome() -> None:
    with pytest.raises(SampleTooSmall, match=r"7 bad and 444 good .* another outcome"):
        sample_of("builtin", load_outcome("matured"), builtin_rows())


# --- splits -------------------------------------------------------------------------------------


def test_every_loan_is_in_one_test_fold_with_the_bad_ones_dealt_evenly() -> None:
    bad = outcomes(1_000, 0.05)
    splits = folds(bad, 5, 3)
    tested = np.concatenate([test for _, test in splits])
    assert sorted(tested) == list(range(1_000))
    for fit, test in splits:
        assert not set(fit) & set(test)
        assert abs(bad[test].sum() - bad.sum() / 5) <= 1


def test_the_last_months_are_the_future() -> None:
    months = np.repeat(np.arange("2018-01", "2018-11", dtype="datetime64[M]"), 100)
    bad = outcomes(1_000, 0.5)
    split = time_split(planted_sample(bad, issue_d=months.astype("datetime64[D]")))
    assert split
    assert str(split.month) == "2018-09"
    assert (split.before == np.arange(800)).all()
    assert (split.after == np.arange(800, 1_000)).all()


def test_a_month_without_enough_bad_loans_is_not_alone_the_future() -> None:
    months = np.repeat(np.arange("2018-01", "2018-05", dtype="datetime64[M]"), 250)
    bad = outcomes(1_000, 0.2)
    bad[750:] = False
    split = time_split(planted_sample(bad, issue_d=months.astype("datetime64[D]")))
    assert split
    assert str(split.month) == "2018-03"


def test_one_month_has_no_future() -> None:
    assert time_split(planted_sample(outcomes(500))) is None


def test_real_loans_of_march_are_the_future_of_january_and_february() -> None:
    split = time_split(builtin_sample())
    assert split
    assert (str(split.month), len(split.after)) == ("2018-03", 3_596)


# --- training -----------------------------------------------------------------------------------


def test_the_baseline_on_real_loans() -> None:
    """Out of fold, with the seven classic features: AUC 0.685, when none contradicts the field."""
    sample = builtin_sample()
    found = train(LOGISTIC, sample, CLASSIC, 0)
    auc, low, high = auc_interval(sample.bad, found.out_of_fold)
    assert auc == pytest.approx(0.685, abs=0.005)
    assert low < 0.685 < high
    assert found.out_of_fold.mean() == pytest.approx(sample.bad.mean(), rel=0.02)
    assert found.out_of_time is not None
    assert len(found.out_of_time) == 3_596


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_a_planted_signal_is_found_by_every_kind(kind: Any) -> None:
    random = np.random.default_rng(5)
    dti = random.uniform(0, 60, 2_000)
    bad = random.random(2_000) < 1 / (1 + np.exp(4 - 0.1 * dti))
    sample = planted_sample(bad, dti=dti)
    found = train(kind, sample, CLASSIC, 0)
    auc, low, high = auc_interval(bad, found.out_of_fold)
    truth = auc_interval(bad, dti)[0]
    assert truth - 0.03 < auc < truth + 0.02
    assert low < truth < high


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_noise_stays_noise(kind: Any) -> None:
    sample = planted_sample(outcomes(800))
    _, low, high = auc_interval(sample.bad, train(kind, sample, CLASSIC, 0).out_of_fold)
    assert low < 0.5 < high


def test_the_same_seed_gives_the_same_model() -> None:
    sample = planted_sample(outcomes(400))
    one, other = (train(BOOSTING, sample, CLASSIC, 4) for _ in range(2))
    assert (one.out_of_fold == other.out_of_fold).all()
    assert (train(BOOSTING, sample, CLASSIC, 5).out_of_fold != one.out_of_fold).any()


def test_boosting_is_monotone_in_what_the_field_expects() -> None:
    """Even where the sample says the opposite."""
    random = np.random.default_rng(2)
    rate = random.uniform(5, 30, 2_000)
    bad = random.random(2_000) < 1 / (1 + np.exp(-2 + 0.2 * rate))  # a higher rate, fewer bad
    sample = planted_sample(bad, int_rate=rate)
    fitted = BOOSTING.fit(design(sample.rows, CLASSIC), sample.bad, CLASSIC, 0)
    frame = design(sample.rows, CLASSIC).iloc[[0] * 50].assign(int_rate=np.linspace(5, 30, 50))
    assert (np.diff(pd_of(fitted, frame)) >= 0).all()


def test_constant_features_are_no_obstacle() -> None:
    bad = outcomes(900)
    constant = dict.fromkeys(CLASSIC_FEATURES, np.full(900, 7.0))
    sample = planted_sample(bad, **constant)
    for kind in (LOGISTIC, BOOSTING):
        found = train(kind, sample, CLASSIC, 0)
        assert found.out_of_fold == pytest.approx(bad.mean(), abs=0.01)


def test_a_feature_that_is_always_missing_is_refused() -> None:
    sample = planted_sample(outcomes(300), revol_util=pa.nulls(300, pa.float64()))
    with pytest.raises(
        FeatureRefused, match="revol_util is missing for every loan of sample planted"
    ):
        check_features(sample, CLASSIC)


def test_categories_and_missing_values_train_every_kind() -> None:
    bad = outcomes(600)
    util = np.where(outcomes(600, 0.3, 8), np.nan, 50.0)
    purpose = [None if number % 5 == 0 else "car" for number in range(600)]
    sample = planted_sample(bad, revol_util=util, purpose=purpose)
    features = select_features(["dti", "revol_util", "purpose", "term_months", "grade"])
    for kind in kinds():
        assert not np.isnan(train(kind, sample, features, 0).out_of_fold).any()


@pytest.mark.parametrize("kind", [LOGISTIC, BOOSTING], ids=lambda kind: kind.name)
def test_a_stored_model_predicts_what_it_did(kind: Any) -> None:
    sample = planted_sample(outcomes(600))
    frame = design(sample.rows, CLASSIC)
    fitted = kind.fit(frame, sample.bad, CLASSIC, 0)
    read = {"logistic": lambda artifact: Additive(read_coefficients(artifact))}.get(kind.name, load)
    again = read(dump(fitted))
    assert (pd_of(again, frame) == pd_of(fitted, frame)).all()


def test_the_intervals_of_the_odds_ratios_cover_the_truth() -> None:
    covered = 0
    for seed in range(3):
        random = np.random.default_rng(seed)
        dti = random.normal(20, 5, 2_000).clip(1, 60)
        bad = random.random(2_000) < 1 / (1 + np.exp(2 - 0.8 * (dti - 20) / 5))
        sample = planted_sample(bad, 1_000 + seed, dti=dti)
        frame = design(sample.rows, CLASSIC)
        found = {e.name: e for e in LOGISTIC.fit(frame, sample.bad, CLASSIC, 0).effects}
        assert found["dti"].low > 1.5
        truth = dict.fromkeys(CLASSIC_FEATURES, 1.0) | {"dti": np.exp(0.8 * dti.std() / 5)}
        covered += sum(found[name].low <= truth[name] <= found[name].high for name in truth)
    assert covered >= 18  # of 21, of which 20 are expected, and more where 1 is the end


# --- leakage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_a_leaking_number_is_named(sign: int) -> None:
    bad = outcomes(1_000)
    sample = planted_sample(bad, dti=50 + sign * 40.0 * bad + np.arange(1_000) % 7)
    with pytest.raises(LeakingFeature, match=r"alone, dti \(1\.000\) separates good from bad"):
        check_features(sample, CLASSIC)


def test_a_leaking_category_is_named() -> None:
    bad = outcomes(1_000)
    sample = planted_sample(bad, grade=np.where(bad, "G", "A").tolist())
    with pytest.raises(LeakingFeature, match=r"grade \(1\.000\)"):
        check_features(sample, select_features(["dti", "grade"]))


def test_a_value_that_is_missing_for_bad_loans_alone_leaks() -> None:
    bad = outcomes(1_000)
    sample = planted_sample(bad, revol_util=np.where(bad, np.nan, 50.0))
    with pytest.raises(LeakingFeature, match="revol_util"):
        check_features(sample, CLASSIC)


def test_no_real_feature_leaks() -> None:
    assert max(feature_aucs(builtin_sample(), CLASSIC).values()) < 0.75


# --- the benchmark ------------------------------------------------------------------------------


def fake(sample: Any, pd: Any) -> Trained:
    return Trained("logistic", None, np.asarray(pd, dtype=np.float64), None)


def test_the_rules_and_a_model_at_the_same_share() -> None:
    """Twenty loans, of which the rules flag four and the model four others but one."""
    bad = np.array([True] * 40 + [False] * 60)
    sample = planted_sample(bad)
    by_rules = np.isin(np.arange(100), [0, 1, 50, 51])
    pd = np.where(np.isin(np.arange(100), [1, 2, 3, 60]), 0.9, 0.1)
    found = compare(sample, by_rules, pd, CLASSIC, 0)
    assert found
    by_model = pd > 0.5
    assert (found.flagged, found.share) == (4, 0.04)
    assert found.rules == {"recall": 2 / 40, "precision": 0.5, "lift": pytest.approx(1.25)}
    assert found.model == {"recall": 3 / 40, "precision": 0.75, "lift": pytest.approx(1.875)}
    assert found.difference == pytest.approx(1 / 40)
    assert found.jaccard == pytest.approx(jaccard_score(by_rules, by_model))
    assert found.kappa == pytest.approx(cohen_kappa_score(by_rules, by_model))
    groups = {row["flagged by"]: (row["loans"], row["bads"]) for row in found.profile}
    assert groups == {
        "both": (1, 1),
        "rules only": (3, 1),
        "model only": (3, 2),
        "neither": (93, 36),
    }


def test_the_interval_of_the_difference_is_that_of_drawing_people() -> None:
    """Compared with a plain bootstrap that draws rows."""
    random = np.random.default_rng(3)
    bad = random.random(2_000) < 0.1
    sample = planted_sample(bad)
    score = bad * 0.8 + random.normal(size=2_000)
    by_rules = random.random(2_000) < 0.1
    found = compare(sample, by_rules, score, CLASSIC, 0)
    assert found
    by_model = np.zeros(2_000, dtype=np.bool_)
    by_model[np.argsort(-score)[: by_rules.sum()]] = True
    differences = []
    for _ in range(4_000):
        rows = random.integers(0, 2_000, 2_000)
        drawn = bad[rows]
        differences.append(by_model[rows][drawn].mean() - by_rules[rows][drawn].mean())
    low, high = np.quantile(differences, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_a_perfect_model_against_rules_that_know_nothing(policy: Policy) -> None:
    bad = outcomes(2_000, 0.1)
    sample = planted_sample(bad)
    found = benchmark(sample, policy, [fake(sample, bad * 0.98 + 0.01)], CLASSIC, 0)
    model = found.subject("logistic")
    assert (model.evaluation.auc, model.evaluation.ks) == (1, 1)
    assert model.comparison
    assert model.comparison.low > 0
    assert "the model finds more. Against the interest rate" in found.verdict
    rules = found.subject(RULES).evaluation
    assert rules.auc_low < 0.5 < rules.auc_high


def test_rules_that_flag_nobody_cannot_be_compared(policy: Policy) -> None:
    bad = outcomes(500)
    zeros = np.zeros(500)
    sample = planted_sample(bad, dti=zeros, revol_util=zeros)
    found = benchmark(sample, policy, [fake(sample, np.linspace(0, 1, 500))], CLASSIC, 0)
    assert found.subject("logistic").comparison is None
    assert "cannot be compared with them at the same share" in found.verdict


def test_ties_at_the_cut_are_drawn() -> None:
    """A model that says the same of everybody finds as many as chance does, not the first rows."""
    bad = np.arange(1_000) < 100
    sample = planted_sample(bad)
    by_rules = np.arange(1_000) >= 900
    recalls = []
    for seed in range(20):
        found = compare(sample, by_rules, np.full(1_000, 0.1), CLASSIC, seed)
        assert found
        recalls.append(found.model["recall"])
    assert np.mean(recalls) == pytest.approx(0.1, abs=0.03)


def test_tiers_have_rates_and_intervals() -> None:
    bad = np.array([True, False, False, True])
    table = tier_table(bad, np.array([0, 0, 0, 2], dtype=np.int8))
    assert [(r["tier"], r["loans"], r["bads"], r["bad_rate"]) for r in table] == [
        ("Low", 3, 1, 1 / 3),
        ("Elevated", 0, 0, None),
        ("Watchlist", 1, 1, 1.0),
    ]
    assert (table[1]["low"], table[1]["high"]) == (0, 1)


def test_the_rules_are_the_policys(policy: Policy) -> None:
    """What the benchmark says of the built-in loans is what the stream said of them."""
    sample = builtin_sample()
    rows = builtin_rows()
    tiers = dict(zip(rows["loan_id"].to_pylist(), rows["risk_tier"].to_pylist(), strict=True))
    names = ("Low", "Elevated", "Watchlist")
    expected = [names.index(tiers[loan]) for loan in sample.rows["loan_id"].to_pylist()]
    assert rule_tiers(sample, policy).tolist() == expected


def test_the_verdict_says_what_the_numbers_say(policy: Policy) -> None:
    random = np.random.default_rng(4)
    bad = outcomes(3_000, 0.1)
    sample = planted_sample(bad)
    found = benchmark(sample, policy, [fake(sample, random.random(3_000))], CLASSIC, 0)
    model = found.subject("logistic")
    assert model.comparison
    assert model.comparison.low < 0 < model.comparison.high
    assert verdict(model).endswith("that could be chance")
    assert f"At the same {100 * model.comparison.share:.1f} % flagged" in verdict(model)


def test_a_challenger_that_fails_does_not_cost_the_baseline(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("no bins")

    broken = Kind("scorecard", fail)
    monkeypatch.setattr(modelling, "kinds", lambda: (LOGISTIC, broken))
    sample = planted_sample(outcomes(600))
    found = modelling.model(sample, CLASSIC, policy, 0, logging.getLogger("test"))
    assert [trained.kind for trained in found.trained] == ["logistic"]
    assert "no scorecard: ValueError: no bins" in caplog.text
