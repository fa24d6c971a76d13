"""The rebuild: the lake's raw events, scored again into another schema without the broker.

The same decoding, scoring and transaction as the drain's, with the partitions and offsets that the
events had. Days may come in any order and several runs at once, because a batch takes its offsets
out of what is not rebuilt yet; one that was interrupted goes on where it ended.
"""

import gc
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.events import decode
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.raw_events import COLUMNS, PREFIX, from_arrow, root
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.archive import ranges_of
from credit_risk_dagster.pipelines.archive_check import fetched
from credit_risk_dagster.pipelines.interpreter import tuned_interpreter
from credit_risk_dagster.settings import WarehouseSettings
from resources.kafka.reader import Fetch, OffsetRange
from resources.lake import Lake
from resources.lake_tables import LakeTable
from resources.postgres.archive import ArchivedObject, ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.forgetting import Forgettings
from resources.postgres.ledger import Committed, OffsetsMoved, StageSeconds
from resources.postgres.migrate import migrate
from resources.postgres.models import ModelStore
from resources.postgres.policies import register_policy
from resources.postgres.rebuilt import RebuiltLedger
from resources.postgres.segments import roll_up_segments
from resources.postgres.sources import Source, Sources

_BATCHES_A_COLLECTION = 4
_READ = ["partition", "offset", "timestamp", "key", "value"]
_BATCH_EVENTS = 50_000  # a row group has fewer, unless its events are tiny


class RebuildRefused(PlatformError):
    """A rebuild that would leave the schema wrong."""


@dataclass
class RebuildReport:
    """What a rebuild wrote.

    Attributes:
        schema, policy, model: into which schema, by which policy and model.
        objects: read from the archive.
        known: events that the schema had already.
        gaps: offsets of the schema's partitions that it has no event of: it is not in the archive,
            or of a day that is not rebuilt.
    """

    schema: str
    policy: str
    model: str | None = None
    objects: int = 0
    known: int = 0
    gaps: int = 0
    seconds: float = 0.0
    tiers: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def scored(self) -> int:
        return self.tiers.total()

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    @property
    def speed(self) -> float:
        """Events a second."""
        return (self.scored + self.rejected) / max(self.seconds, 1e-9)


def rebuild(
    settings: WarehouseSettings,
    lake: Lake,
    policy: Policy,
    *,
    into: str,
    from_bucket: bool = False,
    run_id: str,
    model: PdModel | None = None,
    since: date | None = None,
    until: date | None = None,
    log: logging.Logger,
) -> RebuildReport:
    """Score the archived events of a period into a schema, which is created when it is missing.

    Args:
        settings, lake, policy: whose archive to read, where its objects are, by which rules.
        into: schema, in the same database.
        from_bucket: ask the tables of the bucket what they have, because the schema is lost. The
            new one can take its place.
        run_id: recorded in the schema's ledger.
        model: gives the PD; it is copied into the schema.
        since, until: days of the archive, both inclusive; without, all there is.

    Raises:
        RebuildRefused: the schema is the live one, or another run writes the same days.
        ModelMismatch, SourceMismatch: the schema has another model or source of the same id.
        WarehouseUnavailable, NotMigrated, LakeUnavailable, LakeRefused, ObjectMissing,
        ArchiveDamaged: as their names say. What was committed until then stays.
    """
    if into == settings.db_schema:
        raise RebuildRefused(f"schema {into} is the live one: name another one to rebuild into")
    target = settings.model_copy(update={"db_schema": into, "dashboard_database_url": None})
    report = RebuildReport(into, policy.version, model.version if model else None)
    started = time.monotonic()
    migrate(target)
    listing = list_bucket(lake) if from_bucket else _recorded(Warehouse(settings))
    store = Warehouse(target)
    with (
        tuned_interpreter(),
        store.session(f"rebuild {run_id}") as reading,
        store.session(f"rebuild {run_id}") as writing,
        ThreadPoolExecutor(1, "commit") as writer,
    ):
        if model:
            ModelStore(writing).adopt(settings.db_schema, model)
        policy_id = register_policy(writing, policy)
        ledgers = RebuiltLedger(reading), RebuiltLedger(writing)
        run = _Rebuild(*ledgers, policy, policy_id, model, run_id, report, writer)
        for (source_id, partition), ranges in listing.by_partition():
            if chosen := _within(ranges, since, until):
                Sources(writing).adopt(listing.sources[source_id])
                log.info("rebuilding %s, partition %d", listing.sources[source_id].topic, partition)
                run.forgotten = listing.forgotten.get((source_id, partition), [])
                run.partition(lake, source_id, chosen)
        roll_up_segments(writing)  # the job does that for the live schema alone
    report.seconds = time.monotonic() - started
    return report


def _recorded(warehouse: Warehouse) -> "Listing":
    with warehouse.session("rebuild") as connection:
        sources = {source.source_id: source for source in Sources(connection).all()}
        forgotten = Forgettings(connection).offsets()
        return Listing(sources, ArchiveLedger(connection).objects(), forgotten=forgotten)


@dataclass(frozen=True)
class Listing:
    """What is in the archive.

    Attributes:
        sources: by source id.
        objects: by source, partition and offset, without holes within a partition.
        forgotten: by source id and partition, the offsets of forgotten applicants.
    """

    sources: Mapping[int, Source]
    objects: list[ArchivedObject]
    forgotten: Mapping[tuple[int, int], list[int]] = field(default_factory=dict)

    def by_partition(self) -> Iterator[tuple[tuple[int, int], list[ArchivedObject]]]:
        """(source id, partition) and its objects."""
        for key, found in groupby(self.objects, key=lambda o: (o.source_id, o.partition)):
            yield key, list(found)


def list_bucket(lake: Lake) -> Listing:
    """What the tables of raw events themselves say that they have.

    Sources are numbered anew, by topic and key.

    Raises:
        LakeUnavailable, LakeRefused.
    """
    sources: dict[int, Source] = {}
    objects: list[ArchivedObject] = []
    for topic in sorted(
        {key.split("/")[1] for key in lake.sizes(f"{PREFIX}/") if "/_delta_" in key}
    ):
        table = LakeTable(lake, root(topic), COLUMNS)
        snapshot = table.create()
        for key in snapshot.sources():
            source_id = len(sources) + 1
            sources[source_id] = Source(source_id, key.cluster_id, topic, key.topic_id, key.epoch)
            position: dict[int, int] = {}
            for held in ranges_of(snapshot, table, key):
                before = position.get(held.partition, held.first_offset)
                if before < held.first_offset:  # nothing of it was left when it was archived
                    objects.append(_absent(source_id, held.partition, before, held.first_offset))
                objects.append(ArchivedObject(source_id=source_id, lost=0, archived_at=None,
                                              verified_at=None, **vars(held)))  # fmt: skip
                position[held.partition] = held.next_offset
    return Listing(sources, objects)


def _absent(source_id: int, partition: int, first: int, following: int) -> ArchivedObject:
    return ArchivedObject(
        source_id, partition, first, following, 0, 0, None, None, None, None, None, None
    )


def _within(
    ranges: list[ArchivedObject], since: date | None, until: date | None
) -> list[ArchivedObject]:
    """The ranges of the period's days; of all days, those without one, too."""
    if since is None and until is None:
        return ranges
    return [
        recorded
        for recorded in ranges
        if recorded.dt is not None
        and (since is None or recorded.dt >= since)
        and (until is None or recorded.dt <= until)
    ]


@dataclass
class _Rebuild:
    """Writes a batch while the next one is read and scored, over a connection of its own."""

    reading: RebuiltLedger
    ledger: RebuiltLedger
    policy: Policy
    policy_id: int
    model: PdModel | None
    run_id: str
    report: RebuildReport
    writer: ThreadPoolExecutor
    forgotten: Sequence[int] = ()  # offsets of the partition that is rebuilt
    in_flight: Future[Committed] | None = None
    batches: int = 0

    def partition(self, lake: Lake, source_id: int, ranges: list[ArchivedObject]) -> None:
        """Write ranges of one partition.

        Raises:
            RebuildRefused: another run writes the same days.
        """
        try:
            for recorded in ranges:
                if recorded.key is not None:
                    self.report.objects += 1
                    for records in _batches(lake, recorded):
                        self.batch(source_id, records)
                self.settle()
                whole = OffsetRange(recorded.partition, recorded.first_offset, recorded.next_offset)
                self.ledger.cover(source_id, whole)
        except OffsetsMoved as moved:
            raise RebuildRefused(
                f"schema {self.report.schema} is written by another run ({moved}): start this one "
                "again when that has ended"
            ) from moved
        (found,) = (
            p for p in self.ledger.progress(source_id) if p.partition == ranges[0].partition
        )
        self.report.gaps += found.gaps

    def batch(self, source_id: int, records: pa.RecordBatch) -> None:
        """Score and write those of a source's records that the schema has not yet."""
        clock = time.thread_time()
        new = self._new(source_id, records)
        self.report.known += len(records) - len(new)
        if not len(new):
            return
        fetch = fetch_of(records.take(new))
        fetched = time.thread_time()
        events = decode(fetch.values, fetch.keys)
        decoded = time.thread_time()
        assessment = assess(events, self.policy, self.model)
        stages = fetched - clock, decoded - fetched, time.thread_time() - decoded
        self.settle()
        self.in_flight = self.writer.submit(
            self.ledger.commit,
            *(source_id, self.policy_id, self.run_id, 0, fetch, assessment),
            StageSeconds(*stages, None),
        )
        self.batches += 1
        if self.batches % _BATCHES_A_COLLECTION == 0:
            gc.collect()

    def settle(self) -> None:
        """Wait for the batch that is being written."""
        if self.in_flight is not None:
            done, self.in_flight = self.in_flight, None
            stored = done.result().assessment
            self.report.tiers.update(stored.tier_counts())
            self.report.reasons.update(stored.reason_counts())

    def _new(self, source_id: int, records: pa.RecordBatch) -> npt.NDArray[np.intp]:
        """Positions of the records that the schema has not yet, by partition and offset."""
        partitions, offsets = (records[name].to_numpy() for name in ("partition", "offset"))
        order = np.lexsort((offsets, partitions))
        new = np.zeros(len(order), np.bool_)
        for partition in np.unique(partitions).tolist():
            of_it = partitions == partition
            new[of_it] = self.reading.absent(source_id, partition, offsets[of_it])
            new[of_it] &= ~np.isin(offsets[of_it], self.forgotten)
        return order[new[order]]


def fetch_of(records: pa.RecordBatch) -> Fetch:
    """Records (some, by partition and offset) as the drain would have fetched them, but each range
    is one without holes."""
    partitions, offsets = (records[name].to_numpy() for name in ("partition", "offset"))
    ends = (np.diff(offsets) != 1) | (np.diff(partitions) != 0)
    first, last = np.append(True, ends), np.append(ends, True)
    runs = zip(partitions[first], offsets[first], offsets[last] + 1, strict=True)
    return Fetch(
        ranges=[OffsetRange(int(p), int(f), int(n)) for p, f, n in runs],
        partitions=partitions,
        value_bytes=pc.sum(pc.binary_length(records["value"])).as_py() or 0,
        **from_arrow(records),
    )


def _batches(lake: Lake, recorded: ArchivedObject) -> Iterator[pa.RecordBatch]:
    """An object's records."""
    import pyarrow.parquet as pq

    with fetched(lake, recorded) as file, pq.ParquetFile(file) as parquet:
        yield from parquet.iter_batches(_BATCH_EVENTS, columns=_READ)
