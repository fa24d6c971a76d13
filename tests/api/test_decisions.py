"""Submitting, scoring, and reading what was decided."""

import json
import time
from pathlib import Path
from typing import Any, LiteralString

import msgspec
from fastapi.testclient import TestClient
from kafka.partitioner.default import murmur2

from credit_risk_dagster.api.bodies import EXAMPLE
from credit_risk_dagster.domain.pd import Coefficients, NumberTerm
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import answers
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.settings import DEFAULT_POLICY, DrainSettings
from resources.postgres.applications import _HISTORY, _WATCHLIST, NEWEST
from resources.postgres.models import ModelStore, NewModel
from tests.pipelines.approvals import approved, started, stored_policy
from tests.platform.pipeline import Pipeline, good_event, send_at

SAMPLE = Path(__file__).parents[1] / "data" / "lendingclub_raw_sample.jsonl"
JSON = {"Content-Type": "application/json"}


def problem(answer: Any) -> tuple[int, str]:
    """Status and detail of a problem, which it must be."""
    found = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "request_id"} <= set(found)
    assert (found["status"], found["request_id"]) == (
        answer.status_code,
        answer.headers["x-request-id"],
    )
    return answer.status_code, found["detail"]


# --- POST /score --------------------------------------------------------------------------------


def test_scores_as_the_command_line_does(client: TestClient) -> None:
    lines = SAMPLE.read_bytes().splitlines()
    expected = answers(lines, load_policy(DEFAULT_POLICY))
    listed = client.post("/score", content=b"[" + b",".join(lines) + b"]", headers=JSON)
    assert listed.status_code == 200
    assert listed.json() == json.loads(json.dumps(expected))
    one = client.post("/score", content=lines[0], headers=JSON)
    assert one.json() == listed.json()[0]


def test_what_cannot_be_scored_is_answered_with_the_reason(client: TestClient) -> None:
    found = client.post("/score", json=[{"id": 7}, 7, EXAMPLE]).json()
    assert [(a["loan_id"], a["outcome"], a["reject_reason"]) for a in found] == [
        ("7", "rejected", "missing_required:loan_amnt"),
        (None, "rejected", "not_an_object"),
        ("127000001", "scored", None),
    ]
    assert client.post("/score", json=[]).json() == []


def test_scoring_stores_nothing(client: TestClient, pipeline: Pipeline) -> None:
    client.post("/score", json=EXAMPLE)
    assert {end for _, end in pipeline.broker.inspect().offsets.values()} == {0}
    assert pipeline.query("SELECT count(*) AS n FROM sources") == [{"n": 0}]


NO_APPLICATION = {
    b"": 400,
    b"{": 400,
    b'{"id": NaN}': 400,
    b'{"x": ' + b"[" * 10_000: 400,
    b'{"id": "\xff"': 400,
    b'"text"': 422,
    b"7": 422,
    b"null": 422,
}


def test_what_is_no_application_is_a_problem(client: TestClient) -> None:
    for path in ("/score", "/applications"):
        found = {
            body: problem(client.post(path, content=body, headers=JSON))[0]
            for body in NO_APPLICATION
        }
        assert found == NO_APPLICATION


def test_the_active_model_adds_its_pd(client: TestClient, pipeline: Pipeline) -> None:
    with pipeline.warehouse.session() as connection:
        store = ModelStore(connection)
        model_id = approved(connection, "model", store.add_model(A_MODEL))
        store.activate(model_id, "a test")
        model = store.scorer()
    body = json.dumps(EXAMPLE).encode()
    (expected,) = answers([body], load_policy(DEFAULT_POLICY), model)
    answer = client.post("/score", content=body, headers=JSON).json()
    assert answer == json.loads(json.dumps(expected))
    assert 0 < answer["pd"] < 1
    client.post("/applications", content=body, headers=JSON)
    pipeline.drain()
    (decided,) = client.get("/applications/127000001").json()["decisions"]
    assert {name: decided[name] for name in ("pd", "pd_reasons", "model")} == {
        name: answer[name] for name in ("pd", "pd_reasons", "model")
    }


def test_a_split_deals_loans_here_as_on_the_stream(client: TestClient, pipeline: Pipeline) -> None:
    pipeline.send_and_drain([json.dumps(EXAMPLE | {"id": "1"}).encode()])
    with pipeline.warehouse.session() as connection:
        second = approved(connection, "policy", stored_policy(connection, "second"))
        started(connection, policy_id=second, share=50)
    several = [EXAMPLE | {"id": str(number)} for number in range(2, 12)]
    answered = client.post("/score", json=several).json()
    pipeline.send_and_drain([json.dumps(one).encode() for one in several])
    for answer in answered:
        (decided,) = client.get(f"/applications/{answer['loan_id']}").json()["decisions"]
        assert (decided["arm"], decided["policy"]) == (answer["arm"], answer["policy"])
    assert {answer["arm"] for answer in answered} == {"second/champion", "second/challenger"}
    assert {answer["policy"].split("@")[0] for answer in answered} == {"second", "lendingclub-v2"}


A_MODEL = NewModel(
    kind="logistic",
    version="logistic@000000000000",
    run_id="a-run",
    outcome="default@000000000000",
    purpose="benchmark",
    features=["int_rate"],
    sample="test",
    sample_hash="0",
    seed=0,
    rows=2,
    bads=1,
    code_version="0",
    metrics={},
    artifact=b"",
    coefficients=Coefficients(-3.0, [NumberTerm("int_rate", 0.1, 12.0, 0.0, 0.0)]),
)


# --- POST /applications -------------------------------------------------------------------------


def test_a_submitted_application_is_in_the_topic_under_its_id(
    client: TestClient, pipeline: Pipeline
) -> None:
    event = {**EXAMPLE, "id": 5.0, "emp_title": "nurse", "event_time": "2026-01-02T03:04:05Z"}
    body = json.dumps(event, indent=1).encode()
    places = []
    for _ in range(2):
        answer = client.post("/applications", content=body, headers=JSON)
        assert (answer.status_code, answer.headers["location"]) == (202, "/applications/5")
        places.append(answer.json())
    partition = (murmur2(b"5") & 0x7FFFFFFF) % 4
    assert places == [
        {"loan_id": "5", "topic": pipeline.kafka.topic, "partition": partition, "offset": offset}
        for offset in (0, 1)
    ]
    ((key, value), _) = records(pipeline)
    assert (key, value) == (b"5", body)  # byte by byte


def test_the_time_is_added_when_it_is_missing(client: TestClient, pipeline: Pipeline) -> None:
    client.post("/applications", content=b'{"x": 1.00, ' + good_event(9)[1:], headers=JSON)
    ((_, value),) = records(pipeline)
    assert value.startswith(b'{"x":1.00,"id":9,')  # numbers stay as they were written
    assert json.loads(value)["event_time"].startswith("20")
    pipeline.drain()
    (row,) = pipeline.query("SELECT event_time IS NOT NULL AS known FROM scored_applications")
    assert row["known"]


def test_what_cannot_be_scored_is_refused(client: TestClient, pipeline: Pipeline) -> None:
    without = {name: value for name, value in EXAMPLE.items() if name != "dti"}
    answer = client.post("/applications", json=without)
    assert problem(answer) == (422, "it cannot be scored: missing_required:dti")
    assert answer.json()["reject_reason"] == "missing_required:dti"
    answer = client.post("/applications", json={**EXAMPLE, "id": None})
    assert problem(answer) == (422, "it has no id")
    assert problem(client.post("/applications", json=[EXAMPLE]))[0] == 422
    assert records(pipeline) == []


def records(pipeline: Pipeline) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of every record of the topic."""
    ends = {p: end for p, (_, end) in pipeline.broker.inspect().offsets.items()}
    found: list[tuple[bytes | None, bytes | None]] = []
    with pipeline.broker.reader(DrainSettings()) as reader:
        reader.seek(dict.fromkeys(ends, 0))
        while len(found) < sum(ends.values()):
            fetch = reader.fetch()
            found += zip(fetch.keys, fetch.values, strict=True)
    return found


# --- reading ------------------------------------------------------------------------------------


def test_a_submitted_application_gets_a_history(client: TestClient, pipeline: Pipeline) -> None:
    assert problem(client.get("/applications/127000001"))[0] == 404
    place = client.post("/applications", json=EXAMPLE).json()
    report = pipeline.drain("the-run")
    (found,) = client.get("/applications/127000001").json()["decisions"]
    (expected,) = answers([json.dumps(EXAMPLE).encode()], load_policy(DEFAULT_POLICY))
    assert {name: found[name] for name in expected} == json.loads(json.dumps(expected))
    assert {name: found[name] for name in ("topic", "partition", "offset")} == {
        name: place[name] for name in ("topic", "partition", "offset")
    }
    (batch,) = pipeline.query("SELECT batch_id, run_id FROM batches")
    assert (found["batch_id"], found["run_id"]) == (batch["batch_id"], "the-run")
    assert (found["cluster_id"], found["epoch"]) == (report.source.cluster_id, 0)
    assert found["redriven_at"] is None
    assert found["event_time"] <= found["recorded_at"] < found["decided_at"]


def test_a_history_has_records_of_impossible_times(client: TestClient, pipeline: Pipeline) -> None:
    """Also those that were stored as they came: in the year 56,000."""
    send_at(pipeline.kafka, [(good_event(7), time.time_ns() // 1000)])
    pipeline.drain()
    (found,) = client.get("/applications/7").json()["decisions"]
    assert found["recorded_at"] == "1970-01-01T00:00:00Z"
    pipeline.send([b"junk"])  # under the key "key"
    pipeline.drain()
    for table in ("scored_applications", "rejected_events"):
        pipeline.query(f"UPDATE {table} SET recorded_at = '56000-01-01Z' RETURNING 1")
    for loan_id in ("7", "key"):
        (found,) = client.get(f"/applications/{loan_id}").json()["decisions"]
        assert found["recorded_at"] == "9999-12-31T00:00:00Z"


def test_a_history_has_rejected_and_redriven_events(client: TestClient, pipeline: Pipeline) -> None:
    bad = good_event(3).replace(b"60000", b'"n/a"')
    pipeline.send([good_event(3), bad], partition=0)  # under the key "key"
    pipeline.drain("first")
    (rejected,) = client.get("/applications/key").json()["decisions"]
    assert (rejected["outcome"], rejected["reject_reason"], rejected["run_id"]) == (
        "rejected",
        "missing_required:annual_inc",
        "first",
    )
    assert (rejected["policy"], rejected["features"]) == (
        load_policy(DEFAULT_POLICY).version,
        {},
    )
    # As a fix of the cleaning would: the event can be scored now.
    with pipeline.warehouse.session() as connection:
        connection.execute("UPDATE rejected_events SET value = %s", (good_event(3),))
    redrive(pipeline.warehouse, load_policy(DEFAULT_POLICY), run_id="second")
    newest, oldest = client.get("/applications/3").json()["decisions"]
    assert (newest["run_id"], newest["offset"]) == ("second", 1)
    assert newest["redriven_at"] is not None
    assert (oldest["run_id"], oldest["offset"], oldest["redriven_at"]) == ("first", 0, None)
    assert problem(client.get("/applications/key"))[0] == 404


def test_the_watchlist_has_pages(client: TestClient, pipeline: Pipeline) -> None:
    assert client.get("/watchlist").json() == {"applications": [], "next": None}
    harmless = json.dumps({**EXAMPLE, "dti": 5, "revol_util": 5}).encode()
    for first in (0, 10):
        for partition in range(2):
            pipeline.send([good_event(first + n) for n in range(5)] + [harmless], partition)
        pipeline.drain()
    expected = [
        (row["partition"], row["offset"])
        for row in pipeline.query(
            'SELECT partition, "offset" FROM scored_applications WHERE early_warning'
            ' ORDER BY scored_at DESC, partition DESC, "offset" DESC'
        )
    ]
    assert len(expected) == 20
    found, cursor, pages = [], None, 0
    while cursor or not pages:
        page = client.get(
            "/watchlist", params={"limit": 3} | ({"cursor": cursor} if cursor else {})
        )
        found += [(a["partition"], a["offset"]) for a in page.json()["applications"]]
        cursor, pages = page.json()["next"], pages + 1
    assert (found, pages) == (expected, 7)


def test_a_history_has_pages(client: TestClient, pipeline: Pipeline) -> None:
    pipeline.send([good_event(1)] * 3 + [b"{"] * 2)
    pipeline.drain()
    for loan, offsets in (("1", [2, 1, 0]), ("key", [4, 3])):
        pages = all_pages(client, f"/applications/{loan}", "decisions", limit=1)
        assert [[decision["offset"] for decision in page] for page in pages] == [
            [offset] for offset in offsets
        ]


def all_pages(client: TestClient, url: str, rows: str, limit: int) -> list[list[dict[str, Any]]]:
    """The rows of every page."""
    parameters: dict[str, Any] = {"limit": limit}
    pages = []
    while True:
        page = client.get(url, params=parameters).json()
        pages.append(page[rows])
        if page["next"] is None:
            return pages
        parameters["cursor"] = page["next"]


def test_a_wrong_question_is_a_problem(client: TestClient) -> None:
    for url in (
        "/watchlist?limit=0",
        "/watchlist?limit=501",
        "/watchlist?limit=many",
        "/watchlist?cursor=",
        "/watchlist?cursor=abc",
        "/watchlist?cursor=eyJkZWNpZGVkX2F0IjoxfQ",
        "/applications/%00",
        f"/applications/{'9' * 65}",
    ):
        assert problem(client.get(url))[0] == 422, url


def test_an_id_may_have_blanks_and_points(client: TestClient, pipeline: Pipeline) -> None:
    odd = "a.b_c-d e..f"
    answer = client.post("/applications", json={**EXAMPLE, "id": odd})
    pipeline.drain()
    (found,) = client.get(answer.headers["location"]).json()["decisions"]
    assert found["loan_id"] == odd


def test_reading_uses_indexes_only(client: TestClient, pipeline: Pipeline) -> None:
    """With many rows, none of the tables that grow is read from end to end."""
    pipeline.send([*(good_event(n) for n in range(20_000)), *([b"{"] * 2_000)])
    pipeline.drain(idle_seconds=1)
    questions: list[tuple[Any, dict[str, Any]]] = [
        (_HISTORY, {"loan_id": "777", "key": b"777"}),
        (_WATCHLIST, {}),
    ]
    with pipeline.warehouse.session() as connection:
        connection.execute(AS_OVER_A_DAY)
        connection.execute("ANALYZE")
        for query, parameters in questions:
            parameters |= {"limit": 51, **msgspec.structs.asdict(NEWEST)}
            explained = connection.execute(f"EXPLAIN (ANALYZE, FORMAT json) {query}", parameters)
            ((plan,),) = explained.fetchall()
            read_whole = {
                node["Relation Name"]
                for node in nodes(plan[0]["Plan"])
                if node["Node Type"] == "Seq Scan" and node["Actual Rows"] > 0
            }
            assert read_whole <= {"sources", "policies"}, json.dumps(plan, indent=1)


# Every tenth application is on the watchlist, and they came one after another in many batches.
AS_OVER_A_DAY: LiteralString = """
UPDATE scored_applications SET scored_at = scored_at - "offset" * interval '1 ms',
    risk_tier = CASE WHEN "offset" % 10 = 0 THEN 'Watchlist' ELSE 'Low' END;
CREATE TEMP TABLE one AS SELECT * FROM batches LIMIT 1;
INSERT INTO batches SELECT (jsonb_populate_record(one, jsonb_build_object('batch_id', n))).*
FROM one, generate_series(1000, 6000) AS n
"""


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan's nodes."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]
