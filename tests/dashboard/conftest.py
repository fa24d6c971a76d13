"""A warehouse that the dashboard reads, filled as the pipeline fills it."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from dashboard.parts import lag
from resources.kafka.reader import Fetch, OffsetRange
from resources.kafka.watch import TopicState
from resources.postgres.connection import Warehouse
from resources.postgres.micro_batch import Ledger, StageSeconds
from resources.postgres.policies import register_policy
from resources.postgres.sources import Sources

LATENCY_SECONDS = 0.19

LOW = {
    "loan_amnt": 10_000,
    "annual_inc": 60_000,
    "dti": 12.5,
    "int_rate": "7.5%",
    "revol_util": "20%",
    "delinq_2yrs": 0,
    "inq_last_6mths": 0,
    "earliest_cr_line": "Aug-2003",
    "issue_d": "Jan-2018",
    "term": " 36 months",
    "purpose": "credit_card",
    "grade": "A",
    "addr_state": "CA",
}
ELEVATED = LOW | {"revol_util": "70%"}
WATCHLIST = LOW | {"dti": 35, "revol_util": None, "delinq_2yrs": 1, "purpose": "small_business"}
REJECTED: dict[str, Any] = {}

Commit = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_search_for_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server looks once through all installed packages for components; AppTest at each run."""
    monkeypatch.setattr(manifest_scanner, "scan_component_manifests", list)


def point_at(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the dashboard of this process read a database, as after a restart with other settings."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")  # no broker
    monkeypatch.setattr(lag, "TIMEOUT_MS", 100)
    st.cache_data.clear()
    st.cache_resource.clear()


def open_view(name: str, **query: str) -> AppTest:
    """A page as it first appears, at an address with a query; without the navigation around it."""

    def script(name: str) -> None:
        from importlib import import_module

        import_module(f"dashboard.views.{name}").page()

    page = AppTest.from_function(script, args=(name,), default_timeout=60)
    for parameter, value in query.items():
        page.query_params[parameter] = value
    return page.run()


def figures(page: AppTest) -> dict[str, str]:
    """The value of each key figure, by its label without the coloured square."""
    return {metric.label.rpartition(")")[2].strip(): metric.value for metric in page.metric}


def words(page: AppTest) -> str:
    """What the page says, besides figures and tables."""
    elements = (*page.markdown, *page.caption, *page.info, *page.warning, *page.error)
    return "\n".join(element.value for element in elements)


@pytest.fixture
def warehouse(
    warehouse_settings: WarehouseSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection[Any]]:
    """The migrated and empty database that the dashboard reads."""
    point_at(warehouse_settings.database_url.get_secret_value(), monkeypatch)
    with Warehouse(warehouse_settings).connect() as connection:
        yield connection


@pytest.fixture
def commit(warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings) -> Commit:
    """Scores and commits applications, in one batch, as a drain does."""
    policy = load_policy(DEFAULT_POLICY)
    topic = TopicState("cluster", "loan_applications", None, {0: (0, 0)})

    def run(*applications: dict[str, Any]) -> None:
        with Warehouse(warehouse_settings).session() as connection:
            ledger = Ledger(connection, case_within=timedelta(hours=72))
            source = Sources(connection).register(topic)
            start = ledger.start_partitions(source.source_id, {0: 0})[0]
            count = len(applications)
            offsets = np.arange(start, start + count)
            values: list[bytes | None] = [
                json.dumps({"id": 1_000 + int(offset), **application}).encode()
                for offset, application in zip(offsets, applications, strict=True)
            ]
            recorded = int((time.time() - LATENCY_SECONDS) * 1000)
            ledger.commit(
                source.source_id,
                register_policy(connection, policy),
                "run",
                0,
                Fetch(
                    ranges=[OffsetRange(0, start, start + count)],
                    partitions=np.zeros(count, np.int32),
                    offsets=offsets,
                    timestamps=np.full(count, recorded),
                    keys=[None] * count,
                    values=values,
                ),
                assess(decode(values), policy),
                StageSeconds(0, 0, 0, None),
            )
        st.cache_data.clear()

    return run


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not exist."""
    point_at("postgresql://user:secret@127.0.0.1:1/credit_risk", monkeypatch)
