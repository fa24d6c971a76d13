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
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from kafka.errors import OffsetOutOfRangeError

from credit_risk_dagster.domain.columns import where
from credit_risk_dagster.domain.lake_rows import RAW_EVENTS, SourceKey, days_of, raw_rows
from credit_risk_dagster.domain.raw_events import file_name
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.archive_decisions import DecisionsReport, archive_decisions
from credit_risk_dagster.pipelines.archive_migration import adopt_objects
from credit_risk_dagster.pipelines.archive_mirror import range_of, ranges_of
from credit_risk_dagster.pipelines.archive_source import recognized
from credit_risk_dagster.pipelines.interpreter import memory_of_the_system, tuned_interpreter
from credit_risk_dagster.pipelines.lake_forget import finish_forgettings, share_forgettings
from credit_risk_dagster.pipelines.lake_history import tables
from credit_risk_dagster.settings import ArchiveSettings, DrainSettings
from resources.kafka.broker import Broker
from resources.kafka.reader import Fetch, OffsetRange, Reader
from resources.kafka.watch import TopicState
from resources.lake import Lake
from resources.lake_tables import DataFile, LakeMoved, LakeTable, application
from resources.parquet_files import ROW_GROUP_BYTES, FileWriter, StagedFile
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
            connection, table, report.source, topic, partial(_event_at, broker, topic)
        )
        gc.freeze()  # what the lake's clients imported, too, which each collection would walk
        failed: PlatformError | None = None
        try:
            with broker.reader(_READ, of=topic, whole=True) as reader:
                _Run(
                    *(reader, ledger, table, settings, report.source, key),
                    *(report, log, Forgettings(connection).offsets()),
                ).run()
        except PlatformError as error:  # the decisions do without the broker
            failed = error
        report.seconds = time.monotonic() - started
        gc.collect()
        pa.default_memory_pool().release_unused()
        named = _named(lake, Sources(connection).all(), report.source, key)
        report.decisions = archive_decisions(warehouse, named, run_id=run_id, log=log)
        share_forgettings(connection, table, report.source.topic, log=log)
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
        while len(backlog):
            gone, backlog = self._lost(backlog)
            if len(gone):
                self._store(_Draft(gone, None), known)
                known = known if self.moved else gone.next
            position = backlog.first
            for draft in self._drafts(backlog):
                self._store(draft, known)
                known = known if self.moved else draft.range.next
                position = draft.range.next
            backlog = replace(backlog, first=position)

    def _lost(self, backlog: OffsetRange) -> tuple[OffsetRange, OffsetRange]:
        """The part of a backlog that the broker no longer has, and the part that it has."""
        topic = self.reader.inspect({backlog.partition: backlog.next})
        beginning = topic.offsets[backlog.partition][0]
        middle = min(max(beginning, backlog.first), backlog.next)
        return replace(backlog, next=middle), replace(backlog, first=middle)

    def _drafts(self, wanted: OffsetRange) -> Iterator[_Draft]:
        """Cut a range into files, one after the other; each must be used before the next one.

        A file has the day of its first event. One of a later day begins another file; one of an
        earlier day, which came late, stays where it was read: a stream whose times go back and
        forth would otherwise be as many files as events. They end early when the broker's retention
        overtakes the reading.
        """
        forgotten = self.forgotten.get((self.source.source_id, wanted.partition), [])
        today = datetime.now(UTC).date()
        writer: FileWriter | None = None
        first = end = wanted.first
        try:
            for fetch in _read(self.reader, wanted):
                end = fetch.ranges[0].next
                self.report.value_bytes += fetch.value_bytes
                rows = _rows(fetch)
                if forgotten:
                    rows = where(rows, ~np.isin(rows["offset"], forgotten))
                days = days_of(rows, "timestamp", today)
                while len(rows):
                    if writer and (days[0] > writer.staged.day or self._is_full(writer)):
                        start = rows["offset"][0].as_py()
                        yield _Draft(OffsetRange(wanted.partition, first, start), writer.finish())
                        writer.close()
                        writer, first = None, start
                    if writer is None:
                        day = days[0].astype(object)
                        writer = FileWriter(day, RAW_EVENTS, self._group_bytes)
                    part = self._fitting(rows, days <= writer.staged.day, writer)
                    if writer.add(part):
                        gc.collect()  # little, as what was imported is frozen; the client's cycles
                    rows, days = rows.slice(len(part)), days[len(part) :]
            if writer:
                yield _Draft(OffsetRange(wanted.partition, first, end), writer.finish())
            elif end > first:
                yield _Draft(OffsetRange(wanted.partition, first, end), None)
        finally:
            if writer:
                writer.close()

    @property
    def _group_bytes(self) -> int:
        return min(ROW_GROUP_BYTES, self.settings.max_object_bytes // 4)

    def _is_full(self, writer: FileWriter) -> bool:
        """Whether it has all its events, or what is pending and to come could be too much."""
        most = writer.staged.file.tell() + 2 * self._group_bytes
        limits = self.settings
        return writer.staged.rows >= limits.max_object_events or most > limits.max_object_bytes

    def _fitting(
        self, rows: pa.RecordBatch, here: npt.NDArray[np.bool_], writer: FileWriter
    ) -> pa.RecordBatch:
        """The first of the rows that may be in the file, no more than a row group."""
        stop = len(rows) if here.all() else int(here.argmin())
        part = rows.slice(0, min(stop, self.settings.max_object_events - writer.staged.rows))
        while len(part) > 1 and part.nbytes > self._group_bytes:
            part = part.slice(0, len(part) // 2)
        return part

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


def _rows(fetch: Fetch) -> pa.RecordBatch:
    rest = fetch.rest
    if rest is None:  # of what is nothing but gaps
        return pa.RecordBatch.from_pylist([], RAW_EVENTS)
    return raw_rows(
        *(fetch.partitions, fetch.offsets, fetch.timestamps, fetch.keys, fetch.values),
        *(rest.written, rest.clocks, rest.headers),
    )


def _event_at(
    broker: Broker, topic: TopicState, partition: int, offset: int
) -> dict[str, Any] | None:
    """A record as a row of the table; None where the broker has none there."""
    with broker.reader(_READ, of=topic, whole=True) as reader:
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
