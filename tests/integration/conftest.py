"""What the integration tests share: events on a topic, and a drain over it."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from kafka import KafkaProducer

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.drain import Bound, DrainReport, drain
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    DrainSettings,
    KafkaSettings,
    WarehouseSettings,
)
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.reconciliation import reconcile
from resources.postgres.sources import Sources

GOOD = (
    b'{"id": %d, "loan_amnt": 10000, "annual_inc": 60000, "dti": 35.5, "int_rate": "13.56%%",'
    b' "revol_util": "81.2%%", "delinq_2yrs": 1, "inq_last_6mths": 0, "issue_d": "Mar-2018",'
    b' "earliest_cr_line": "Sep-94", "term": " 36 months", "purpose": "car"}'
)


def good_event(loan_id: int) -> bytes:
    """A Watchlist application."""
    return GOOD % loan_id


def send(settings: KafkaSettings, values: Sequence[bytes | None], partition: int = 0) -> None:
    """Append values to a partition, and wait until the broker has them."""
    producer = KafkaProducer(**settings.client_options(), linger_ms=5)
    try:
        for value in values:
            producer.send(settings.topic, value=value, key=b"key", partition=partition)
        producer.flush()
    finally:
        producer.close()


@dataclass
class Pipeline:
    """A topic and a warehouse, with a drain between them."""

    kafka: KafkaSettings
    warehouse: Warehouse
    broker: Broker

    def send(self, values: Sequence[bytes | None], partition: int = 0) -> None:
        send(self.kafka, values, partition)

    def drain(
        self,
        run_id: str | None = None,
        *,
        bounds: Sequence[Bound] = (),
        lane: int = 0,
        interrupts: tuple[type[BaseException], ...] = (),
        **limits: Any,
    ) -> DrainReport:
        """Drain until the topic is quiet for a moment."""
        settings = DrainSettings(**{"idle_seconds": 0.3, "poll_interval_ms": 50, **limits})
        return drain(
            self.broker,
            self.warehouse,
            load_policy(DEFAULT_POLICY),
            settings,
            run_id=run_id or uuid.uuid4().hex,
            lane=lane,
            bounds=bounds,
            interrupts=interrupts,
            log=logging.getLogger("test"),
        )

    def query(self, query: Any, **parameters: Any) -> list[dict[str, Any]]:
        with self.warehouse.session() as connection:
            return fetch_all(connection, query, parameters)

    def stored(self) -> dict[str, list[tuple[int, int]]]:
        """(partition, offset) of every scored and every rejected row, with duplicates if any."""
        return {
            table: sorted(
                (row["partition"], row["offset"])
                for row in self.query(f'SELECT partition, "offset" FROM {table}')
            )
            for table in ("scored_applications", "rejected_events")
        }

    def unreconciled(self) -> int:
        """Offsets that are not stored exactly once, over all sources."""
        with self.warehouse.session() as connection:
            sources = Sources(connection).all()
            rows = [row for s in sources for row in reconcile(connection, s.source_id)]
        return sum(abs(row["difference"]) for row in rows)


@pytest.fixture
def pipeline(kafka_settings: KafkaSettings, warehouse_settings: WarehouseSettings) -> Pipeline:
    """An empty topic of four partitions and an empty warehouse."""
    return Pipeline(kafka_settings, Warehouse(warehouse_settings), Broker(kafka_settings))
