"""The archive: every committed event, as the broker gave it, copied to S3.

The run reads the ranges that are committed and not archived back from the broker, writes each
object to a temporary file, records what it is about to store, stores it, and records that it is
stored. A run that dies anywhere leaves at most one recorded plan for each partition, and the next
run finishes exactly that object: the end of the backlog has moved by then, and a range cut anew
would leave the first one's object behind.
"""

import gc
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from kafka.errors import OffsetOutOfRangeError

from credit_risk_dagster.domain.raw_events import (
    COLUMNS,
    CONTENT_TYPE,
    Cutter,
    Limits,
    object_key,
    other_folder,
    prefix,
    to_arrow,
)
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.interpreter import tuned_interpreter
from credit_risk_dagster.settings import ArchiveSettings, DrainSettings
from resources.kafka.broker import Broker
from resources.kafka.reader import Fetch, OffsetRange, Reader
from resources.lake import Lake
from resources.postgres.archive import ArchiveLedger, PlannedObject
from resources.postgres.connection import Warehouse
from resources.postgres.sources import Source, Sources

# Measured over real loans (tests/benchmarks/archive.py): level 3 packs 10.7 to 1 at 350 MB/s; 6 and
# 9 gain a fifth and take five times as long. Row groups of 1, 8 and 32 MiB differ by a hundredth,
# so they are small, for the memory's sake.
COMPRESSION_LEVEL = 3
_READ = DrainSettings.model_construct(
    max_batch_events=10_000, max_batch_bytes=2**20, poll_interval_ms=20
)
_GROUPS_A_COLLECTION = 4
# Everything that is read here is already on the broker; silence for so long is a failure.
_PATIENCE_SECONDS = 30.0


class EventsUnreadable(PlatformError):
    """The broker has the events and does not deliver them."""


@dataclass
class ArchiveReport:
    """What a run archived.

    Attributes:
        source: None before anything of the topic was committed.
        objects: what was stored, or found stored by a run that died.
        lost: offset ranges with committed events that the broker no longer had, and how many.
        busy: partitions that another run archives.
        value_bytes: bytes of the values in the objects.
    """

    source: Source | None = None
    objects: list[PlannedObject] = field(default_factory=list)
    lost: list[tuple[OffsetRange, int]] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    value_bytes: int = 0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        return sum(plan.rows for plan in self.objects)

    @property
    def bytes(self) -> int:
        return sum(plan.bytes for plan in self.objects)


@dataclass(frozen=True)
class _Draft:
    """An object in a temporary file; without rows there is none."""

    range: OffsetRange
    dt: date | None
    rows: int
    value_bytes: int
    file: BinaryIO | None


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
        LakeUnavailable, LakeRefused: as their names say. What was confirmed stays archived.
        EventsUnreadable: the broker delivers nothing of a range that it says to have.
    """
    report = ArchiveReport()
    started = time.monotonic()
    with (
        tuned_interpreter(),
        broker.reader(_READ) as reader,
        warehouse.session(f"archive {run_id}") as connection,
    ):
        report.source = Sources(connection).find(broker.inspect())
        if report.source is not None:
            ledger = ArchiveLedger(connection)
            run = _Run(broker, reader, ledger, lake, settings, report.source, report, log)
            for backlog in ledger.backlog(report.source.source_id):
                if len(backlog) and not ledger.try_lock(report.source.source_id, backlog.partition):
                    report.busy.append(backlog.partition)
                elif len(backlog):
                    run.archive_partition(backlog.partition)
    report.seconds = time.monotonic() - started
    return report


@dataclass
class _Run:
    """A run that archives the partitions whose lock it holds."""

    broker: Broker
    reader: Reader
    ledger: ArchiveLedger
    lake: Lake
    settings: ArchiveSettings
    source: Source
    report: ArchiveReport
    log: logging.Logger

    def archive_partition(self, partition: int) -> None:
        # Read anew: another run may have had the lock, and moved on, a moment ago.
        plan = self.ledger.plan(self.source.source_id, partition)
        if plan is not None:
            self._finish(plan)
        (backlog,) = (
            b for b in self.ledger.backlog(self.source.source_id) if b.partition == partition
        )
        limits = Limits(
            self.settings.max_object_events,
            self.settings.max_object_bytes,
            min(Limits.row_group_bytes, self.settings.max_object_bytes // 4),
        )
        while len(backlog):
            backlog = self._skip_lost(backlog)
            position = backlog.first
            for draft in _drafts(self.reader, backlog, limits, Cutter(limits)):
                self._store(draft)
                position = draft.range.next
            backlog = replace(backlog, first=position)

    def _skip_lost(self, backlog: OffsetRange) -> OffsetRange:
        """The part of a backlog that the broker still has; what it has not is recorded as lost."""
        topic = self.broker.inspect({backlog.partition: backlog.next})
        beginning = topic.offsets[backlog.partition][0]
        if beginning <= backlog.first:
            return backlog
        gone = replace(backlog, next=min(beginning, backlog.next))
        self._record_absent(gone)
        return replace(backlog, first=gone.next)

    def _record_absent(self, gone: OffsetRange) -> None:
        if lost := self.ledger.record_absent(self.source.source_id, gone):
            self.report.lost.append((gone, lost))
            self.log.warning(
                "partition %d: %d committed events of offsets %d to %d are lost to the archive",
                *(gone.partition, lost, gone.first, gone.next - 1),
            )

    def _store(self, draft: _Draft) -> None:
        if draft.file is None or draft.dt is None:
            self._record_absent(draft.range)
            return
        covered = draft.range
        key = object_key(self._folder, draft.dt, covered.partition, covered.first, covered.next)
        size, sha256 = Lake.measure(draft.file)
        plan = PlannedObject(
            partition=covered.partition,
            first_offset=covered.first,
            next_offset=covered.next,
            rows=draft.rows,
            dt=draft.dt,
            key=key,
            bytes=size,
            sha256=sha256,
        )
        self.ledger.record_plan(self.source.source_id, plan)
        self.lake.put(key, draft.file, CONTENT_TYPE, labels(self.source, draft.rows))
        self.report.value_bytes += draft.value_bytes
        self._confirm(plan)

    @cached_property
    def _folder(self) -> str:
        """The topic's own folder, unless another source is or was archived there."""
        source = self.source
        known = self.ledger.folder(source.source_id)
        return known or self.ledger.choose_folder(
            source.source_id,
            source.topic if self.lake.is_empty(prefix(source.topic)) else None,
            other_folder(source.cluster_id, source.topic, source.epoch),
        )

    def _confirm(self, plan: PlannedObject) -> None:
        lost = self.ledger.confirm(self.source.source_id, plan)
        self.report.objects.append(plan)
        if lost:
            self.report.lost.append((plan.range, lost))
        self.log.info("stored %s: %d events, %d bytes", plan.key, plan.rows, plan.bytes)

    def _finish(self, plan: PlannedObject) -> None:
        """Finish the object of a run that died: it may be stored already, or not."""
        stored = self.lake.find(plan.key)
        if stored and (stored.bytes, stored.sha256) == (plan.bytes, plan.sha256):
            self.log.info("an earlier run stored %s and died before it could say so", plan.key)
            self._confirm(plan)
            return
        self.log.info("finishing %s for an earlier run", plan.key)
        remaining = self._skip_lost(plan.range)
        if remaining != plan.range:
            return  # its beginning is gone and recorded so; the rest is cut anew
        whole = Limits(plan.next_offset - plan.first_offset, 2**62)
        for draft in _drafts(self.reader, plan.range, whole, Cutter(whole, plan.dt)):
            self._store(draft)


def labels(source: Source, rows: int) -> dict[str, str]:
    """What an object says of itself, so that the bucket alone is enough for a rebuild."""
    topic_id = {"topic-id": source.topic_id} if source.topic_id else {}
    return {
        "cluster-id": source.cluster_id,
        "topic": source.topic,
        "epoch": str(source.epoch),
        "rows": str(rows),
        **topic_id,
    }


def _drafts(
    reader: Reader, wanted: OffsetRange, limits: Limits, cutter: Cutter
) -> Iterator[_Draft]:
    """Cut a range into objects, one after the other; each must be used before the next one.

    They end early when the broker's retention overtakes the reading.
    """
    first = end = wanted.first
    with _Writers() as writers:
        for fetch in _read(reader, wanted):
            end = fetch.ranges[0].next
            batch = to_arrow(
                wanted.partition, fetch.offsets, fetch.timestamps, fetch.keys, fetch.values
            )
            for span in cutter.spans(batch):
                if span.opens:
                    start = int(fetch.offsets[span.start])
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
            yield _Draft(OffsetRange(wanted.partition, first, end), None, 0, 0, None)


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

        self.day = day
        self.file: Any = TemporaryFile(prefix="credit-risk-archive-")  # noqa: SIM115
        self.rows = self.value_bytes = self._groups = 0
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
        self.rows += len(rows)
        self.value_bytes += pc.sum(pc.binary_length(rows["value"])).as_py() or 0
        self._group.append(rows)
        if flush:
            self._flush()
            if self._groups % _GROUPS_A_COLLECTION == 0:
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
            self._groups += 1
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
        return _Draft(covered, writer.day, writer.rows, writer.value_bytes, writer.file)
