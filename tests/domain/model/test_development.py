"""The score's and the features' stability against the development sample."""

import numpy as np
import pyarrow as pa
import pytest

from credit_risk_dagster.domain.drift.comparison import Thresholds
from credit_risk_dagster.domain.model.development import SCORE, freeze_sample, stability
from tests.domain.model.samples import builtin_rows

FEATURES = ("dti", "revol_util", "delinq_2yrs", "term_months", "purpose", "home_ownership")


def test_a_sample_is_stable_against_itself_and_a_shift_is_seen() -> None:
    rows = builtin_rows()
    score = pa.array(np.random.default_rng(0).beta(2, 80, len(rows)))
    kept = freeze_sample(rows, FEATURES, score)
    same = stability(kept, rows, score, Thresholds())
    assert next(one.feature for one in same) == SCORE
    assert {one.feature for one in same} == {SCORE, *FEATURES}
    for one in same:
        assert one.psi == pytest.approx(0, abs=1e-9), one.feature
        assert one.verdict == "stable"
    moved = rows.set_column(
        rows.column_names.index("dti"), "dti", pa.array(rows["dti"].to_numpy() + 8)
    )
    higher = pa.array(score.to_numpy() * 1.5)
    found = {one.feature: one for one in stability(kept, moved, higher, Thresholds())}
    assert found["dti"].verdict == "significant"
    assert found[SCORE].verdict == "significant"
    assert found["purpose"].verdict == "stable"


def test_the_psi_is_that_of_the_deciles() -> None:
    """By hand: tenths against a window of which all is in the highest one."""
    score = pa.array(np.arange(1_000) / 1_000)
    kept = freeze_sample(pa.table({}), (), score)
    top = pa.array(np.full(1_000, 0.999))
    (found,) = stability(kept, pa.table({"x": top}), top, Thresholds())
    low = 0.0005  # an empty bin counts as half a row
    expected = 9 * (low - 0.1) * np.log(low / 0.1) + (1 - 0.1) * np.log(1 / 0.1)
    assert found.psi == pytest.approx(expected, rel=0.01)


def test_few_rows_have_no_verdict() -> None:
    rows = builtin_rows()
    score = pa.array(np.random.default_rng(0).random(len(rows)))
    kept = freeze_sample(rows, FEATURES, score)
    found = stability(kept, rows.slice(0, 100), score.slice(0, 100), Thresholds())
    assert {one.verdict for one in found} == {"too_few_rows"}
