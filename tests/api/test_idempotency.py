"""Submissions that are sent again under the same key."""

import gzip
import json
import threading
from typing import Any

import pytest

from credit_risk_dagster.api.bodies import EXAMPLE
from resources.kafka.errors import BrokerUnavailable
from tests.api.conftest import StartApi
from tests.api.test_decisions import problem
from tests.platform.pipeline import Pipeline

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


def test_the_same_key_and_body_get_the_same_answer(start_api: StartApi, pipeline: Pipeline) -> None:
    client = start_api()
    quoted = {"Idempotency-Key": f'"{KEY["Idempotency-Key"]}"'}
    first, again = (client.post("/applications", json=EXAMPLE, headers=h) for h in (KEY, quoted))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    other = client.post("/applications", json={**EXAMPLE, "dti": 1}, headers=KEY)
    assert problem(other)[0] == 422
    assert "another body" in problem(other)[1]
    unkeyed = client.post("/applications", json=EXAMPLE)
    assert unkeyed.json() != first.json()
    for wrong in ("", " ", '"', "a b", "x" * 256):
        assert (
            client.post(
                "/applications", json=EXAMPLE, headers={"Idempotency-Key": wrong}
            ).status_code
            == 400
        ), wrong
    # What cannot be scored uses no key.
    refused = client.post("/applications", json={"id": 1}, headers={"Idempotency-Key": "n"})
    assert refused.status_code == 422
    assert (
        client.post("/applications", json=EXAMPLE, headers={"Idempotency-Key": "n"}).status_code
        == 202
    )
    report = pipeline.drain()
    assert (report.scored, report.rejected) == (3, 0)


def test_a_request_under_way_is_a_409(start_api: StartApi, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start_api()
    publisher = client.app.state.publisher  # type: ignore[attr-defined]
    publish, begun, go = publisher.publish, threading.Event(), threading.Event()

    async def slow(*event: Any) -> Any:
        import asyncio

        begun.set()
        await asyncio.get_running_loop().run_in_executor(None, go.wait, 20)
        return await publish(*event)

    monkeypatch.setattr(publisher, "publish", slow)
    answers = []
    first = threading.Thread(
        target=lambda: answers.append(client.post("/applications", json=EXAMPLE, headers=KEY))
    )
    first.start()
    assert begun.wait(20)
    assert problem(client.post("/applications", json=EXAMPLE, headers=KEY))[0] == 409
    go.set()
    first.join()
    assert answers[0].status_code == 202
    assert client.post("/applications", json=EXAMPLE, headers=KEY).json() == answers[0].json()


def test_a_hundred_retries_give_one_decision(
    start_api: StartApi, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has each event, and says so to nobody in time."""
    client = start_api(CREDIT_RISK_API_RATE_LIMIT="1000000/second")
    publisher = client.app.state.publisher  # type: ignore[attr-defined]
    publish = publisher.publish

    async def unconfirmed(*event: Any) -> Any:
        await publish(*event)
        raise BrokerUnavailable("127.0.0.1:9092", TimeoutError())

    with monkeypatch.context() as patch:
        patch.setattr(publisher, "publish", unconfirmed)
        for _ in range(100):
            assert client.post("/applications", json=EXAMPLE, headers=KEY).status_code == 503
    last = client.post("/applications", json=EXAMPLE, headers=KEY)
    assert last.status_code == 202
    report = pipeline.drain()
    assert (report.scored, report.reasons) == (1, {"duplicate_submission": 100})
    assert pipeline.unreconciled() == 0


def test_without_the_warehouse_the_key_goes_with_the_event(
    start_api: StartApi, pipeline: Pipeline
) -> None:
    client = start_api(DATABASE_URL="postgresql://127.0.0.1:1/none")
    answers = [client.post("/applications", json=EXAMPLE, headers=KEY) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    assert pipeline.drain().reasons == {"duplicate_submission": 2}


def test_bodies_are_plain_or_by_gzip(start_api: StartApi) -> None:
    client = start_api(CREDIT_RISK_API_MAX_BODY_BYTES=2_000)

    def post(path: str, encoding: str, body: bytes) -> Any:
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        return client.post(path, content=body, headers=headers)

    body = json.dumps(EXAMPLE).encode()
    outcome = b'{"loan_id": 1, "observed_at": "2019-01-01", "days_past_due": 1}'
    packed = gzip.compress(body)
    plain = client.post("/score", json=EXAMPLE)
    assert post("/score", "gzip", packed).json() == plain.json()
    assert post("/score", "identity", body).json() == plain.json()
    assert post("/applications", "GZIP", packed).status_code == 202
    assert post("/outcomes", "gzip", gzip.compress(outcome)).status_code == 200
    for path in ("/score", "/applications", "/outcomes"):
        for encoding in ("br", "deflate", "zstd", "gzip, gzip", "compress"):
            refused = post(path, encoding, body)
            assert problem(refused)[0] == 415
            assert refused.headers["accept-encoding"] == "gzip, identity"
        # Each header is one more layer.
        twice = [("Content-Type", "application/json"), *[("Content-Encoding", "gzip")] * 2]
        assert problem(client.post(path, content=gzip.compress(packed), headers=twice))[0] == 415
        for damaged in (b"", body, packed[:-9], packed + b"junk"):
            assert problem(post(path, "gzip", damaged))[0] == 400, damaged
        assert problem(post(path, "gzip", gzip.compress(b" " * 10_000_000)))[0] == 413
        assert problem(post(path, "gzip", gzip.compress(body) + gzip.compress(b"")))[0] == 400
