"""Health, readiness and metrics."""

from fastapi.testclient import TestClient


def test_it_is_alive(client: TestClient) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_every_dependency_answers(client: TestClient) -> None:
    answer = client.get("/ready")
    found = answer.json()
    assert (answer.status_code, found["status"]) == (200, "ready"), found
    assert {
        name: (state["state"], state["required"]) for name, state in found["dependencies"].items()
    } == {
        "broker": ("up", True),
        "warehouse": ("up", True),
        "lake": ("up", False),
        "dagster_storage": ("up", False),
    }
    assert all(state["latency_ms"] > 0 for state in found["dependencies"].values())


def test_metrics_are_prometheus_text(client: TestClient) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "python_info{" in answer.text
