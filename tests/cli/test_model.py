"""`credit-risk model`, and the PD of `credit-risk score`."""

import json
import re
from pathlib import Path

import pytest

from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.modelling import Modelling
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.pipelines.approvals import approved
from tests.pipelines.models import KINDS, loans
from tests.platform.commands import Run, one_line
from tests.platform.pipeline import Pipeline


@pytest.fixture
def same_models(monkeypatch: pytest.MonkeyPatch, trained: Modelling) -> None:
    """Training takes its time, and is tested elsewhere."""
    monkeypatch.setattr(modelling, "model", lambda *_: trained)


@pytest.mark.usefixtures("same_models")
def test_the_benchmark_prints_the_whole_table(run: Run) -> None:
    result = run("model", "benchmark", "--sample", "builtin")
    assert result.code == 0
    auc = re.search(r"│ AUC +│ +(\S+) +│ +(\S+) +│", result.out)
    assert auc
    assert float(auc[1]) == pytest.approx(0.507, abs=0.001)
    assert float(auc[2]) == pytest.approx(0.685, abs=0.005)
    text = " ".join(result.out.split())
    for part in (
        *("177 bad of 9,943 loans of sample builtin", "by early-delinquency-v2@", "rules of"),
        *("Bad rate by tier of the rules", "Gains of the rules", "Gains of logistic"),
        *("Calibration of logistic", "Gains of gradient boosting"),
        *("Flagged by the rules and by logistic, 440 loans each", "Jaccard", "kappa", "Brier"),
        "At the same 4.4 % flagged, the model finds",
        "Flagged by the rules and by the interest rate alone, 440 loans each",
        "Activation of logistic: of the loans from 2018-03 on, it expects 72.5 bad and 49 were",
    ):
        assert part in text


@pytest.mark.usefixtures("same_models")
def test_the_benchmark_as_json(run: Run) -> None:
    result = run("model", "benchmark", "--sample", "builtin", "--json")
    found = json.loads(result.out)
    assert [subject["name"] for subject in found["subjects"]] == [
        *("rules", *KINDS, "price", "without_price")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "dti,total_pymnt"], "total_pymnt cannot be a feature"),
        (["--outcome", "matured"], "sample builtin has 7 bad and 447 good loans"),
        (["--outcome", "other"], "there is no outcome 'other'"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    assert message in one_line(run("model", "benchmark", "--sample", "builtin", *arguments))


@pytest.mark.usefixtures("servers")
def test_a_model_from_training_to_the_stream(
    run: Run,
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    activatable: Modelling,
) -> None:
    monkeypatch.setattr(modelling, "model", lambda *_: activatable)
    trained = run("model", "train", "--sample", "builtin")
    found = re.search(r"models: logistic (\d+)", trained.out)
    assert found
    assert "Activation of logistic: nothing speaks against it" in trained.out
    (logistic,) = found.groups()
    assert one_line(run("model", "activate", 999)).startswith("there is no model 999")
    assert f"model {logistic} is not approved" in one_line(run("model", "activate", logistic))
    own = one_line(run("model", "approve", logistic, "--why", "mine"))
    assert f"postgres submitted model {logistic} and cannot approve it" in own
    with pipeline.warehouse.session() as connection:
        approved(connection, "model", int(logistic))
    activated = run("model", "activate", logistic, "--why", "it ranks better")
    assert "scores the stream from the next batch on" in activated.out
    listed = json.loads(run("model", "ls", "--json").out)
    assert [(m["model_id"], m["active"]) for m in listed if m["active"]] == [(int(logistic), True)]
    assert re.search(rf"│ {logistic} +│ logistic@[0-9a-f]+ +│ active +│", run("model", "ls").out)

    pipeline.send(loans(20))
    pipeline.drain()
    rows = pipeline.query("SELECT loan_id, pd, pd_reasons FROM scored_applications")
    file, events = tmp_path / "model.json", tmp_path / "events.jsonl"
    file.write_text(run("model", "export", logistic).out)
    events.write_bytes(b"\n".join(event or b"" for event in loans(20)))
    answers = run("score", events, "--model", file).out.splitlines()
    scored = {a["loan_id"]: a for a in map(json.loads, answers) if a["outcome"] == "scored"}
    assert len(scored) == len(rows) > 0
    for row in rows:
        assert scored[row["loan_id"]]["pd"] == row["pd"]
        assert scored[row["loan_id"]]["pd_reasons"] == row["pd_reasons"]

    assert f"model {logistic} is retired" in run("model", "deactivate").out
    assert "no model was active" in run("model", "deactivate").out
    assert "retired" in run("model", "ls").out


def test_a_model_file_that_is_none(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text("{}")
    message = one_line(run("score", "-", "--model", file))
    assert message.startswith(f"model {file} cannot be read")


def test_fairness_of_the_built_in_loans(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        "CREDIT_RISK_POLICY_FILE", str(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
    )
    classes = tmp_path / "bisg.csv"
    classes.write_text("addr_state,one,other\nCA,0.4,0.6\nTX,0.3,0.7\nNY,0.2,0.8\n")
    asked = ("--column", "emp_length", "--classes", classes)
    found = json.loads(run("model", "fairness", "--json", *asked).out)
    named = {(s["attribute"], s["value"]): s for s in found}
    ratios = {
        ("application_type", "Joint App"): 0.931,  # 0.932 of those with a DTI of 100 at most
        ("home_ownership", "RENT"): 0.992,
        ("addr_state", "PA"): 0.929,
        ("grade", "F"): 0.889,
    }
    for segment, ratio in ratios.items():
        assert named[segment]["ratio"]["value"] == pytest.approx(ratio, abs=0.0006)
    assert named["grade", "F"]["verdict"] == "too_few_rows"
    assert ("emp_length", "10+ years") in named
    assert named["protected class", "one"]["rows"] > 500
    assert {s["attribute"] for s in found} > {"addr_state", "grade", "age of credit"}
    assert "Not flagged, against the segment with most" in run("model", "fairness").out
