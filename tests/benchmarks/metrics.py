"""What a scrape of /metrics costs: of a database without history, and of one with a long one."""

import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, LiteralString

import numpy as np
import psycopg

from credit_risk_dagster.api.metrics.collector import FRESH_SECONDS
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.producer import produce
from infra.embedded.servers import HOST, Server, free_port
from infra.embedded.stack import Stack
from resources.kafka.topics import ensure_topic
from resources.postgres.connection import Warehouse
from resources.postgres.migrate import migrate
from tests.benchmarks.lab import OpenLab, kafka_settings, open_broker, warehouse_settings
from tests.benchmarks.report import Bar, Section, table
from tests.platform.waiting import wait_until

TOPIC = "loans"  # the one that the rows are of
AT_ONCE = 20


@dataclass(frozen=True)
class Size:
    """How much history: scored applications, and Dagster's runs; and how many scrapes."""

    applications: int
    runs: int
    scrapes: int


FULL = Size(10_000_000, 500_000, 60)  # a year of runs
QUICK = Size(1_000_000, 50_000, 20)
SMALLEST = Size(1_000, 100, 2)


def measure(_: OpenLab, size: Size, say: Callable[[str], object]) -> Section:
    """Scrape before and after history is filled in; alone, and many at once."""
    from tests.benchmarks.dashboard import fill

    with (
        TemporaryDirectory(prefix="credit-risk-bench-") as folder,
        Stack(Path(folder)) as stack,
        open_broker(Path(folder), stack.broker) as broker,
    ):
        kafka = kafka_settings(broker, TOPIC)
        variables = stack.environment() | {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "KAFKA_TOPIC": TOPIC,
        }
        warehouse = warehouse_settings(variables["DATABASE_URL"])
        migrate(warehouse)
        ensure_topic(kafka)
        produce(kafka, builtin_loans(), max_events=1_000)  # something to lag behind
        with _api(variables, stack.logs) as url:
            # The first scrapes open connections, and create Dagster's tables.
            wait_until(lambda: _complete(_text(url)), 60, "every server answers", every=0.5)
            say("scrapes without history")
            short = _scrapes(url, size.scrapes)
            say(f"filling {size.applications:,} applications, {size.runs:,} runs")
            with Warehouse(warehouse).connect("benchmark") as connection:
                fill(connection, warehouse, size.applications)
            with psycopg.connect(variables["DAGSTER_POSTGRES_URL"], autocommit=True) as connection:
                connection.execute(_RUNS, {"runs": size.runs})
                connection.execute("ANALYZE")
            say("scrapes with it")
            long = _scrapes(url, size.scrapes)
            together = _at_once(url)
    results: dict[str, Any] = {
        "applications": size.applications,
        "runs": size.runs,
        "without_history_ms": _summary(short),
        "with_history_ms": _summary(long),
        f"{AT_ONCE}_at_once_ms": _summary(together),
    }
    grid = table("A scrape of /metrics, ms", "p50", "p95", "worst")
    for name, found in (
        ("without history", short),
        (f"{size.applications:,} applications", long),
        (f"the same, {AT_ONCE} at once", together),
    ):
        grid.add_row(name, *(f"{value:,.1f}" for value in _summary(found).values()))
    bar = Bar("scrape, p95 with history", _summary(long)["p95"], 50, "ms", at_most=True)
    return Section("metrics", results, grid, [bar])


def _scrapes(url: str, count: int) -> list[float]:
    """Milliseconds of scrapes, none of which gets an answer that another one had."""
    found = []
    for _ in range(count):
        time.sleep(FRESH_SECONDS * 1.05)
        found.append(_scrape(url))
    return found


def _at_once(url: str) -> list[float]:
    time.sleep(FRESH_SECONDS * 1.05)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda _: _scrape(url), range(AT_ONCE)))


def _scrape(url: str) -> float:
    started = time.perf_counter()
    text = _text(url)
    milliseconds = 1000 * (time.perf_counter() - started)
    assert _complete(text)
    return milliseconds


def _text(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        content: bytes = answer.read()
    return content.decode()


def _complete(text: str) -> bool:
    servers = ("warehouse", "broker", "dagster")
    return all(f"credit_risk_{name}_up 1.0" in text for name in servers)


def _summary(milliseconds: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(milliseconds, [50, 95])
    found = {"p50": p50, "p95": p95, "worst": max(milliseconds)}
    return {name: round(float(value), 1) for name, value in found.items()}


@contextmanager
def _api(variables: dict[str, str], logs: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "credit_risk_dagster.cli.main", "api", "--port", str(port)]
    with Server(
        *("The API", command, port),
        ready_path="/health",
        environment=variables,
        log=logs / "api.log",
    ):
        yield f"http://{HOST}:{port}"


# One a minute, the newest just now.
_RUNS: LiteralString = """
INSERT INTO runs (run_id, pipeline_name, status, run_body, create_timestamp, update_timestamp)
SELECT gen_random_uuid()::text, 'score_applications',
    CASE WHEN g %% 100 = 0 THEN 'FAILURE' ELSE 'SUCCESS' END, repeat('x', 1000), at, at
FROM generate_series(1, %(runs)s) g,
    LATERAL (SELECT now() AT TIME ZONE 'UTC' - g * interval '1 minute' AS at) AS _
"""
