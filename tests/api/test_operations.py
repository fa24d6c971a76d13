"""Health, readiness, metrics and the documentation."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from credit_risk_dagster.settings import WarehouseSettings
from infra.embedded.servers import HOST, Postgres, free_port
from resources.postgres.applications import Applications
from resources.postgres.connection import WarehouseReader, WarehouseUnavailable
from resources.postgres.migrate import migrate
from tests.api.conftest import StartApi
from tests.api.test_decisions import problem
from tests.platform.waiting import wait_until


def wait_for(client: TestClient, **expected: str) -> Any:
    """The answer of /ready once the dependencies are in these states. On a machine that is busy,
    the first answer of Dagster's storage, which is made then, comes too late for the first."""

    def answer_as_expected() -> Any:
        answer = client.get("/ready")
        found = answer.json()["dependencies"]
        return answer if {name: found[name]["state"] for name in found} == expected else None

    return wait_until(answer_as_expected, 90, f"the states are {expected}", every=0.5)


def test_it_is_alive(client: TestClient) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_every_dependency_answers(client: TestClient) -> None:
    answer = wait_for(client, broker="up", warehouse="up", lake="up", dagster_storage="up")
    found = answer.json()
    assert (answer.status_code, found["status"]) == (200, "ready")
    assert found["capabilities"] == {"score": True, "submit": True, "read": True}
    assert {name: state["needed_for"] for name, state in found["dependencies"].items()} == {
        "broker": ["submit"],
        "warehouse": ["read"],
        "lake": [],
        "dagster_storage": [],
    }
    assert all(state["latency_ms"] > 0 for state in found["dependencies"].values())


def test_without_the_lake_and_dagster_it_works(start_api: StartApi) -> None:
    client = start_api(AWS_ENDPOINT_URL_S3=f"http://{HOST}:{free_port()}", DAGSTER_HOME="")
    answer = wait_for(
        client, broker="up", warehouse="up", lake="down", dagster_storage="not configured"
    )
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["dependencies"]["lake"]["error"] == "LakeUnavailable"


def test_without_broker_and_warehouse_it_is_alive_and_scores(
    start_api: StartApi, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    client = start_api(
        KAFKA_BOOTSTRAP_SERVERS=f"{HOST}:{port}",
        KAFKA_TIMEOUT_MS=500,
        DATABASE_URL=f"postgresql://user:hush@{HOST}:{port}/credit_risk",
    )
    answer = wait_for(client, broker="down", warehouse="down", lake="up", dagster_storage="up")
    # So a proxy or Kubernetes leaves it where it is.
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["capabilities"] == {"score": True, "submit": False, "read": False}
    asked = {name: client.get(f"/ready?for={name}") for name in ("score", "submit", "read")}
    assert {name: (a.status_code, a.json()["status"]) for name, a in asked.items()} == {
        "score": (200, "degraded"),
        "submit": (503, "unavailable"),
        "read": (503, "unavailable"),
    }
    assert client.get("/health").status_code == 200
    assert client.post("/score", json={"id": 1}).status_code == 200
    answer = client.get("/watchlist")
    assert problem(answer) == (503, "WarehouseUnavailable: try again later; the log says more")
    assert answer.headers["retry-after"]
    for text in (answer.text, caplog.text):
        assert "hush" not in text
    assert f"Postgres at {HOST}:{port}/credit_risk does not answer" in caplog.text


def test_without_the_broker_it_reads(start_api: StartApi) -> None:
    client = start_api(KAFKA_BOOTSTRAP_SERVERS=f"{HOST}:{free_port()}", KAFKA_TIMEOUT_MS=500)
    wait_for(client, broker="down", warehouse="up", lake="up", dagster_storage="up")
    assert client.get("/ready?for=read").status_code == 200
    assert client.get("/watchlist").status_code == 200
    assert client.get("/ready?for=submit").status_code == 503


@pytest.mark.usefixtures("own_servers")
def test_reading_goes_on_after_postgres_was_away() -> None:
    with TemporaryDirectory(prefix="credit-risk-") as folder, Postgres(Path(folder)) as server:
        server.create_database("platform")
        settings = WarehouseSettings(DATABASE_URL=SecretStr(server.uri("platform")))
        migrate(settings)
        with WarehouseReader(settings, 2, 1.0) as reader:
            applications = Applications(reader)

            def reads() -> bool:
                try:
                    return applications.watchlist(limit=1) == ([], None)
                except WarehouseUnavailable:
                    return False

            wait_until(reads, 30, "it reads")
            server.restart()  # and so its connections are dead
            wait_until(reads, 30, "it reads over new connections")
            server.stop("immediate")
            with pytest.raises(WarehouseUnavailable, match="does not answer"):
                applications.watchlist(limit=1)
            server.start()
            wait_until(reads, 30, "it reads again")


def test_metrics_are_prometheus_text(client: TestClient) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "python_info{" in answer.text


def test_the_documentation_needs_no_internet(client: TestClient) -> None:
    page = client.get("/docs").text
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(addresses) >= 2
    for address in addresses:
        assert address.startswith("/"), address
        assert client.get(address).status_code == 200


def test_the_address_alone_leads_to_the_documentation(client: TestClient) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.url.path) == (200, "/docs")


def test_the_documentation_has_examples_and_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "Problem" in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            assert operation["description"], path
            if method == "post":
                (content,) = operation["requestBody"]["content"].values()
                assert content["examples"]
            if "decisions" in operation["tags"]:
                assert operation["security"]
                assert {"401", "429"} <= set(operation["responses"])
