"""The platform's metrics for Prometheus.

Counters and histograms come from the ledger in Postgres: they outlive runs, and are the same from
every replica of the API. A scrape asks the warehouse, the broker and Dagster's storage. Of one that
is late or away it tells the last answer, with its age: an alert must not lose what it looks at just
when something is wrong. `credit_risk_<name>_up` is 0 when it failed again and again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from credit_risk_dagster.api.metrics.families import gauge
from credit_risk_dagster.api.metrics.ledger import ledger_metrics
from credit_risk_dagster.api.metrics.orchestration import dagster_metrics
from credit_risk_dagster.api.metrics.reports import report_metrics
from credit_risk_dagster.api.metrics.stream import TopicWatch, stream_metrics
from credit_risk_dagster.api.question import Question, Told
from credit_risk_dagster.domain.limits import load_limits
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import Settings, WarehouseSettings
from resources.dagster_storage import DagsterState, DagsterStorage
from resources.postgres.connection import Warehouse, only_read
from resources.postgres.metrics import MetricsLedger, Snapshot
from resources.postgres.session_settings import open_session

TIMEOUT_SECONDS = 2.0
# A server that needs longer than that is slow; one that needs longer than this has failed. Its late
# answer is for the next scrape, as they come every 15 s.
PATIENCE_SECONDS = 10.0
# Several Prometheus servers, and impatient people, ask at the same time.
FRESH_SECONDS = 1.0
# Dagster's runs and ticks move every few seconds at most.
DAGSTER_FRESH_SECONDS = 5.0


class PlatformCollector(Collector):
    """Collects at a scrape. Safe to use from any number of threads.

    Args:
        settings: where the servers are.
        timeout: most seconds that a scrape waits for one of them.

    Raises:
        LimitsUnreadable: the file of limits is none.
    """

    def __init__(self, settings: Settings, timeout: float | None = None) -> None:
        timeout = timeout or TIMEOUT_SECONDS
        self._limits = load_limits(settings.drain.limits_file)
        patient = {"timeout_ms": round(PATIENCE_SECONDS * 1000)}
        self._topic = TopicWatch(settings.kafka.model_copy(update=patient))
        self._warehouse = Question(
            "the warehouse",
            lambda: _warehouse(settings.warehouse, settings.kafka.topic),
            timeout=timeout,
            fresh_for=FRESH_SECONDS,
        )
        self._broker = Question(
            "the broker", self._topic.connect, timeout=timeout, fresh_for=FRESH_SECONDS
        )
        self._dagster = Question(
            "Dagster's storage", _dagster, timeout=timeout, fresh_for=DAGSTER_FRESH_SECONDS
        )

    def close(self) -> None:
        """Close the connections."""
        for question in (self._warehouse, self._broker, self._dagster):
            question.close()

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not ask the servers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, from what the servers say now, or said last."""
        started = time.perf_counter()
        dagster = self._dagster.ask_for_the_last()
        warehouse = self._warehouse.ask_for_the_last()()
        snapshot = warehouse.answer
        if snapshot:
            yield from ledger_metrics(snapshot)
            yield from report_metrics(snapshot, self._limits)
            self._topic.learn(snapshot)
        broker = self._broker.ask_for_the_last()()
        yield from stream_metrics(snapshot, broker)
        orchestration = dagster()
        if orchestration.answer:
            yield from dagster_metrics(orchestration.answer)
        told: dict[str, Told[Any]] = {
            "warehouse": warehouse,
            "broker": broker,
            "dagster": orchestration,
        }
        yield from _servers(told)
        yield gauge(
            "scrape_duration_seconds",
            "Seconds that this scrape took to ask all servers",
            [({}, time.perf_counter() - started)],
        )


def _servers(told: Mapping[str, Told[Any]]) -> Iterator[Metric]:
    for name, answer in told.items():
        yield gauge(
            f"{name}_up", f"Whether the {name} answers, be it slowly", [({}, float(answer.up))]
        )
    yield gauge(
        "answer_age_seconds",
        "Seconds since a server gave the answer from which these metrics are",
        [
            ({"server": name}, max(time.time() - answer.at, 0.0))
            for name, answer in told.items()
            if answer.answer is not None
        ],
    )


@contextmanager
def _warehouse(settings: WarehouseSettings, topic: str) -> Iterator[Callable[[], Snapshot]]:
    with Warehouse(settings).session("metrics") as connection:
        only_read(connection, PATIENCE_SECONDS)
        yield MetricsLedger(connection, topic).read


@contextmanager
def _dagster() -> Iterator[Callable[[], DagsterState]]:
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        url = getattr(instance.run_storage, "postgres_url", None)
    if url is None:
        raise PlatformError(
            "Dagster does not keep its runs in Postgres: see infra/dagster.yaml and DAGSTER_HOME"
        )
    with open_session(url, "metrics") as connection:
        only_read(connection, PATIENCE_SECONDS)
        yield DagsterStorage(connection).read
