"""Dagster in this process, on the test's own topic, tables and bucket."""

from collections.abc import Iterator

import dagster as dg
import pytest


@pytest.fixture
def instance(servers: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance without history; a drain waits for half a second in vain."""
    monkeypatch.setenv("CREDIT_RISK_IDLE_SECONDS", "0.5")
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
