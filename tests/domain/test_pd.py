"""The PD and its reasons: scikit-learn's own answers, without scikit-learn."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.exceptions import NotFittedError

from credit_risk_dagster.domain.events import decode
from credit_risk_dagster.domain.features import CLASSIC_FEATURES, FEATURES, select_features
from credit_risk_dagster.domain.model.sample import make_sample
from credit_risk_dagster.domain.model.training import (
    Trained,
    coefficients,
    design,
    dump,
    kinds,
    load,
    pd_of,
)
from credit_risk_dagster.domain.pd import (
    CategoryTerm,
    Coefficients,
    ModelUnreadable,
    NumberTerm,
    PdModel,
    load_model_file,
    model_file,
    read_coefficients,
)
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import answers, assess
from tests.domain.model.samples import OUTCOME, builtin_rows, planted
from tests.malformed import event

ALL = select_features(FEATURES)
MODEL = PdModel(
    7,
    "logistic@planted",
    Coefficients(
        -2.0,
        [
            NumberTerm("dti", 0.1, 20.0, 0.0, 0.5),
            NumberTerm("annual_inc", -1e-5, 60_000.0, 0.0, 0.0),
            NumberTerm("revol_util", 0.05, 40.0, 0.0, 0.7),
            NumberTerm("inq_last_6mths", 0.3, 1.0, 0.0, 0.0),
            NumberTerm("loan_amnt", -1e-4, 10_000.0, 0.0, 0.0),
            CategoryTerm("purpose", ["car", "medical"], [-0.1, 0.9], 0.2, 0.05),
            CategoryTerm("term_months", ["36", "60"], [-0.2, 0.4], 0.0, 0.1),
        ],
    ),
)
PLAIN: dict[str, Any] = {
    "dti": 20.0,
    "annual_inc": 60_000.0,
    "revol_util": 40.0,
    "inq_last_6mths": 1.0,
    "loan_amnt": 10_000.0,
    "purpose": "car",
    "term_months": 36.0,
}


def rows(*changes: dict[str, Any]) -> pa.RecordBatch:
    types = {name: pa.string() if name == "purpose" else pa.float64() for name in PLAIN}
    values = [{**PLAIN, **change} for change in changes]
    return pa.RecordBatch.from_pydict(
        {name: pa.array([v[name] for v in values], kind) for name, kind in types.items()}
    )


def score(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    scored: list[dict[str, Any]] = MODEL.score(rows(*changes)).to_pylist()
    return scored


# --- parity with scikit-learn -------------------------------------------------------------------


def unusual(random: np.random.Generator, size: int) -> pa.Table:
    """Applications with values that training has not seen: missing, huge, of new categories."""
    bad = np.arange(size) % 2 == 0
    table = planted(bad, int(random.integers(1_000)))
    columns = {name: table[name].to_pylist() for name in table.schema.names}
    for name in FEATURES:
        for at in random.choice(size, size // 5, replace=False):
            text = isinstance(columns[name][at], str)
            known = ["house", "other", "ANY", None] if text else [None, 0.0, 1e6, 12.0]
            columns[name][at] = known[random.integers(4)]
    return pa.table({name: pa.array(columns[name], table[name].type) for name in columns})


@pytest.mark.slow
@pytest.mark.parametrize("names", [CLASSIC_FEATURES, tuple(FEATURES), ("grade", "purpose")])
def test_the_pd_is_scikit_learns(names: tuple[str, ...]) -> None:
    """After training on real loans: on them, and on applications like none of them; by the
    coefficients as they are stored, and by the pipeline as it is stored."""
    features = select_features(names)
    sample = make_sample("builtin", OUTCOME, builtin_rows())
    frame = design(sample.rows, features)
    pipeline = kinds()[0].fit(frame, sample.bad, features, 0)
    stored = read_coefficients(coefficients(pipeline, frame).to_json())
    artifact = dump(Trained("logistic", pipeline, np.zeros(0), None))
    random = np.random.default_rng(1)
    for table in (sample.rows, *(unusual(random, 500) for _ in range(5))):
        (batch,) = table.combine_chunks().to_batches()
        pd = PdModel(1, "logistic", stored).score(batch)["pd"].to_numpy()
        expected = pd_of(pipeline, design(table, features))
        assert np.abs(pd - expected).max() < 1e-9
        assert (pd_of(load(artifact), design(table, features)) == expected).all()


@pytest.mark.slow
def test_missing_values_and_their_indicator_are_scikit_learns() -> None:
    """Where the outcome depends on a value being missing."""
    random = np.random.default_rng(3)
    util = np.where(random.random(4_000) < 0.2, np.nan, random.uniform(0, 100, 4_000))
    bad = random.random(4_000) < np.where(np.isnan(util), 0.6, 0.1)
    sample = make_sample("planted", OUTCOME, planted(bad, revol_util=util))
    frame = design(sample.rows, ALL)
    pipeline = kinds()[0].fit(frame, sample.bad, ALL, 0)
    model = PdModel(1, "logistic", coefficients(pipeline, frame))
    (batch,) = sample.rows.to_batches()
    scored = model.score(batch)
    assert np.abs(scored["pd"].to_numpy() - pd_of(pipeline, frame)).max() < 1e-9
    of_missing = [
        reasons[0]
        for reasons, known in zip(
            scored["pd_reasons"].to_pylist(),
            batch["revol_util"].is_valid().to_pylist(),
            strict=True,
        )
        if not known
    ]
    assert set(of_missing) == {"Credit utilization is not known"}
    # The contributions are against the population: on average they are nothing.
    assert model.log_odds(batch)[1].mean(axis=0) == pytest.approx([0] * len(ALL), abs=1e-9)


@pytest.mark.slow
def test_the_drain_scores_without_scikit_learn() -> None:
    program = (
        "import sys, json\n"
        "import credit_risk_dagster.definitions, credit_risk_dagster.pipelines.drain\n"
        "from credit_risk_dagster.domain.events import decode\n"
        "from credit_risk_dagster.domain.pd import *\n"
        "from credit_risk_dagster.domain.policy import load_policy\n"
        "from credit_risk_dagster.domain.scoring import assess\n"
        "from credit_risk_dagster.settings import DEFAULT_POLICY\n"
        "model = PdModel(1, 'm', Coefficients(0.0, [NumberTerm('dti', 1.0, 20.0, 0.0, 0.0)]))\n"
        "found = assess(decode([sys.argv[1].encode()]), load_policy(DEFAULT_POLICY), model)\n"
        "heavy = ('sklearn', 'scipy', 'altair', 'skops', 'optbinning')\n"
        "imported = [name for name in heavy if name in sys.modules]\n"
        "print(json.dumps([found.scored['pd'].to_pylist(), imported]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, event(dti=20).decode()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[0.5], []]


# --- reasons ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"dti": 30.0}, ["Obligations are high in relation to income"]),
        ({"dti": 10.0}, []),
        ({"dti": 20.4}, []),  # too little to be told
        ({"annual_inc": 20_000.0}, ["Income is low"]),
        ({"revol_util": None}, ["Credit utilization is not known"]),
        ({"purpose": "medical"}, ["Purpose of the loan"]),
        ({"purpose": "boat"}, ["Purpose of the loan"]),
        ({"purpose": None}, ["Purpose of the loan is not known"]),
        ({"term_months": 60.0}, ["Term of the loan"]),
        # against what the field expects: the factor alone
        ({"loan_amnt": 1_000.0}, ["Amount of the loan"]),
        # the largest first, and no more than four
        (
            {"dti": 30.0, "revol_util": 90.0, "inq_last_6mths": 3.0, "purpose": "medical"},
            [
                "Balances are high against credit limits",
                "Obligations are high in relation to income",
                "Purpose of the loan",
                "Many recent credit inquiries",
            ],
        ),
        (
            {
                "dti": 30.0,
                "revol_util": 90.0,
                "purpose": "medical",
                "term_months": 60.0,
                "annual_inc": 10_000.0,
                "inq_last_6mths": 3.0,
            },
            [
                "Balances are high against credit limits",
                "Obligations are high in relation to income",
                "Purpose of the loan",
                "Many recent credit inquiries",
            ],
        ),
    ],
)
def test_reasons_are_the_largest_contributions(change: dict[str, Any], reasons: list[str]) -> None:
    (scored,) = score(change)
    assert scored["pd_reasons"] == reasons
    assert scored["model_id"] == 7


def test_a_batch_gives_what_its_rows_give() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"dti": 99.0},
        {"revol_util": None, "purpose": None},
        {"term_months": 12.0},
    ]
    assert score(*changes) == [score(change)[0] for change in changes]


def test_the_pd_by_hand() -> None:
    (plain, indebted) = score({}, {"dti": 30.0})
    assert plain["pd"] == pytest.approx(1 / (1 + np.exp(2 + 0.1 + 0.2)))
    assert indebted["pd"] == pytest.approx(1 / (1 + np.exp(2 + 0.1 + 0.2 - 1)))


def test_no_pd_is_beyond_zero_and_one() -> None:
    for scored in score({"annual_inc": 1e12}, {"dti": 1e308}, {"revol_util": 1e300}):
        assert 0 <= scored["pd"] <= 1


def test_an_empty_batch() -> None:
    assert score() == []


def test_every_feature_has_words_for_every_side() -> None:
    for feature in FEATURES.values():
        for words in (feature.high, feature.low, feature.unknown):
            assert words[0].isupper()
            assert len(words) <= 60


# --- the model beside the policy ----------------------------------------------------------------


def test_the_decision_is_the_same_with_a_model(policy: Policy) -> None:
    values: list[bytes | None] = [
        event(),
        event(dti=35),
        b"junk",
        event(purpose="medical", revol_util=40, dti=10, inq_last_6mths=0),
    ]
    alone, beside = answers(values, policy), answers(values, policy, MODEL)
    for one, other in zip(alone, beside, strict=True):
        assert {name: other[name] for name in one} == one
        assert other["model"] == MODEL.version
    assert [answer["pd"] is None for answer in beside] == [False, False, True, False]
    assert beside[3]["pd_reasons"][0] == "Purpose of the loan"


class Broken(PdModel):
    def score(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        raise NotFittedError("no")


@pytest.mark.parametrize(
    "model",
    [
        Broken(1, "broken", MODEL.coefficients),
        PdModel(1, "of a column that is none", Coefficients(0.0, [NumberTerm("x", 1, 1, 1, 1)])),
        PdModel(1, "of a text", Coefficients(0.0, [NumberTerm("purpose", 1, 1, 1, 1)])),
    ],
)
def test_a_model_that_fails_costs_nothing_but_the_pd(policy: Policy, model: PdModel) -> None:
    decoded = decode([event(), event(dti=35, delinq_2yrs=1), b"junk"])
    found, expected = assess(decoded, policy, model), assess(decoded, policy)
    assert found.scored.equals(expected.scored)
    assert found.model_error
    assert model.version in found.model_error
    assert expected.model_error is None


# --- storage ------------------------------------------------------------------------------------


def test_coefficients_come_back_as_they_were() -> None:
    assert read_coefficients(MODEL.coefficients.to_json()) == MODEL.coefficients


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "cannot be read"),
        ("{}", "missing required field"),
        ('{"intercept": 0, "terms": []}', "empty or not finite"),
        ('{"intercept": 0, "terms": [{"type": "number", "feature": "dti"}]}', "missing required"),
        ('{"intercept": "0", "terms": []}', "Expected `float`"),
        ('{"intercept": 0, "terms": [{"type": "tree"}]}', "Invalid value 'tree'"),
        (
            '{"intercept": 0, "terms": [{"type": "number", "feature": "zip_code", "weight": 1,'
            ' "reference": 1, "offset": 0, "if_missing": 0}]}',
            "a feature that is unknown: zip_code",
        ),
        (
            '{"intercept": 0, "terms": [{"type": "category", "feature": "purpose", "values":'
            ' ["car"], "added": [], "otherwise": 0, "if_missing": 0}]}',
            "purpose has 1 values and 0 coefficients",
        ),
    ],
)
def test_damaged_coefficients_are_refused(document: str, message: str) -> None:
    with pytest.raises(ModelUnreadable, match=message):
        read_coefficients(document)


def test_coefficients_that_are_no_numbers_are_refused() -> None:
    broken = Coefficients(0.0, [NumberTerm("dti", float("nan"), 0.0, 0.0, 0.0)])
    with pytest.raises(ModelUnreadable):
        read_coefficients(broken.to_json())


def test_a_model_as_a_file(tmp_path: Any) -> None:
    file = tmp_path / "model.json"
    file.write_bytes(model_file(MODEL))
    assert load_model_file(file) == MODEL
    file.write_text("{}")
    with pytest.raises(ModelUnreadable, match=f"model {file} cannot be read"):
        load_model_file(file)
    with pytest.raises(ModelUnreadable, match="No such file"):
        load_model_file(tmp_path / "nowhere.json")
