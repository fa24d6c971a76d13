"""The rebuild: archived events, scored again into another schema without the broker.

The same decoding, scoring and transaction as the drain's, with the partitions and offsets that the
events had. Like the drain it goes on where it ended, so that one that was interrupted can be
started again.
"""

import gc
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from credit_risk_dagster.domain.events import decode
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.raw_events import PREFIX, Coordinates, from_arrow, parse_key
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.archive_check import ArchiveDamaged, fetched
from credit_risk_dagster.pipelines.interpreter import tuned_interpreter
from credit_risk_dagster.settings import WarehouseSettings
from resources.kafka.reader import Fetch, OffsetRange, offsets_missing
from resources.lake import Lake
from resources.postgres.archive import ArchivedObject, ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.ledger import Committed, Ledger, OffsetsMoved, StageSeconds
from resources.postgres.migrate import migrate
from resources.postgres.models import ModelStore
from resources.postgres.policies import register_policy
from resources.postgres.segments import roll_up_segments
from resources.postgres.sources import Source, Sources

_BATCHES_A_COLLECTION = 4
_BATCH_EVENTS = 50_000  # a row group has fewer, unless its events are tiny


class RebuildRefused(PlatformError):
    """A rebuild that would leave the schema wrong."""


@dataclass
class RebuildReport:
    """What a rebuild wrote.

    Attributes:
        schema, policy, model: into which schema, by which policy and model.
        objects: read from the archive, in whole or in part.
        gaps: offsets without an event.
        lost: events that are not in the archive.
    """

    schema: str
    policy: str
    model: str | None = None
    objects: int = 0
    gaps: int = 0
    lost: int = 0
    seconds: float = 0.0
    tiers: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def scored(self) -> int:
        return self.tiers.total()

    @property
    def rejected(self) -> int:
        return self.reasons.total()


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
        from_bucket: find the objects by listing the bucket, because the schema is lost. The new one
            then also gets the archive's progress, and can take the lost one's place.
        run_id: recorded in the schema's ledger.
        model: gives the PD; it is copied into the schema.
        since, until: days of the archive, both inclusive; without, all there is.

    Raises:
        RebuildRefused: the schema is the live one, or in use, or its offsets would get a hole.
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
    with (
        tuned_interpreter(),
        Warehouse(target).session(f"rebuild {run_id}") as connection,
        ThreadPoolExecutor(1, "commit") as writer,
    ):
        ledger = Ledger(connection)
        _lock(connection, into)
        policy_id = register_policy(connection, policy)
        if model:
            ModelStore(connection).adopt(settings.db_schema, model)
        run = _Rebuild(ledger, lake, policy, policy_id, model, run_id, report, writer)
        for (source_id, partition), ranges in listing.by_partition():
            if chosen := _within(ranges, since, until):
                source = listing.sources[source_id]
                Sources(connection).adopt(source)
                log.info("rebuilding %s, partition %d", source.topic, partition)
                run.partition(source_id, chosen)
                if from_bucket:
                    ArchiveLedger(connection).adopt(source_id, listing.folders[source_id], chosen)
        roll_up_segments(connection)  # the job does that for the live schema alone
    report.seconds = time.monotonic() - started
    return report


def _recorded(warehouse: Warehouse) -> "Listing":
    with warehouse.session("rebuild") as connection:
        sources = {source.source_id: source for source in Sources(connection).all()}
        return Listing(sources, ArchiveLedger(connection).objects())


@dataclass(frozen=True)
class Listing:
    """What is in the archive.

    Attributes:
        sources: by source id.
        objects: by source, partition and offset, without holes within a partition.
        folders: source id to its folder in the bucket; only where the bucket was listed.
    """

    sources: Mapping[int, Source]
    objects: list[ArchivedObject]
    folders: Mapping[int, str] = field(default_factory=dict)

    def by_partition(self) -> Iterator[tuple[tuple[int, int], list[ArchivedObject]]]:
        """(source id, partition) and its objects."""
        for key, found in groupby(self.objects, key=lambda o: (o.source_id, o.partition)):
            yield key, list(found)


def list_bucket(lake: Lake) -> Listing:
    """What the bucket itself says of the archive: keys, sizes, and each object's labels.

    Sources are numbered anew, in the order of their folders.

    Raises:
        ArchiveDamaged: an object does not say what it is, or two have the same offsets.
        LakeUnavailable, LakeRefused.
    """
    found: dict[str, list[tuple[Coordinates, str]]] = {}
    for key in lake.sizes(f"{PREFIX}/"):
        if at := parse_key(key):
            found.setdefault(at.folder, []).append((at, key))
    sources: dict[int, Source] = {}
    objects: list[ArchivedObject] = []
    for source_id, (folder, entries) in enumerate(sorted(found.items()), 1):
        entries.sort(key=lambda entry: (entry[0].partition, entry[0].first))
        before: Coordinates | None = None
        for at, key in entries:
            recorded, source = _ask(lake, source_id, at, key)
            if sources.setdefault(source_id, source) != source:
                raise ArchiveDamaged(
                    f"{lake.location}: folder {folder} has objects of several sources, first {key}:"
                    " move those of one of them away"
                )
            if before and before.partition == at.partition:
                if before.following > at.first:
                    raise ArchiveDamaged(
                        f"{lake.location}: {key} begins before the object before it ends, at "
                        f"offset {before.following}: remove the wrong one"
                    )
                if before.following < at.first:  # nothing of it was left when it was archived
                    objects.append(_absent(source_id, at.partition, before.following, at.first))
            objects.append(recorded)
            before = at
    return Listing(sources, objects, dict(enumerate(sorted(found), 1)))


def _ask(lake: Lake, source_id: int, at: Coordinates, key: str) -> tuple[ArchivedObject, Source]:
    stored = lake.find(key)
    try:
        said = stored.labels if stored else {}
        source = Source(
            source_id, said["cluster-id"], said["topic"], said.get("topic-id"), int(said["epoch"])
        )
        rows = int(said["rows"])
    except (KeyError, ValueError) as error:
        raise ArchiveDamaged(
            f"{lake.location}: {key} does not say which source its events are from (metadata "
            f"{error}): rebuild without --from-bucket, or remove it"
        ) from error
    assert stored  # noqa: S101 (without it, there were no labels)
    recorded = ArchivedObject(
        *(source_id, at.partition, at.first, at.following, rows, 0, at.day),
        *(key, stored.bytes, stored.sha256, None, None),
    )
    return recorded, source


def _absent(source_id: int, partition: int, first: int, following: int) -> ArchivedObject:
    return ArchivedObject(
        source_id, partition, first, following, 0, 0, None, None, None, None, None, None
    )


def _within(
    ranges: list[ArchivedObject], since: date | None, until: date | None
) -> list[ArchivedObject]:
    """The ranges from the period's first object to its last; with what lies between, whatever its
    day, so that no offset is left out."""
    inside = [
        at
        for at, recorded in enumerate(ranges)
        if (since is None or (recorded.dt is not None and recorded.dt >= since))
        and (until is None or (recorded.dt is not None and recorded.dt <= until))
    ]
    return ranges[inside[0] : inside[-1] + 1] if inside else []


def _lock(connection: Any, schema: str) -> None:
    (free,) = connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended(%(lock)s, 0))", {"lock": f"{schema}.rebuild"}
    ).fetchone()
    if not free:
        raise RebuildRefused(f"another rebuild writes schema {schema}: wait until it is done")


@dataclass
class _Rebuild:
    ledger: Ledger
    lake: Lake
    policy: Policy
    policy_id: int
    model: PdModel | None
    run_id: str
    report: RebuildReport
    writer: ThreadPoolExecutor
    in_flight: Future[Committed] | None = None
    batches: int = 0

    def partition(self, source_id: int, ranges: list[ArchivedObject]) -> None:
        """Write consecutive ranges of one partition."""
        first = ranges[0]
        started = self.ledger.start_partitions(source_id, {first.partition: first.first_offset})
        position = started[first.partition]
        (progress,) = (p for p in self.ledger.progress(source_id) if p.partition == first.partition)
        if not progress.first_offset <= first.first_offset <= position:
            raise RebuildRefused(
                f"schema {self.report.schema} has offsets {progress.first_offset} to "
                f"{position - 1} of partition {first.partition}; going on from "
                f"{first.first_offset} would leave a hole: rebuild the days between first, or "
                "all of them into a fresh schema"
            )
        try:
            for recorded in ranges:
                if recorded.next_offset <= position:
                    continue  # an earlier try wrote it
                gone = OffsetRange(recorded.partition, position, recorded.next_offset)
                if recorded.key is None and recorded.archived_at and not recorded.lost:
                    self._write(source_id, Fetch(ranges=[gone], gaps=[gone]))  # the ledger says so
                elif recorded.key is None:
                    self._settle()
                    self.ledger.record_lost(
                        *(source_id, self.policy_id, self.run_id, 0, [gone], "not in the archive")
                    )
                    self.report.lost += len(gone)
                else:
                    self.report.objects += 1
                    for fetch in _fetches(self.lake, recorded, position):
                        self._write(source_id, fetch)
                position = recorded.next_offset
            self._settle()
        except OffsetsMoved as moved:
            raise RebuildRefused(
                f"schema {self.report.schema} is written by something else: {moved}"
            ) from moved

    def _write(self, source_id: int, fetch: Fetch) -> None:
        clock = time.perf_counter()
        events = decode(fetch.values, fetch.keys)
        decoded = time.perf_counter()
        assessment = assess(events, self.policy, self.model)
        seconds = StageSeconds(fetch.seconds, decoded - clock, time.perf_counter() - decoded, None)
        # Postgres works on a batch while the next one is read and scored.
        self._settle()
        self.in_flight = self.writer.submit(
            partial(
                self.ledger.commit,
                *(source_id, self.policy_id, self.run_id, 0, fetch, assessment, seconds),
            )
        )
        self.report.gaps += sum(map(len, fetch.gaps))
        self.batches += 1
        if self.batches % _BATCHES_A_COLLECTION == 0:
            gc.collect()

    def _settle(self) -> None:
        if self.in_flight is not None:
            done, self.in_flight = self.in_flight, None
            stored = done.result().assessment
            self.report.tiers.update(stored.tier_counts())
            self.report.reasons.update(stored.reason_counts())


def _fetches(lake: Lake, recorded: ArchivedObject, position: int) -> Iterator[Fetch]:
    """An object's records from a position on, as the drain would have fetched them."""
    import pyarrow.parquet as pq

    with fetched(lake, recorded) as file, pq.ParquetFile(file) as parquet:
        position = max(position, recorded.first_offset)
        for group in range(parquet.num_row_groups):
            clock = time.thread_time()
            table = parquet.read_row_group(group)
            batches = table.to_batches(max_chunksize=_BATCH_EVENTS)
            for at, batch in enumerate(batches):
                last = group == parquet.num_row_groups - 1 and at == len(batches) - 1
                wanted = int(np.searchsorted(batch["offset"].to_numpy(), position))
                columns = from_arrow(batch.slice(wanted))
                offsets = columns["offsets"]
                if not len(offsets) and not last:
                    continue
                end = recorded.next_offset if last else int(offsets[-1]) + 1
                yield Fetch(
                    ranges=[OffsetRange(recorded.partition, position, end)],
                    gaps=list(offsets_missing(recorded.partition, position, end, offsets)),
                    partitions=np.full(len(offsets), recorded.partition, np.int32),
                    value_bytes=sum(len(value) for value in columns["values"] if value),
                    seconds=time.thread_time() - clock,
                    **columns,
                )
                position, clock = end, time.thread_time()
