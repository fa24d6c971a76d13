"""The archive: every committed event, as the broker gave it, in the lake's table of raw events.

Progress is the table's: what it has of a partition was committed together with how far that goes.
The run asks it, reads what is committed beyond that back from the broker, uploads files, and
commits them with the new progress. What Postgres knows of the files is a mirror for who reads
Postgres alone: it is compared with the table at each run, and the table is right.
"""

import gc
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from kafka.errors import OffsetOutOfRangeError

from credit_risk_dagster.domain.columns import where
from credit_risk_dagster.domain.lake_rows import RAW_EVENTS, SourceKey, raw_rows
from credit_risk_dagster.domain.raw_events import COLUMNS, Cutter, Limits, file_name
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.archive_decisions import DecisionsReport, archive_decisions
from credit_risk_dagster.pipelines.archive_migration import adopt_objects
from credit_risk_dagster.pipelines.archive_mirror import range_of, ranges_of
from credit_risk_dagster.pipelines.archive_source import recognized
from credit_risk_dagster.pipelines.interpreter import memory_of_the_system, tuned_interpreter
from credit_risk_dagster.pipelines.lake_forget import finish_forgettings
from credit_risk_dagster.pipelines.lake_history import tables
from credit_risk_dagster.settings import ArchiveSettings, DrainSettings
from resources.kafka.broker import Broker
from resources.kafka.reader import Fetch, OffsetRange, Reader
from resources.lake import Lake
from resources.lake_tables import DataFile, LakeMoved, LakeTable, application
from resources.parquet_files import COMPRESSION_LEVEL, StagedFile
from resources.postgres.archive import ArchivedRange, ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.forgetting import Forgettings
from resources.postgres.sources import Source, Sources

_READ = DrainSettings.model_construct(
    max_batch_events=10_000, max_batch_bytes=2**20, poll_interval_ms=20
)
# Everything that is read here is already on the broker; silence for so long is a failure.
_PATIENCE_SECONDS = 30.0
_FILES_A_COMMIT = 16
_TRIES = 5


class EventsUnreadable(PlatformError):
    """The broker has the events and does not deliver them."""


@dataclass
class ArchiveReport:
    """What a run archived.

    Attributes:
        source: None before anything of the topic was committed.
        objects: what was stored.
        lost: offset ranges with committed events that the broker no longer had, and how many.
        busy: another run archives.
        decisions: what was added to their table.
        value_bytes: bytes of the values in the objects.
        seconds: for the raw events.
    """

    source: Source | None = None
    objects: list[ArchivedRange] = field(default_factory=list)
    lost: list[tuple[OffsetRange, int]] = field(default_factory=list)
    busy: bool = False
    decisions: DecisionsReport = field(default_factory=DecisionsReport)
    value_bytes: int = 0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        return sum(stored.rows for stored in self.objects)

    @property
    def bytes(self) -> int:
        return sum(stored.bytes or 0 for stored in self.objects)


@dataclass(frozen=True)
class _Draft:
    """A file that is about to be stored; without rows there is none."""

    range: OffsetRange
    staged: StagedFile | None
    value_bytes: int = 0


@tuned_interpreter()
@memory_of_the_system()
def archive(
    broker: Broker,
    warehouse: Warehouse,
    lake: Lake,
    settings: ArchiveSettings,
    *,
    run_id: str,
    log: logging.Logger,
) -> ArchiveReport:
    """Archive what is committed at the start of the run, partition by partition.

    Args:
        broker, warehouse, lake: where from, what is committed, where to.
        settings: bounds of an object.
        run_id: names the database connection.
        log: progress.

    Raises:
        BrokerUnavailable, TopicMissing, TopicReplaced, WarehouseUnavailable, NotMigrated,
        LakeUnavailable, LakeRefused, LakeAhead: as their names say. What was committed stays.
        EventsUnreadable: the broker delivers nothing of a range that it says to have.
    """
    report = ArchiveReport()
    started = time.monotonic()
    topic = broker.inspect()
    with warehouse.session(f"archive {run_id}") as connection:
        report.source = Sources(connection).find(topic)
        if report.source is None:
            return report
        ledger = ArchiveLedger(connection)
        table = tables(lake, report.source.topic)["raw_events"]
        report.busy = not ledger.try_lock(table.uri)
        if report.busy:
            return report
        adopt_objects(table, report.source.topic, log)
        report.source, key = recognized(
            connection, table, report.source, topic, partial(_event_at, broker)
        )
        known = Sources(connection).all()
        failed: PlatformError | None = None
        try:
            with broker.reader(_READ, whole=True) as reader:
                run = _Run(
                    *(broker, reader, ledger, table, settings, report.source, key),
                    *(report, log, Forgettings(connection).offsets()),
                )
                run.run()
        except PlatformError as error:  # the decisions do without the broker
            failed = error
        report.seconds = time.monotonic() - started
        gc.collect()
        pa.default_memory_pool().release_unused()
        named = _named(lake, known, report.source, key)
        report.decisions = archive_decisions(warehouse, named, run_id=run_id, log=log)
        finish_forgettings(connection, lake, log=log)
        if failed:
            raise failed
    return report


def _named(
    lake: Lake, known: list[Source], current: Source, key: SourceKey
) -> list[tuple[LakeTable, SourceKey, int]]:
    """The decisions' table of each source, and what it calls it. Those of the sources before are
    in Postgres alone, whatever became of their topic."""
    return [
        (
            tables(lake, source.topic)["decisions"],
            key if source == current else source.key,
            source.source_id,
        )
        for source in known
    ]


@dataclass
class _Run:
    """A run that archives a source."""

    broker: Broker
    reader: Reader
    ledger: ArchiveLedger
    table: LakeTable
    settings: ArchiveSettings
    source: Source
    key: SourceKey
    report: ArchiveReport
    log: logging.Logger
    forgotten: Mapping[tuple[int, int], list[int]]
    added: list[tuple[DataFile, str]] = field(default_factory=list)
    covered: list[ArchivedRange] = field(default_factory=list)
    moved: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    progress: dict[int, int] = field(default_factory=dict)

    def run(self) -> None:
        for attempt in range(_TRIES):
            try:
                return self._archive()
            except LakeMoved as moved:
                self.log.warning("another run archived first (%s); going on from there", moved)
                self.added, self.covered, self.moved = [], [], {}
                if attempt == _TRIES - 1:
                    self.report.busy = True
        return None

    def _archive(self) -> None:
        snapshot = self.table.create()
        committed = self.ledger.committed(self.source.source_id)
        self.progress = snapshot.progress(self.key, [part.partition for part in committed])
        ranges = ranges_of(snapshot, self.table, self.key)
        self.ledger.mirror(self.source.source_id, ranges, self.progress)
        self._mirror_progress()
        for part in committed:
            known = self.progress.get(part.partition)
            first = part.first if known is None else known
            if first < part.next:  # it is beyond where Postgres was restored to an earlier time
                self._archive_partition(replace(part, first=first), known)
        self._commit()

    def _archive_partition(self, backlog: OffsetRange, known: int | None) -> None:
        limits = Limits(
            self.settings.max_object_events,
            self.settings.max_object_bytes,
            min(Limits.row_group_bytes, self.settings.max_object_bytes // 4),
        )
        while len(backlog):
            gone, backlog = self._lost(backlog)
            if len(gone):
                self._store(_Draft(gone, None), known)
                known = known if self.moved else gone.next
            position = backlog.first
            cutter = Cutter(limits, datetime.now(UTC).date())
            forgotten = self.forgotten.get((self.source.source_id, backlog.partition), [])
            for draft in _drafts(self.reader, backlog, limits, cutter, forgotten):
                self._store(draft, known)
                known = known if self.moved else draft.range.next
                position = draft.range.next
            backlog = replace(backlog, first=position)

    def _lost(self, backlog: OffsetRange) -> tuple[OffsetRange, OffsetRange]:
        """The part of a backlog that the broker no longer has, and the part that it has."""
        topic = self.broker.inspect({backlog.partition: backlog.next})
        beginning = topic.offsets[backlog.partition][0]
        middle = min(max(beginning, backlog.first), backlog.next)
        return replace(backlog, next=middle), replace(backlog, first=middle)

    def _store(self, draft: _Draft, known: int | None) -> None:
        """Upload a file, to be committed with others.

        Args:
            known: the partition's progress, as the table has it.
        """
        at = draft.range
        stored = ArchivedRange(at.partition, at.first, at.next, 0, None, None, None, None)
        if draft.staged is not None:
            name = file_name(self.key, at.partition, at.first, at.next)
            file, statistics = self.table.upload(draft.staged, self.key, name)
            self.added.append((file, statistics))
            self.report.value_bytes += draft.value_bytes
            stored = range_of(self.table, file)
        self.covered.append(stored)
        self.moved[application(self.key, at.partition)] = (known, at.next)
        if len(self.added) >= _FILES_A_COMMIT:
            self._commit()

    def _commit(self) -> None:
        if self.moved:
            self.table.commit(self.added, self.moved, said={"run": self.report_name})
            for stored in self.covered:
                self.progress[stored.partition] = stored.next_offset
                lost = self.ledger.confirm(self.source.source_id, stored)
                if stored.key:
                    self.report.objects.append(stored)
                    self.log.info("stored %s: %d events", stored.key, stored.rows)
                if lost:
                    self.report.lost.append((stored.range, lost))
                    self.log.warning(
                        "partition %d: %d committed events of offsets %d to %d are lost to it",
                        *(stored.partition, lost, stored.first_offset, stored.next_offset - 1),
                    )
            self._mirror_progress()
        self.added, self.covered, self.moved = [], [], {}

    def _mirror_progress(self) -> None:
        self.ledger.mirror_progress(self.source.source_id, "raw_events", self.progress)

    @property
    def report_name(self) -> str:
        return f"archive of {self.source.topic}"


def _drafts(
    reader: Reader, wanted: OffsetRange, limits: Limits, cutter: Cutter, forgotten: list[int]
) -> Iterator[_Draft]:
    """Cut a range into objects, one after the other; each must be used before the next one.

    Those without the forgotten offsets. They end early when the broker's retention overtakes the
    reading.
    """
    first = end = wanted.first
    with _Writers() as writers:
        for fetch in _read(reader, wanted):
            end = fetch.ranges[0].next
            batch = _rows(fetch)
            if forgotten:
                batch = where(batch, ~np.isin(batch["offset"], forgotten))
            for span in cutter.spans(batch):
                if span.opens:
                    start = batch["offset"][span.start].as_py()
                    if writers.current is not None:
                        yield writers.finish(OffsetRange(wanted.partition, first, start))
                        first = start
                    writers.open(span.opens)
                writer = writers.current
                assert writer is not None  # noqa: S101 (the first span always opens one)
                writer.add(batch.slice(span.start, span.stop - span.start), flush=span.flush)
                # What is buffered could stay as large as it is.
                if span.flush and writer.file.tell() + limits.row_group_bytes > limits.bytes:
                    cutter.close_object()
        if writers.current is not None:
            yield writers.finish(OffsetRange(wanted.partition, first, end))
        elif end > first:
            yield _Draft(OffsetRange(wanted.partition, first, end), None)


def _rows(fetch: Fetch) -> pa.RecordBatch:
    rest = fetch.rest
    if rest is None:  # of what is nothing but gaps
        return pa.RecordBatch.from_pylist([], RAW_EVENTS)
    return raw_rows(
        *(fetch.partitions, fetch.offsets, fetch.timestamps, fetch.keys, fetch.values),
        *(rest.written, rest.clocks, rest.headers),
    )


def _event_at(broker: Broker, partition: int, offset: int) -> dict[str, Any] | None:
    """A record as a row of the table; None where the broker has none there."""
    with broker.reader(_READ, whole=True) as reader:
        for fetch in _read(reader, OffsetRange(partition, offset, offset + 1)):
            for row in _rows(fetch).to_pylist():
                return dict(row)
    return None


def _read(reader: Reader, wanted: OffsetRange) -> Iterator[Fetch]:
    """The records of a range, in order, until its end or until retention overtakes it."""
    reader.seek({wanted.partition: wanted.first}, {wanted.partition: wanted.next})
    position, moved = wanted.first, time.monotonic()
    while position < wanted.next:
        try:
            fetch = reader.fetch()
        except OffsetOutOfRangeError:
            return
        if fetch.ranges:
            position, moved = fetch.ranges[0].next, time.monotonic()
            yield fetch
        elif time.monotonic() - moved > _PATIENCE_SECONDS:
            raise EventsUnreadable(
                f"the broker has offsets {position} to {wanted.next - 1} of partition "
                f"{wanted.partition} and delivered none of them within {_PATIENCE_SECONDS:.0f} s"
            )


class _Writer:
    """Parquet in a temporary file without a name, which a kill leaves nothing of."""

    def __init__(self, day: date) -> None:
        import pyarrow.parquet as pq

        self.file: Any = TemporaryFile(prefix="credit-risk-archive-")  # noqa: SIM115
        self.staged = StagedFile(day, self.file)
        self.value_bytes = 0
        self._group: list[pa.RecordBatch] = []
        self._parquet = pq.ParquetWriter(
            self.file,
            COLUMNS,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=["partition"],
            # Of bytes, the smallest and greatest tell nothing, and a footer full of them costs.
            write_statistics=["partition", "offset", "timestamp"],
        )

    def add(self, rows: pa.RecordBatch, *, flush: bool) -> None:
        self.staged.count(rows)
        self.value_bytes += pc.sum(pc.binary_length(rows["value"])).as_py() or 0
        self._group.append(rows)
        if flush:
            self._flush()
            gc.collect()  # little, as everything imported is frozen; the records' cycles go

    def finish(self) -> None:
        self._flush()
        self._parquet.close()
        gc.collect()

    def _flush(self) -> None:
        if self._group:
            # Whole, because Parquet's pages would otherwise follow how the events arrived.
            table = pa.Table.from_batches(self._group, COLUMNS).combine_chunks()
            self._parquet.write_table(table, row_group_size=len(table))
            self._group = []
            del table
            pa.default_memory_pool().release_unused()


class _Writers:
    """At most one open file at a time, closed however the reading ends."""

    def __init__(self) -> None:
        self.current: _Writer | None = None
        self._finished: Any = None

    def __enter__(self) -> "_Writers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._finished is not None:
            self._finished.close()
        if self.current is not None:
            self.current.file.close()

    def open(self, day: date) -> None:
        self.current = _Writer(day)

    def finish(self, covered: OffsetRange) -> _Draft:
        writer, self.current = self.current, None
        assert writer is not None  # noqa: S101
        if self._finished is not None:
            self._finished.close()
        self._finished = writer.file
        writer.finish()
        return _Draft(covered, writer.staged, writer.value_bytes)
