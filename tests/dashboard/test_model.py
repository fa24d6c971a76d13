"""The Model page as a person meets it."""

import logging
from typing import Any

import numpy as np
import psycopg
import pytest
from streamlit.testing.v1 import AppTest

from credit_risk_dagster.domain.features import select_features
from credit_risk_dagster.domain.model.training import kinds
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.modelling import Modelling, Stored
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from resources.postgres.approvals import Approvals
from resources.postgres.connection import Warehouse
from tests.dashboard.conftest import figures, open_view, words
from tests.domain.model.samples import planted_sample
from tests.pipelines.approvals import approved

LOANS = 800


@pytest.fixture(scope="module")
def trained() -> Modelling:
    """A model of loans whose DTI tells a part of the truth; some of them the rules flag."""
    random = np.random.default_rng(3)
    bad = random.random(LOANS) < 0.2
    dti = (random.normal(20, 8, LOANS) + 8 * bad).clip(0, 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelling, "kinds", lambda: kinds()[:1])  # the others take far longer
        return modelling.model(
            planted_sample(bad, dti=dti, revol_util=random.uniform(0, 60, LOANS)),
            select_features(["dti", "loan_amnt", "purpose"]),
            load_policy(DEFAULT_POLICY),
            0,
            logging.getLogger("test"),
        )


@pytest.fixture
def stored(
    trained: Modelling, warehouse_settings: WarehouseSettings, warehouse: psycopg.Connection[Any]
) -> Stored:
    """The same models, stored in the test's database."""
    return modelling.store(Warehouse(warehouse_settings), trained, "a-run")


def table(page: AppTest) -> dict[str, dict[str, str]]:
    (shown,) = (frame.value for frame in page.dataframe if "Figure" in frame.value)
    figures = shown.set_index("Figure")
    return {str(name): column.to_dict() for name, column in figures.items()}


def test_without_a_benchmark_the_page_says_how_to_make_one(
    warehouse: psycopg.Connection[Any],
) -> None:
    page = open_view("model")
    assert not page.exception
    assert "No benchmark yet" in page.info[0].value
    assert "benchmark_models" in page.info[0].value


def test_a_benchmark_is_shown_with_its_verdict_and_its_curves(
    trained: Modelling, stored: Stored
) -> None:
    page = open_view("model")
    assert not page.exception
    assert trained.benchmark.verdict in words(page).replace("\\", "")
    shown = figures(page)
    for name, label in (("rules", "AUC, rules"), ("logistic", "AUC, logistic regression")):
        auc = trained.benchmark.subject(name).evaluation.auc
        assert shown[label] == f"{auc:.3f}"
    # ROC, gains, calibration, PD by outcome, tiers, odds ratios, history
    assert len(page.get("vega_lite_chart")) == 7
    assert f"{LOANS} loans" in words(page)
    compared = trained.benchmark.subject("logistic").comparison
    assert compared is not None
    columns = table(page)
    assert columns["Rules"]["Recall"] == f"{100 * compared.rules['recall']:.1f} %"
    assert columns["Logistic regression"]["Recall"] == f"{100 * compared.model['recall']:.1f} %"
    assert columns["Rules"]["Brier score"] == "–"
    flagged = page.dataframe[1].value
    assert flagged["flagged by"].tolist() == [
        *("Both", "The rules alone", "The model alone", "Neither")
    ]
    assert flagged["loans"].sum() == LOANS


def test_the_history_tells_which_model_is_active(
    warehouse: psycopg.Connection[Any], stored: Stored
) -> None:
    def states() -> dict[str, str]:
        models = page.dataframe[2].value
        return dict(zip(models["kind"], models["state"], strict=True))

    page = open_view("model")
    assert states()["Logistic regression"] == "Not activated"
    approvals = Approvals(warehouse, "model")
    logistic = approved(warehouse, "model", stored.models["logistic"])
    approvals.record(logistic, "activate", "a test")
    page = again()
    assert states()["Logistic regression"] == "Active"
    approvals.record(logistic, "retire", "a test")
    page = again()
    assert not page.exception
    assert states()["Logistic regression"] == "Retired"


def again() -> AppTest:
    import streamlit as st

    st.cache_data.clear()
    return open_view("model")


def test_an_older_benchmark_can_be_chosen(
    trained: Modelling,
    stored: Stored,
    warehouse_settings: WarehouseSettings,
    warehouse: psycopg.Connection[Any],
) -> None:
    newer = modelling.store(Warehouse(warehouse_settings), trained, "another-run")
    warehouse.execute(
        "UPDATE model_benchmarks SET verdict = 'The older one' WHERE benchmark_id = %s",
        (stored.benchmark_id,),
    )
    page = open_view("model")
    assert "The older one" not in words(page)
    assert page.selectbox(key="benchmark").value == newer.benchmark_id
    page.selectbox(key="benchmark").set_value(stored.benchmark_id).run()
    assert not page.exception
    assert "The older one" in words(page)


def test_rules_that_flag_nobody_cannot_be_compared(
    warehouse: psycopg.Connection[Any], stored: Stored
) -> None:
    warehouse.execute("UPDATE model_benchmarks SET comparison = NULL, out_of_time = NULL")
    page = open_view("model")
    assert not page.exception
    assert "nobody to compare" in words(page)
    assert table(page)["Logistic regression"]["Recall"] == "–"


def test_a_model_without_its_odds_ratios(
    warehouse: psycopg.Connection[Any], stored: Stored
) -> None:
    warehouse.execute("UPDATE models SET metrics = metrics - 'effects'")
    page = open_view("model")
    assert not page.exception
    assert "without its odds ratios" in words(page)
