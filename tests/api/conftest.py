"""The API in this process, on the test's own topic, warehouse and bucket."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from credit_risk_dagster.api.app import create_app
from tests.integration.conftest import pipeline

__all__ = ["pipeline"]


@pytest.fixture
def client(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client on loopback of the API, which has no keys."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with TestClient(
        create_app(), client=("127.0.0.1", 50_000), raise_server_exceptions=False
    ) as client:
        yield client
