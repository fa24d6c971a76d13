"""Expected loss, and what a worse economy does to it."""

import numpy as np
import pyarrow as pa
import pytest

from credit_risk_dagster.domain.model.observed import OBSERVED
from credit_risk_dagster.domain.pd import BinTerm, Coefficients, NumberTerm, PdModel
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.portfolio import (
    ASSUMED_LGD,
    SCENARIOS,
    Lgd,
    expected_losses,
    loss_given_default,
    stress,
    stressed,
    unmoved,
)
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.domain.model.samples import builtin_rows

MODEL = PdModel(
    1,
    "logistic@test",
    Coefficients(
        -4.0,
        [
            NumberTerm("dti", 0.02, 18.0, 0.0, 0.5, 0.0, 60.0),
            NumberTerm("int_rate", 0.1, 12.0, 0.0, 0.5, 5.0, 31.0),
            NumberTerm("annual_inc", -1e-6, 80_000.0, 0.0, 0.5),
        ],
    ),
)


def test_expected_loss_is_pd_times_lgd_times_exposure() -> None:
    pd, amount = np.array([0.01, 0.03, 0.10]), np.array([10_000.0, 20_000.0, 5_000.0])
    found = expected_losses({"tier": ["Low", "Low", "Watchlist"]}, pd, amount, Lgd(0.6, 50))
    whole, low, watchlist = found
    assert whole.loss == pytest.approx(0.6 * (100 + 600 + 500))
    assert (low.value, low.applications, low.amount) == ("Low", 2, 30_000)
    assert low.loss == pytest.approx(0.6 * 700)
    assert low.pd == pytest.approx(0.02)
    assert watchlist.loss_rate == pytest.approx(0.06)
    assert low.loss + watchlist.loss == pytest.approx(whole.loss)


def test_loss_given_default_is_measured_or_said_to_be_assumed() -> None:
    assert loss_given_default(OBSERVED.empty_table(), {}) == Lgd(ASSUMED_LGD, 0)
    assert "is assumed" in Lgd(ASSUMED_LGD, 0).words
    size = 40
    rows = {
        "loan_id": [str(at) for at in range(size)] * 2,
        "observed_at": pa.array([1] * size + [2] * size, pa.timestamp("us", "UTC")),
        "status": ["Late (31-120 days)"] * size + ["Charged Off"] * size,
        "days_past_due": pa.nulls(2 * size),
        "balance": [8_000.0] * size + [0.0] * size,
        "recovered": [None] * size + [2_000.0] * size,
    }
    found = loss_given_default(pa.table(rows, OBSERVED), {})
    assert (found.value, found.defaults) == (pytest.approx(0.75), size)
    unknown = pa.table(rows | {"balance": [None] * 2 * size}, OBSERVED)
    exposures = dict.fromkeys(rows["loan_id"], 4_000.0)
    assert loss_given_default(unknown, exposures).value == pytest.approx(0.5)


def test_what_gets_worse_flags_and_loses_more() -> None:
    """DTI +10 lowered the PD of a model without signs."""
    rows = builtin_rows()
    found = {s.scenario: s for s in stress(rows, load_policy(DEFAULT_POLICY), MODEL, Lgd(0.75, 0))}
    assert tuple(found) == SCENARIOS
    now = found["as it is"]
    for scenario in SCENARIOS[1:]:
        assert found[scenario].flagged >= now.flagged
        assert found[scenario].pd > now.pd  # type: ignore[operator]
        assert found[scenario].loss > now.loss  # type: ignore[operator]
    assert found["DTI +10"].flagged > found["DTI +5"].flagged > now.flagged
    assert found["DTI +10"].pd > found["DTI +5"].pd  # type: ignore[operator]
    assert now.flagged_low < now.flagged / now.applications < now.flagged_high
    without = stress(rows, load_policy(DEFAULT_POLICY), None, Lgd(0.75, 0))
    assert [s.flagged for s in without] == [s.flagged for s in found.values()]
    assert {s.loss for s in without} == {None}


def test_what_the_model_does_not_use_is_said() -> None:
    """At its bound, DTI moves no PD: weakly monotone, and no mistake."""
    bound = NumberTerm("dti", 0.0, 18.0, 0.0, 0.5)
    model = PdModel(1, "x", Coefficients(-4.0, [bound, BinTerm("int_rate", [9.0], [0, 0.5], 0.5)]))
    found = unmoved(model)
    assert [said.split(":")[0] for said in found] == [
        "The model does not use DTI",
        "The model does not use income",
    ]
    assert "coefficient is at its bound of 0" in found[0]
    assert "none of its features" in found[1]
    assert unmoved(MODEL) == []
    rows = builtin_rows()
    now, *others = stress(rows, load_policy(DEFAULT_POLICY), model, Lgd(0.75, 0))
    pds = {s.scenario: s.pd for s in others}
    assert pds["DTI +5"] == pds["DTI +10"] == pds["income -10 %"] == now.pd
    assert pds["rate +200 bp"] > now.pd  # type: ignore[operator]


def test_what_a_scenario_changes() -> None:
    rows = pa.table({"dti": [18.0, None], "annual_inc": [90.0, 50.0], "int_rate": [10.0, 11.0]})
    assert stressed(rows, "DTI +5")["dti"].to_pylist() == [23.0, None]
    poorer = stressed(rows, "income -10 %")
    assert poorer["annual_inc"].to_pylist() == [81.0, 45.0]
    assert poorer["dti"].to_pylist() == [pytest.approx(20.0), None]
    assert stressed(rows, "rate +200 bp")["int_rate"].to_pylist() == [12.0, 13.0]
    assert stressed(rows, "as it is").equals(rows)
