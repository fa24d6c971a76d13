"""The PD and what raises it: as training has it, without scikit-learn."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.exceptions import NotFittedError

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.features import FEATURES, select_features
from credit_risk_dagster.domain.model.additive import Additive
from credit_risk_dagster.domain.model.design import design
from credit_risk_dagster.domain.model.training import kinds, pd_of
from credit_risk_dagster.domain.pd import (
    BinTerm,
    CategoryTerm,
    Coefficients,
    ModelUnreadable,
    NumberTerm,
    PdModel,
    load_model_file,
    model_file,
    probability,
    read_coefficients,
)
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import answers, assess
from tests.domain.model.samples import OUTCOME, builtin_rows, planted, sample_of
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


# --- as it was trained --------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def fitted() -> Additive:
    """A model with every feature, of real loans."""
    sample = sample_of("builtin", OUTCOME, builtin_rows())
    estimator: Additive = kinds()[0].fit(design(sample.rows, ALL), sample.bad, ALL, 0)
    return estimator


@pytest.mark.slow
def test_the_stream_scores_as_training_does(fitted: Additive) -> None:
    """On real loans, and on applications like none of them; by the coefficients as stored."""
    model = PdModel(1, "logistic", read_coefficients(fitted.coefficients.to_json()))
    random = np.random.default_rng(1)
    for table in (builtin_rows(), *(unusual(random, 500) for _ in range(5))):
        (batch,) = table.combine_chunks().to_batches()
        expected = pd_of(fitted, design(table, ALL))
        assert np.abs(model.score(batch)["pd"].to_numpy() - expected).max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_a_missing_value_never_lowers_the_pd(fitted: Additive, name: str) -> None:
    """Whatever was known, and whatever else is: who withholds a value gains nothing."""
    model = PdModel(1, "logistic", fitted.coefficients)
    random = np.random.default_rng(2)
    for table in (builtin_rows().slice(0, 2_000), unusual(random, 500)):
        without = table.set_column(
            table.schema.get_field_index(name), name, pa.nulls(len(table), table[name].type)
        )
        known, missing = (model.log_odds(rows)[0] for rows in (table, without))
        assert (missing >= known - 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [f.name for f in ALL if f.risk_rises])
def test_a_number_moves_the_pd_one_way_and_not_for_ever(fitted: Additive, name: str) -> None:
    sweep = np.concatenate([[-1e9], np.linspace(-10, 1_000, 400), [99_999.0, 1e9, 1e300]])
    row = builtin_rows().slice(0, 1)
    table = pa.concat_tables([row] * len(sweep))
    at = table.schema.get_field_index(name)
    found = PdModel(1, "logistic", fitted.coefficients).log_odds(
        table.set_column(at, name, pa.array(sweep))
    )[0]
    direction = FEATURES[name].risk_rises
    assert (direction * np.diff(found) >= 0).all()
    assert found[-3] == found[-1]
    assert probability(found).min() > 1e-4
    assert probability(found).max() < 0.6


@pytest.mark.slow
def test_the_reasons_are_never_against_the_field(fitted: Additive) -> None:
    """Nobody's PD is raised by a debt that is low."""
    (batch,) = builtin_rows().combine_chunks().to_batches()
    told = {
        r
        for rs in PdModel(1, "m", fitted.coefficients).score(batch)["pd_reasons"].to_pylist()
        for r in rs
    }
    against = {f.low if f.risk_rises > 0 else f.high for f in ALL if f.risk_rises}
    assert told
    assert not told & against


def test_bins_score_by_their_edges() -> None:
    term = BinTerm("dti", [10.0, 20.0], [-0.5, 0.1, 0.7], 0.9)
    added, sides = term.contributions(pa.array([None, -5.0, 9.9, 10.0, 19.9, 20.0, 1e300]))
    assert added.tolist() == [0.9, -0.5, -0.5, 0.1, 0.1, 0.7, 0.7]
    assert sides.tolist() == [2, 1, 1, 1, 1, 0, 0]
    stored = Coefficients(-3.0, [term])
    assert read_coefficients(stored.to_json()) == stored
    assert stored.against_the_field() == []
    assert Coefficients(0.0, [BinTerm("dti", [1.0], [0.1, 0.0], 0.1)]).against_the_field() == [
        "dti"
    ]


def test_coefficients_of_an_older_version_can_be_read() -> None:
    old = (
        '{"intercept": -2, "terms": [{"type": "number", "feature": "dti", "weight": -0.1,'
        ' "reference": 20, "offset": 0.5, "if_missing": 0}]}'
    )
    found = read_coefficients(old)
    assert found.terms[0].contributions(pa.array([1e6]))[0][0] == pytest.approx(0.5 - 0.1 * 999980)
    assert found.against_the_field() == ["dti"]


@pytest.mark.slow
def test_the_drain_scores_without_scikit_learn() -> None:
    program = (
        "import sys, json\n"
        "import credit_risk_dagster.definitions, credit_risk_dagster.pipelines.drain\n"
        "from credit_risk_dagster.domain.decoding import decode\n"
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
        (
            '{"intercept": 0, "terms": [{"type": "bins", "feature": "dti", "edges": [2, 1],'
            ' "added": [0, 0, 0], "if_missing": 0}]}',
            "dti has 3 bins and 2 edges",
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
