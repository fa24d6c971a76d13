"""The scorecard: optbinning's bins, scored as the stream does, without optbinning."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from credit_risk_dagster.domain.features import FEATURES, select_features
from credit_risk_dagster.domain.model.additive import Additive
from credit_risk_dagster.domain.model.scorecard import Bins, fit_scorecard, weigh
from credit_risk_dagster.domain.model.training import pd_of
from credit_risk_dagster.domain.pd import PdModel, read_coefficients
from tests.data import optbinning_answers

ANSWERS: dict[str, Any] = json.loads(optbinning_answers.BINS_FILE.read_text())
BAD, DRAWN = optbinning_answers.drawn_applications()
FRAME = pd.DataFrame(DRAWN)


def stored_bins(name: str) -> Bins:
    answer = ANSWERS[name]
    *risk, missing = (-evidence for evidence in answer["evidence"])
    category = FEATURES[name].risk_rises == 0
    return Bins(
        name,
        () if category else tuple(answer["splits"]),
        tuple(map(tuple, answer["splits"])) if category else (),
        tuple(risk),
        max(missing, *risk),
    )


@pytest.fixture(scope="module")
def scorecard() -> Additive:
    return weigh([stored_bins(name) for name in ANSWERS], FRAME, BAD)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_value_is_in_optbinnings_bin(name: str) -> None:
    found = stored_bins(name).column(FRAME[name].iloc[:100])
    known = FRAME[name].iloc[:100].notna().to_numpy()
    assert found[known] == pytest.approx(-np.array(ANSWERS[name]["of"])[known], abs=1e-12)
    # One that is missing is optbinning's missing bin, or the worst one where that is worse.
    assert (found[~known] >= -np.array(ANSWERS[name]["of"])[~known] - 1e-12).all()


def test_the_stream_scores_it_from_its_coefficients(scorecard: Additive) -> None:
    model = PdModel(1, "scorecard", read_coefficients(scorecard.coefficients.to_json()))
    numbers = [n for n in DRAWN if n != "purpose"]
    rows = pa.RecordBatch.from_pydict(
        {n: pa.array(DRAWN[n], from_pandas=True) for n in numbers}
        | {"purpose": pa.array(DRAWN["purpose"], pa.string())}
    )
    scored = model.score(rows)
    assert scored["pd"].to_numpy() == pytest.approx(pd_of(scorecard, FRAME), abs=1e-12)
    assert scored["pd"].to_numpy().mean() == pytest.approx(BAD.mean(), rel=0.01)
    assert "Obligations are high in relation to income" in {
        reason for reasons in scored["pd_reasons"].to_pylist() for reason in reasons
    }


def test_it_goes_the_fields_way_and_missing_never_lowers_it(scorecard: Additive) -> None:
    assert scorecard.coefficients.against_the_field() == []
    dti, history, purpose = scorecard.coefficients.terms
    assert all(a <= b for a, b in pairwise(dti.added))  # type: ignore[union-attr]
    assert all(a >= b for a, b in pairwise(history.added))  # type: ignore[union-attr]
    for term in (dti, history, purpose):
        assert term.if_missing >= max(term.added)  # type: ignore[union-attr]


def test_optbinning_makes_the_same_scorecard(scorecard: Additive) -> None:
    pytest.importorskip("optbinning", reason="its answers are kept; its solvers take 310 MB")
    assert optbinning_answers.bins() == ANSWERS
    fitted = fit_scorecard(FRAME, BAD, select_features(list(DRAWN)))
    assert pd_of(fitted, FRAME) == pytest.approx(pd_of(scorecard, FRAME), abs=1e-9)
