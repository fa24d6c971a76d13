"""Every panel of the dashboards has data while the platform runs: its query, as the committed file
has it, asked of a real Prometheus that scrapes the real API, or of the real Postgres.
"""

import json
import re
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import replace

import psutil
import pytest
import yaml
from pydantic import SecretStr

from credit_risk_dagster.settings import PROJECT_ROOT, WarehouseSettings
from infra.embedded.servers import HOST
from infra.grafana.files import DASHBOARDS, generated
from resources.postgres.connection import Warehouse
from tests.live.panels import Query, Sources, queries
from tests.live.prometheus import start_prometheus
from tests.platform.running import Platform
from tests.platform.tools import program
from tests.platform.waiting import wait_until

QUERIES = list(queries())
METRIC = re.compile(r"\b(?:credit_risk_[a-z_]+|credit_risk:[a-z0-9_:]+)\b")
SCRAPES = 10


def test_the_files_are_what_the_code_generates() -> None:
    committed = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert committed == generated(), "run `make grafana`"


def test_every_panel_says_what_it_shows() -> None:
    for query in QUERIES:
        panel = query.panel
        assert panel["description"].endswith("."), query.name
        assert panel["datasource"]["uid"] in ("${prometheus}", "${warehouse}"), query.name
        if query.kind == "prometheus":
            assert panel["fieldConfig"]["defaults"]["unit"], query.name
            assert "$__interval" not in query.text, query.name
    places = [(query.dashboard, *query.panel["gridPos"].values()) for query in QUERIES]
    titles = {query.name for query in QUERIES}
    assert len(set(places)) == len(titles)


@pytest.fixture
def sources(live: Platform) -> Sources:
    """Where panels ask, when there are enough scrapes for a rate."""
    server = start_prometheus(program("prometheus", "prometheus"), live)
    address = f"http://{HOST}:{server.port}"

    def scrapes() -> float:
        found = json.loads(ask(address, "query?query=sum_over_time(up[10m])"))["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    wait_until(lambda: scrapes() >= SCRAPES, 120, f"Prometheus has {SCRAPES} scrapes", every=0.5)
    # As Grafana does: by the role that only reads.
    reader = WarehouseSettings(DATABASE_URL=SecretStr(live.environment["DASHBOARD_DATABASE_URL"]))
    started = psutil.Process(server.pid).create_time()
    return Sources(address, Warehouse(reader), "credit_risk", started, time.time(), "15s")


def ask(prometheus: str, path: str) -> bytes:
    with urllib.request.urlopen(f"{prometheus}/api/v1/{path}", timeout=30) as answer:
        content: bytes = answer.read()
        return content


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.name} {query.legend}")
def test_no_panel_is_empty(query: Query, sources: Sources) -> None:
    def shown() -> Sequence[object]:
        now = replace(sources, end=time.time())
        return now.series(query) if query.kind == "prometheus" else now.rows(query)

    wait_until(shown, 30, f"{query.name} shows something", every=0.5)


def test_rules_are_evaluated_and_nothing_critical_fires(sources: Sources) -> None:
    groups = json.loads(ask(sources.prometheus, "rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    critical = [
        rule["name"]
        for rule in rules
        if rule["type"] == "alerting"
        and rule["labels"]["severity"] == "critical"
        and rule["state"] == "firing"
    ]
    # The objective of latency is for a machine that does nothing else.
    assert [name for name in critical if "Latency" not in name] == []


def test_rules_read_metrics_that_exist(sources: Sources) -> None:
    """Every metric that a rule names is one that the API exposes."""
    names = set(json.loads(ask(sources.prometheus, "label/__name__/values"))["data"])
    folder = PROJECT_ROOT / "infra" / "prometheus"
    for file in ("recording.yml", "alerts.yml"):
        for group in yaml.safe_load((folder / file).read_text())["groups"]:
            for rule in group["rules"]:
                read = set(METRIC.findall(rule["expr"]))
                assert read <= names, f"{rule}: {read - names}"
