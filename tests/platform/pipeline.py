"""A topic, tables and a bucket, and what a run does between them, in this process."""

import io
import json
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
from kafka import KafkaProducer

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.archive import ArchiveReport, archive
from credit_risk_dagster.pipelines.archive_check import Account, check_archive
from credit_risk_dagster.pipelines.bounds import Bound
from credit_risk_dagster.pipelines.drain import DrainReport, drain
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    ArchiveSettings,
    DrainSettings,
    KafkaSettings,
)
from resources.kafka.broker import Broker
from resources.lake import Lake
from resources.postgres.archive import ArchivedRange
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.reconciliation import reconcile
from resources.postgres.sources import Source, Sources

GOOD = (
    b'{"id": %d, "loan_amnt": 10000, "annual_inc": 60000, "dti": 35.5, "int_rate": "13.56%%",'
    b' "revol_util": "81.2%%", "delinq_2yrs": 1, "inq_last_6mths": 0, "issue_d": "Mar-2018",'
    b' "earliest_cr_line": "Sep-94", "term": " 36 months", "purpose": "car"}'
)


LOG = logging.getLogger("test")


def good_event(loan_id: int) -> bytes:
    """A Watchlist application."""
    return GOOD % loan_id


def send(
    settings: KafkaSettings,
    values: Sequence[bytes | None],
    partition: int = 0,
    key: bytes = b"key",
    at: datetime | None = None,
    **options: Any,
) -> None:
    """Append values to a partition, of this time or now, and wait until the broker has them."""
    at_ms = round(at.timestamp() * 1000) if at else None
    producer = KafkaProducer(**settings.client_options(), **{"linger_ms": 5, **options})
    try:
        for value in values:
            producer.send(settings.topic, value, key, partition=partition, timestamp_ms=at_ms)
        producer.flush()
    finally:
        producer.close()


def send_at(settings: KafkaSettings, events: Sequence[tuple[bytes, int | None]]) -> None:
    """Append events with these timestamps to partition 0."""
    producer = KafkaProducer(**settings.client_options())
    try:
        for value, at in events:
            producer.send(settings.topic, value=value, partition=0, timestamp_ms=at).get(10)
    finally:
        producer.close()


def _no_lake() -> Lake:
    raise LookupError("this pipeline has no bucket")


@dataclass(frozen=True)
class ArchivedObject(ArchivedRange):
    """A range that is archived; `lost` of its events were gone from the broker by then."""

    source_id: int
    lost: int


@dataclass
class Pipeline:
    """A topic, a warehouse and a bucket.

    Args:
        open_lake: makes the bucket, when something first asks for it.
    """

    kafka: KafkaSettings
    warehouse: Warehouse
    open_lake: Callable[[], Lake] = _no_lake

    @cached_property
    def broker(self) -> Broker:
        return Broker(self.kafka)

    @cached_property
    def lake(self) -> Lake:
        return self.open_lake()

    def send(self, values: Sequence[bytes | None], partition: int = 0, **options: Any) -> None:
        send(self.kafka, values, partition, **options)

    def drain(
        self,
        run_id: str | None = None,
        *,
        bounds: Sequence[Bound] = (),
        lane: int = 0,
        interrupts: tuple[type[BaseException], ...] = (),
        progress: Callable[[DrainReport], None] = lambda _: None,
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
            log=LOG,
            progress=progress,
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

    def somebody_waits(self) -> bool:
        """Whether a run, or a command, stands in line for a lane."""
        return bool(self.query("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

    def unreconciled(self) -> int:
        """Offsets that are not stored exactly once, over all sources."""
        with self.warehouse.session() as connection:
            sources = Sources(connection).all()
            rows = [row for s in sources for row in reconcile(connection, s.source_id)]
        return sum(abs(row["difference"]) for row in rows)

    # --- the lake ---------------------------------------------------------------------------------

    def archive(self, **limits: Any) -> ArchiveReport:
        return archive(
            self.broker,
            self.warehouse,
            self.lake,
            ArchiveSettings(**limits),
            run_id=uuid.uuid4().hex,
            log=LOG,
        )

    def objects(self) -> list[ArchivedObject]:
        """What the mirror of the raw events' files says."""
        names = ", ".join(field.name for field in fields(ArchivedObject))
        rows = self.query(
            f"SELECT {names} FROM archive_objects ORDER BY source_id, partition, first_offset"
        )
        return [ArchivedObject(**row) for row in rows]

    def source(self) -> Source:
        with self.warehouse.session() as connection:
            source = Sources(connection).find(self.broker.inspect())
        assert source
        return source

    def account(self) -> Account:
        return check_archive(self.warehouse, self.lake, self.source())

    def rows(self, table: str = "raw_events") -> list[dict[str, Any]]:
        """Everything that a table's log says it has, whatever Postgres says of it."""
        found = []
        for key in self.files(table):
            content = io.BytesIO()
            self.lake.get(key, content)
            found += pq.read_table(content).to_pylist()
        return found

    def files(self, table: str = "raw_events") -> list[str]:
        """Keys of a table's files, by its log as it is written, without the library."""
        root = f"{table}/{self.kafka.topic}"
        there: set[str] = set()
        for key in sorted(self.lake.sizes(f"{root}/_delta_log/")):
            if not key.endswith(".json"):
                continue
            content = io.BytesIO()
            self.lake.get(key, content)
            for action in map(json.loads, content.getvalue().splitlines()):
                if "add" in action:
                    there.add(f"{root}/{unquote(action['add']['path'])}")
                if "remove" in action:
                    there.discard(f"{root}/{unquote(action['remove']['path'])}")
        return sorted(there)

    def offsets(self, table: str = "raw_events") -> list[tuple[int, int]]:
        return sorted((row["partition"], row["offset"]) for row in self.rows(table))

    def send_and_drain(self, values: Sequence[bytes | None], partition: int = 0) -> DrainReport:
        self.send(values, partition)
        return self.drain()
