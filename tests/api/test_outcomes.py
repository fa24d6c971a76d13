"""Telling how loans went, over HTTP."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.test_decisions import problem
from tests.platform.pipeline import Pipeline

OUTCOME: dict[str, Any] = {
    "loan_id": "127000001",
    "observed_at": "2019-03-31",
    "status": "Late (31-120 days)",
    "days_past_due": 63,
}


def test_outcomes_are_stored_once(client: TestClient, pipeline: Pipeline) -> None:
    answer = client.post("/outcomes", json=OUTCOME)
    assert (answer.status_code, answer.json()) == (200, {"added": 1, "known": 0})
    later = {**OUTCOME, "observed_at": "2019-04-30T00:00:00Z", "source": "servicing"}
    corrected = {**OUTCOME, "days_past_due": 33}
    answer = client.post("/outcomes", json=[OUTCOME, later, corrected])
    assert answer.json() == {"added": 2, "known": 1}
    rows = pipeline.query("SELECT * FROM loan_outcomes ORDER BY outcome_id")
    assert [row["days_past_due"] for row in rows] == [63, 63, 33]
    assert [row["source"] for row in rows] == ["api loopback", "servicing", "api loopback"]
    assert not pipeline.query("SELECT 1 FROM batches")  # nothing was scored


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("[1]", 422, "each is a JSON object"),
        ("nothing", 400, "the body is no JSON"),
        ('[{"loan_id": 1, "observed_at": "2019-03-31"}]', 422, "outcome 1: it says nothing"),
        ('{"observed_at": "2019-03-31", "status": "x"}', 422, "outcome 1: loan_id is missing"),
        ("[" + "{}," * 2_000 + "{}]", 413, "one request has at most"),
    ],
)
def test_what_is_no_outcome(
    client: TestClient, pipeline: Pipeline, body: str, status: int, detail: str
) -> None:
    answer = client.post("/outcomes", content=body, headers={"Content-Type": "application/json"})
    found, said = problem(answer)
    assert found == status
    assert detail in said
    assert not pipeline.query("SELECT 1 FROM loan_outcomes")


def test_one_wrong_outcome_of_a_list_stores_none(client: TestClient, pipeline: Pipeline) -> None:
    answer = client.post("/outcomes", json=[OUTCOME, {**OUTCOME, "balance": "much"}])
    assert problem(answer) == (422, "outcome 2: balance is no number")
    assert not pipeline.query("SELECT 1 FROM loan_outcomes")


def test_an_empty_list_is_nothing(client: TestClient) -> None:
    assert client.post("/outcomes", json=[]).json() == {"added": 0, "known": 0}
