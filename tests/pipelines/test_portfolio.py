"""The report of the portfolio, of real servers."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from credit_risk_dagster.definitions import defs
from credit_risk_dagster.domain.model.outcome import load_outcome
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.classes import read_classes
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.outcomes import OutcomesLater
from credit_risk_dagster.pipelines.portfolio import report_portfolio
from credit_risk_dagster.pipelines.producer import produce
from credit_risk_dagster.settings import DEFAULT_POLICY, Settings
from resources.configurable import resources
from tests.pipelines.test_modelling import activate
from tests.platform.pipeline import Pipeline

LOANS = 2_000
POLICY, OUTCOME = load_policy(DEFAULT_POLICY), load_outcome("early_delinquency")


@pytest.fixture
def streamed(pipeline: Pipeline) -> Pipeline:
    """Loans that were scored, and how they went."""
    loans = OutcomesLater(builtin_loans()[:LOANS], pipeline.warehouse)
    produce(pipeline.kafka, loans)
    pipeline.drain()
    loans.flush()
    return pipeline


def report(pipeline: Pipeline) -> dict[str, Any]:
    found = report_portfolio(pipeline.warehouse, POLICY, OUTCOME, run_id="run")
    assert found is not None
    return found


def test_by_the_active_model(streamed: Pipeline, ready: int) -> None:
    before = report(streamed)
    assert not before["active"]  # the newest model that could be
    model = activate(streamed, ready)
    found = report(streamed)
    assert (found["model"], found["active"]) == (model.version, True)
    assert (found["applications"], found["known"]) == (LOANS, LOANS)
    whole, *groups = found["expected"]
    tiers = [group for group in groups if group["of"] == "tier"]
    assert sum(tier["loss"] for tier in tiers) == pytest.approx(whole["loss"])
    assert whole["loss"] == pytest.approx(0.75 * whole["loss_rate"] * whole["amount"] / 0.75)
    assert {group["of"] for group in groups} == {"tier", "purpose", "grade", "vintage"}
    pds = {scenario["scenario"]: scenario["pd"] for scenario in found["stress"]}
    assert pds["DTI +10"] > pds["DTI +5"] > pds["as it is"] == pytest.approx(whole["pd"])
    windows = found["windows"]
    assert len(windows) == LOANS // 500
    assert sum(window["applications"] for window in windows) == LOANS
    assert sum(window["realised"]["loans"] for window in windows) == LOANS
    for window in windows:
        low, value, high = (window["estimated"]["auc"][end] for end in ("low", "value", "high"))
        assert low < value < high
        assert {tier["tier"] for tier in window["tiers"]} <= {"Low", "Elevated", "Watchlist"}
    homes = [s for s in found["segments"] if s["attribute"] == "home_ownership"]
    assert {segment["value"] for segment in homes} == {"RENT", "MORTGAGE", "OWN"}
    (stored,) = streamed.query(
        "SELECT document FROM risk_reports WHERE kind = 'portfolio' ORDER BY report_id DESC LIMIT 1"
    )
    assert stored["document"]["stress"] == found["stress"]


def test_without_a_model_there_is_what_needs_none(streamed: Pipeline) -> None:
    found = report(streamed)
    assert (found["model"], found["expected"], found["windows"]) == (None, [], [])
    flags = [scenario["flagged"] for scenario in found["stress"]]
    assert flags[0] < flags[1] < flags[2]
    assert found["score"] == "rate"


def test_the_job_says_whom_the_policy_flags_more_often(
    streamed: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    result = defs.resolve_job_def("report_portfolio").execute_in_process(
        instance=instance, resources=resources(lambda: settings)
    )
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["dagster/row_count"].value == LOANS
    (check,) = result.get_asset_check_evaluations()
    low = [s for s in report(streamed)["segments"] if s["verdict"] in ("warning", "alarm")]
    assert check.passed == (not low)
    for segment in low:
        assert f"{segment['attribute']} {segment['value']}" in (check.description or "")


def test_protected_classes_are_in_the_report_and_nobody_is(
    streamed: Pipeline, tmp_path: Path
) -> None:
    """By probability and by loan; only sums of them are stored."""
    path = tmp_path / "bisg.csv"
    ids = [str(loan["id"]) for loan in builtin_loans()[: LOANS - 100]]
    rows = [f"{loan},{0.25 if at % 2 else 0.75},0.25" for at, loan in enumerate(ids)]
    path.write_text("\n".join(["loan_id,one,other", *rows]))
    found = report_portfolio(
        *(streamed.warehouse, POLICY, OUTCOME), run_id="run", classes=read_classes(path)
    )
    assert found is not None
    assert found["classes"] == f"{LOANS - 100:,} of {LOANS:,} applications have a class, by loan_id"
    classes = {s["value"]: s for s in found["segments"] if s["attribute"] == "protected class"}
    assert {value: s["rows"] for value, s in classes.items()} == {"one": 950, "other": 475}
    for segment in classes.values():
        for figure in ("ratio", "recall", "false_positive"):
            low, value, high = (segment[figure][end] for end in ("low", "value", "high"))
            assert low <= value <= high
        assert segment["difference"] == segment["difference"]
    (stored,) = streamed.query(
        "SELECT document::text FROM risk_reports WHERE kind = 'portfolio'"
        " ORDER BY report_id DESC LIMIT 1"
    )
    assert not [loan for loan in ids if f'"{loan}"' in stored["document"]]


def test_nothing_is_scored_yet(pipeline: Pipeline) -> None:
    assert report_portfolio(pipeline.warehouse, POLICY, OUTCOME, run_id="run") is None
