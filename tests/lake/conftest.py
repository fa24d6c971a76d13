"""What the lake's tests share: a pipeline whose events are archived."""

import io
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest

from credit_risk_dagster.pipelines.archive import ArchiveReport, archive
from credit_risk_dagster.pipelines.archive_check import Account, check_archive
from credit_risk_dagster.settings import (
    ArchiveSettings,
    KafkaSettings,
    LakeSettings,
    WarehouseSettings,
)
from resources.kafka.broker import Broker
from resources.lake import Lake
from resources.postgres.archive import ArchivedObject, ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.sources import Source, Sources
from tests.integration.conftest import Pipeline


@dataclass
class LakePipeline(Pipeline):
    """A topic, a warehouse and a bucket."""

    lake: Lake

    def archive(self, **limits: Any) -> ArchiveReport:
        return archive(
            self.broker,
            self.warehouse,
            self.lake,
            ArchiveSettings(**limits),
            run_id=uuid.uuid4().hex,
            log=logging.getLogger("test"),
        )

    def objects(self) -> list[ArchivedObject]:
        with self.warehouse.session() as connection:
            return ArchiveLedger(connection).objects()

    def source(self) -> Source:
        with self.warehouse.session() as connection:
            source = Sources(connection).find(self.broker.inspect())
        assert source
        return source

    def account(self) -> Account:
        return check_archive(self.warehouse, self.lake, self.source())

    def rows(self) -> list[dict[str, Any]]:
        """Everything that is on S3, whatever Postgres says of it."""
        found = []
        for key in sorted(self.lake.sizes("raw_events/")):
            content = io.BytesIO()
            self.lake.get(key, content)
            found += pq.read_table(content).to_pylist()
        return found

    def offsets(self) -> list[tuple[int, int]]:
        return sorted((row["partition"], row["offset"]) for row in self.rows())

    def send_and_drain(self, values: Sequence[bytes | None], partition: int = 0) -> None:
        self.send(values, partition)
        self.drain()


@pytest.fixture
def pipeline(
    kafka_settings: KafkaSettings,
    warehouse_settings: WarehouseSettings,
    lake_settings: LakeSettings,
) -> LakePipeline:
    """An empty topic of four partitions, an empty warehouse and an empty bucket."""
    return LakePipeline(
        kafka_settings,
        Warehouse(warehouse_settings),
        Broker(kafka_settings),
        Lake(lake_settings),
    )
