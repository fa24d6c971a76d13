"""Keys, the rate limit, sizes, request ids, and what an error of ours looks like."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from credit_risk_dagster.api.bodies import EXAMPLE
from credit_risk_dagster.api.guards import HEADER, client_of, hash_key, new_key
from credit_risk_dagster.base_settings import SettingInvalid
from credit_risk_dagster.settings import ApiSettings
from tests.api.conftest import StartApi
from tests.api.test_decisions import JSON, problem

OPEN = ("/health", "/ready", "/metrics", "/docs", "/openapi.json")
CLOSED = (
    ("GET", "/watchlist"),
    ("GET", "/applications/1"),
    ("POST", "/applications"),
    ("POST", "/score"),
)


def with_key(key: str) -> dict[str, str]:
    return {HEADER: key}


# --- keys ---------------------------------------------------------------------------------------


def test_everything_that_shows_or_takes_applications_needs_a_key(start_api: StartApi) -> None:
    key, digest = new_key()
    client = start_api("192.0.2.7", CREDIT_RISK_API_KEYS=f"old:{'0' * 64},app:{digest}")
    for path in OPEN:
        assert client.get(path).status_code == 200
    for method, path in CLOSED:
        answer = client.request(method, path, json=EXAMPLE)
        assert problem(answer) == (401, f"send your key in the header {HEADER}")
        assert "www-authenticate" in answer.headers
        answer = client.request(method, path, json=EXAMPLE, headers=with_key(key + "x"))
        assert problem(answer)[0] == 401
        assert key not in answer.text
        answer = client.request(method, path, json=EXAMPLE, headers=with_key(key))
        assert answer.status_code in (200, 202, 404)


def test_metrics_and_readiness_can_have_a_port_of_their_own(start_api: StartApi) -> None:
    client = start_api(CREDIT_RISK_API_OPERATIONS_PORT=9_100)
    for path in ("/metrics", "/ready"):
        answer = client.get(path)
        assert problem(answer) == (
            404,
            "it is served on the port CREDIT_RISK_API_OPERATIONS_PORT alone",
        )
        assert client.get(f"http://127.0.0.1:9100{path}").status_code == 200
    assert client.get("/health").status_code == 200


def test_who_may_not_see_applicants_is_shown_none(start_api: StartApi) -> None:
    keys = {name: new_key() for name in ("desk", "sender")}
    client = start_api(
        CREDIT_RISK_API_KEYS=",".join(f"{name}:{digest}" for name, (_, digest) in keys.items()),
        CREDIT_RISK_ROLES="see: desk",
    )
    for path, found in (("/applications/1", 404), ("/watchlist", 200)):
        assert client.get(path, headers=with_key(keys["desk"][0])).status_code == found
        assert problem(client.get(path, headers=with_key(keys["sender"][0]))) == (
            403,
            "client sender may not see applicants: CREDIT_RISK_ROLES does not name it",
        )
    answer = client.post("/score", json=EXAMPLE, headers=with_key(keys["sender"][0]))
    assert answer.status_code == 200


def test_a_key_is_compared_with_every_client() -> None:
    keys = [new_key() for _ in range(3)]
    hashes = {f"client-{n}": bytes.fromhex(digest) for n, (_, digest) in enumerate(keys)}
    for number, (key, digest) in enumerate(keys):
        assert len(key) > 40
        assert hash_key(key).hex() == digest
        assert client_of(key, hashes) == f"client-{number}"
    assert client_of("", hashes) is None
    assert client_of(keys[0][1], hashes) is None  # a hash is no key


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.7", "127.0.0.1"),  # another machine
        ("127.0.0.1", "evil.example"),  # a page that renamed itself (DNS rebinding)
    ],
)
def test_without_keys_only_loopback_is_answered(
    address: str, host: str, start_api: StartApi
) -> None:
    client = start_api(address)
    for method, path in CLOSED:
        answer = client.request(method, path, json=EXAMPLE, headers={"Host": host})
        assert problem(answer)[0] == 403
    answer = start_api().get("/watchlist", headers={"Host": "localhost:8000"})
    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "credit-risk.example"])
def test_beyond_loopback_it_does_not_start_without_keys(host: str) -> None:
    with pytest.raises(SettingInvalid, match="it needs CREDIT_RISK_API_KEYS"):
        ApiSettings(host=host)
    assert ApiSettings(host=host, keys=f"app:{new_key()[1]}").host == host
    for loopback in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        ApiSettings(host=loopback)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("app", "entry 1 is not client:hash"),
        (f"a:{'0' * 64},app:{new_key()[0]}", "entry 2 is not client:hash"),
        (f"app:{'0' * 64},app:{'1' * 64}", "a client has two keys"),
    ],
    ids=["no hash", "a key for its hash", "two keys"],
)
def test_wrong_keys_are_refused_and_not_repeated(keys: str, why: str) -> None:
    with pytest.raises(SettingInvalid, match=why) as refused:
        ApiSettings(keys=keys)
    assert keys not in str(refused.value)


def test_a_page_of_another_origin_cannot_send_an_application(client: TestClient) -> None:
    """What a browser sends without asking has one of these types, or none."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        for path in ("/applications", "/score"):
            answer = client.post(path, content=json.dumps(EXAMPLE), headers={"Content-Type": kind})
            assert problem(answer) == (415, "send application/json")
    asked = client.options("/applications", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in asked.headers


# --- limits -------------------------------------------------------------------------------------


def test_a_client_may_ask_so_often(start_api: StartApi) -> None:
    keys = {name: new_key() for name in ("busy", "calm")}
    client = start_api(
        CREDIT_RISK_API_KEYS=",".join(f"{name}:{digest}" for name, (_, digest) in keys.items()),
        CREDIT_RISK_API_RATE_LIMIT="3/hour",
    )
    busy, calm = (with_key(keys[name][0]) for name in ("busy", "calm"))
    assert [client.get("/watchlist", headers=busy).status_code for _ in range(4)] == [
        *(200, 200, 200),
        429,
    ]
    answer = client.get("/watchlist", headers=busy)
    assert problem(answer)[0] == 429
    assert 0 < int(answer.headers["retry-after"]) <= 7200
    assert client.get("/watchlist", headers=calm).status_code == 200
    # Guessing keys is limited, too, by the address.
    guesses = [client.get("/watchlist", headers=with_key(f"crk_{n}")) for n in range(4)]
    assert [answer.status_code for answer in guesses] == [401, 401, 401, 429]
    assert client.get("/health").status_code == 200


def test_a_request_has_a_size(start_api: StartApi) -> None:
    client = start_api(CREDIT_RISK_API_MAX_BODY_BYTES=100_000, CREDIT_RISK_API_MAX_EVENTS=3)
    assert client.post("/score", json=[EXAMPLE] * 3).status_code == 200
    answer = client.post("/score", json=[EXAMPLE] * 4)
    assert problem(answer) == (413, "4 applications; one request has at most 3")
    padded = {**EXAMPLE, "desc": "x" * 70_000}
    assert client.post("/score", json=padded).status_code == 200
    assert problem(client.post("/applications", json=padded))[0] == 413
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += 50_000
            yield b" " * 50_000

    for content in (b" " * 100_001, endless()):
        answer = client.post("/score", content=content, headers=JSON)
        assert problem(answer) == (413, "a request has at most 100,000 bytes")


# --- ids and errors -----------------------------------------------------------------------------


def test_a_request_keeps_its_id(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.get("/applications/1", headers={"X-Request-ID": "from-the-caller.1"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "from-the-caller.1"
    for odd in ("", "two words", "x" * 65):
        given = client.get("/health", headers={"X-Request-ID": odd}).headers["x-request-id"]
        assert len(given) == 32


def test_an_error_of_ours_is_a_problem_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the detail")

    application: Any = client.app
    monkeypatch.setattr(application.state.applications, "watchlist", broken)
    answer = client.get("/watchlist")
    assert problem(answer) == (500, "an error of ours: the log has it by the request id")
    assert "the detail" in caplog.text
    assert "the detail" not in answer.text


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    assert problem(client.get("/nothing"))[0] == 404
    answer = client.put("/watchlist")
    assert problem(answer)[0] == 405
    assert answer.headers["allow"] == "GET"
