"""The queue of cases over HTTP."""

from typing import Any

from credit_risk_dagster.api.guards import HEADER, new_key
from tests.api.conftest import StartApi
from tests.api.test_decisions import problem
from tests.platform.pipeline import Pipeline, good_event


def test_two_reviewers_at_one_case(start_api: StartApi, pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(1), good_event(1), good_event(2)])
    keys = {name: new_key() for name in ("ada", "bo", "desk")}
    client = start_api(
        CREDIT_RISK_API_KEYS=",".join(f"{name}:{digest}" for name, (_, digest) in keys.items()),
        CREDIT_RISK_ROLES="review: ada bo",
    )

    def ask(who: str, path: str, **body: Any) -> Any:
        headers = {HEADER: keys[who][0]}
        return (
            client.post(path, json=body, headers=headers)
            if body
            else client.get(path, headers=headers)
        )

    said = (403, "client desk may not review: CREDIT_RISK_ROLES does not name it")
    assert problem(ask("desk", "/cases")) == said
    assert problem(ask("desk", "/cases/1/start", version=1)) == said
    first = ask("ada", "/cases?limit=1").json()
    second = ask("ada", f"/cases?limit=1&after={first['next']}").json()
    assert (len(first["cases"]), second["next"]) == (1, None)
    assert {first["cases"][0]["loan_id"], second["cases"][0]["loan_id"]} == {"1", "2"}
    (mine,) = (c for c in (*first["cases"], *second["cases"]) if c["loan_id"] == "1")
    path = f"/cases/{mine['case_id']}"

    assert ask("ada", f"{path}/assign", version=1, assignee="ada").json()["version"] == 2
    seen = ask("bo", path).json()
    assert (seen["assignee"], seen["version"], len(seen["of_loan"])) == ("ada", 2, 2)
    found = {"disposition": "false_positive", "reason_code": "data_error", "note": "<i>typo</i>"}
    assert ask("ada", f"{path}/close", version=2, **found).status_code == 200
    status, detail = problem(ask("bo", f"{path}/close", version=2, **found))
    assert status == 409
    assert f"case {mine['case_id']} was changed by ada at " in detail
    assert "is closed now" in detail
    whole = ask("bo", path).json()
    assert (whole["disposition"], whole["closed_by"]) == ("false_positive", "ada")
    assert [event["action"] for event in whole["history"]] == ["assign", "close"]
    assert ask("bo", f"{path}/reopen", version=3, note="again").json()["version"] == 4

    assert problem(ask("ada", "/cases/99"))[0] == 404
    assert problem(ask("ada", "/cases/99/start", version=1))[0] == 404
    wrong = ask("ada", f"{path}/close", version=4, disposition="right", reason_code="other")
    assert problem(wrong)[0] == 422
    assert problem(ask("ada", f"{path}/note", version=4))[0] == 422
    assert ask("ada", "/cases?state=open&assignee=&overdue=false").json()["cases"] != []
    assert ask("ada", "/cases?state=closed").json()["cases"] == []
