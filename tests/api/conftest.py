"""The API in this process, on the test's own topic, warehouse and bucket."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient

from credit_risk_dagster.api.app import create_app

StartApi = Callable[..., TestClient]


@pytest.fixture
def start_api(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[StartApi]:
    """Starts the API with more variables, if some are given; returns a client on loopback."""
    with ExitStack() as stack:

        def start(address: str = "127.0.0.1", **variables: Any) -> TestClient:
            for name, value in (environment | variables).items():
                monkeypatch.setenv(name, str(value))
            client = TestClient(create_app(), base_url="http://127.0.0.1", client=(address, 50_000))
            return stack.enter_context(client)

        yield start


@pytest.fixture
def client(start_api: StartApi) -> TestClient:
    """A client on loopback of the API, which has no keys."""
    return start_api()
