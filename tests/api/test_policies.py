"""The life of a policy over HTTP: the client is the person, whoever runs the API."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from credit_risk_dagster.api.guards import HEADER, new_key
from tests.api.conftest import StartApi
from tests.api.test_decisions import problem
from tests.pipelines.approvals import named
from tests.platform.pipeline import Pipeline, good_event

SECOND = {"document": named("second").yaml, "why": "fewer losses", "evidence": {"flagged": 0.04}}
WHY = {"why": "agreed"}


def test_a_policys_life_by_two_clients(
    start_api: StartApi, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send_and_drain([good_event(1)])
    keys = {name: new_key() for name in ("ada", "bo", "reader")}
    client = start_api(
        CREDIT_RISK_API_KEYS=",".join(f"{name}:{digest}" for name, (_, digest) in keys.items()),
        CREDIT_RISK_ROLES="submit: ada; approve: ada bo",
    )

    def post(who: str, path: str, body: dict[str, Any]) -> Any:
        return client.post(path, json=body, headers={HEADER: keys[who][0]})

    assert problem(post("bo", "/policies", SECOND)) == (
        *(403, "client bo may not submit: CREDIT_RISK_ROLES does not name it"),
    )
    submitted = post("ada", "/policies", SECOND)
    assert (submitted.status_code, submitted.headers["location"]) == (201, "/policies/2")
    assert submitted.json() == {"policy_id": 2, "action": "submit", "who": "ada"}
    path = "/policies/second"
    assert problem(post("bo", f"{path}/activation", WHY)) == (
        *(409, "policy 2 is not approved: somebody other than its author has to"),
    )
    own = "ada submitted policy 2 and cannot approve it: somebody else has to"
    assert problem(post("ada", f"{path}/approval", WHY)) == (409, own)
    assert problem(post("reader", f"{path}/approval", WHY))[0] == 403
    assert post("bo", f"{path}/approval", WHY).json()["who"] == "bo"
    over = post("bo", f"{path}/activation", WHY | {"at": "2020-01-01T00:00:00Z"})
    assert problem(over)[0] == 409
    assert post("bo", f"{path}/activation", WHY).status_code == 200
    pipeline.send_and_drain([good_event(2)])
    newest = "SELECT policy_id FROM scored_applications ORDER BY scored_at DESC LIMIT 1"
    assert pipeline.query(newest) == [{"policy_id": 2}]

    headers = {HEADER: keys["reader"][0]}
    listed = client.get("/policies", headers=headers).json()
    assert [(life["policy_id"], life["state"]) for life in listed] == [
        (2, "active"),
        (1, "retired"),
    ]
    assert "document" not in listed[0]
    shown = client.get("/policies/2", headers=headers).json()
    assert "second" in shown["document"]
    assert [(a["action"], a["who"]) for a in shown["approvals"]] == [
        *(("submit", "ada"), ("approve", "bo"), ("activate", "bo")),
    ]
    assert shown["approvals"][0]["evidence"] == {"flagged": 0.04}
    assert client.get("/policies").status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/policies", '{"document": "name: x", "why": "y"}', 422, "document is not valid"),
        ("/policies", '{"document": "a: [", "why": "y"}', 422, "document"),
        ("/policies", "{", 400, "Invalid JSON"),
        ("/policies", '{"document": "x"}', 422, "why: Field required"),
        ("/policies", '{"document": "x", "why": " \\u0000"}', 422, "why: String should match"),
        ("/policies/9/approval", '{"why": "y"}', 404, "there is no policy '9'"),
        ("/policies/9/activation", '{"why": "y", "at": "soon"}', 422, "at: Input should be a"),
    ],
)
def test_what_is_no_policy(
    client: TestClient, path: str, body: str, status: int, detail: str
) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    found, said = problem(answer)
    assert (found, detail in said) == (status, True), said


def test_evidence_that_cannot_be_stored(client: TestClient, pipeline: Pipeline) -> None:
    answer = client.post("/policies", json=SECOND | {"evidence": {"a": "\x00"}})
    assert problem(answer)[0] == 422
    assert not pipeline.query("SELECT FROM approvals")
