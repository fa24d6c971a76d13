"""The rebuild: the lake's raw events, scored again into another schema without the broker.

The same decoding, scoring and transaction as the drain's, with the partitions and offsets that the
events had. Days may come in any order and several runs at once, because a batch takes its offsets
out of what is not rebuilt yet; one that was interrupted goes on where it ended.
"""

import gc
import logging
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.arms import Split, assess_by_arm
from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.lake_rows import SourceKey, from_raw_rows, headers_of
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.repeats import Deduplicate, marks
from credit_risk_dagster.domain.scoring import Batch
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.experiments import split_beside
from credit_risk_dagster.pipelines.interpreter import tuned_interpreter
from credit_risk_dagster.pipelines.lake_history import RawEvents
from credit_risk_dagster.settings import DrainSettings, WarehouseSettings
from resources.kafka.reader import Fetch, OffsetRange
from resources.postgres.connection import NotMigrated, Warehouse
from resources.postgres.forgetting import Forgettings
from resources.postgres.micro_batch import Committed, OffsetsMoved, StageSeconds
from resources.postgres.migrate import migrate
from resources.postgres.models import ModelStore
from resources.postgres.policies import register_policy
from resources.postgres.rebuilt import RebuiltLedger
from resources.postgres.repeats import Repeats
from resources.postgres.segments import roll_up_segments
from resources.postgres.sources import Source, Sources

_BATCHES_A_COLLECTION = 4


class RebuildRefused(PlatformError):
    """A rebuild that would leave the schema wrong."""


@dataclass
class RebuildReport:
    """What a rebuild wrote.

    Attributes:
        schema, policy, model: into which schema, by which policy and model.
        version: of the table that was read.
        known: events that the schema had already.
        gaps: offsets of the schema's partitions that it has no event of: it is not in the archive,
            or of a day that is not rebuilt.
    """

    schema: str
    policy: str
    model: str | None
    version: int
    known: int = 0
    gaps: int = 0
    started: float = field(default_factory=time.monotonic)
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
    raw: RawEvents,
    policy: Policy,
    *,
    into: str,
    run_id: str,
    model: PdModel | None = None,
    since: date | None = None,
    until: date | None = None,
    drain: DrainSettings | None = None,
    log: logging.Logger,
) -> RebuildReport:
    """Score the raw events of some days into a schema, which is created when it is missing; after
    all days it has the table's progress, and a drain can go on from there.

    Args:
        settings: the database; the schema that they name may be lost.
        raw: the events, as of a version of their table.
        policy: by which rules; by the live schema's active policy a split that runs there has its
            arms. Shadows are of live traffic only.
        into, run_id: schema in the same database, and what its ledger names the run.
        model: gives the PD; it is copied into the schema.
        since, until: days, both inclusive; without, all there are.
        drain: how repeated events are known; by default as without any setting.

    Raises:
        RebuildRefused: the schema is the live one, or another run writes the same days.
        ModelMismatch, SourceMismatch: the schema has another model or source of the same id.
        WarehouseUnavailable, LakeUnavailable, ...: what was committed until then stays.
    """
    if into == settings.db_schema:
        raise RebuildRefused(f"schema {into} is the live one: name another one to rebuild into")
    target = settings.model_copy(update={"db_schema": into, "dashboard_database_url": None})
    store = Warehouse(target)
    report = RebuildReport(into, policy.version, model.version if model else None, raw.version)
    migrate(target)
    with (
        tuned_interpreter(),
        store.session(f"rebuild {run_id}") as reading,
        store.session(f"rebuild {run_id}") as writing,
        ThreadPoolExecutor(1, "commit") as writer,
    ):
        live, forgotten, split = _live(settings, policy)
        adopted = _adopt(Sources(writing), raw, live)
        if model:
            ModelStore(writing).adopt(settings.db_schema, model)
        policy_id, split = _register(writing, policy, split)
        repeats = Repeats(writing, drain := drain or DrainSettings())
        ledgers = RebuiltLedger(reading), RebuiltLedger(writing, repeats)
        run = _Rebuild(
            *ledgers, policy, policy_id, split, model, run_id, report, writer, forgotten, drain
        )
        run.days(raw, since, until, adopted, log)
        run.reach(raw, adopted, whole=since is None and until is None)
        repeats.forget(by_record_time=True)
        roll_up_segments(writing)  # the job does that for the live schema alone
    report.seconds = time.monotonic() - report.started
    return report


def _live(
    settings: WarehouseSettings, policy: Policy
) -> tuple[list[Source], Mapping[tuple[int, int], list[int]], Split | None]:
    """The live schema's sources; by source id and partition the offsets of applicants that it
    forgot; and the split of the policy; nothing where it is lost."""
    with suppress(NotMigrated), Warehouse(settings).session("rebuild") as connection:
        return (
            Sources(connection).all(),
            Forgettings(connection).offsets(),
            split_beside(connection, policy),
        )
    return [], {}, None


def _register(
    connection: psycopg.Connection[Any], policy: Policy, split: Split | None
) -> tuple[int, Split | None]:
    """The schema's ids of the policy, and of the challenger in the split."""
    if split:
        split = replace(split, policy_id=register_policy(connection, split.policy))
    return register_policy(connection, policy), split


def _adopt(sources: Sources, raw: RawEvents, live: list[Source]) -> dict[SourceKey, int]:
    """The table's sources in the schema: under the ids that the live one has."""
    known = {(s.cluster_id, s.topic, s.epoch): s for s in live}
    adopted: dict[SourceKey, int] = {}
    free = count(max((s.source_id for s in live), default=0) + 1)
    for key in raw.sources():
        new = Source(0, key.cluster_id, raw.topic, key.topic_id, key.epoch)
        source = known.get((key.cluster_id, raw.topic, key.epoch))
        source = source or replace(new, source_id=next(free))
        sources.adopt(source)
        adopted[key] = source.source_id
    return adopted


@dataclass
class _Rebuild:
    """Writes a batch while the next one is read and scored, over a connection of its own."""

    reading: RebuiltLedger
    ledger: RebuiltLedger
    policy: Policy
    policy_id: int
    split: Split | None
    model: PdModel | None
    run_id: str
    report: RebuildReport
    writer: ThreadPoolExecutor
    forgotten: Mapping[tuple[int, int], list[int]]
    settings: DrainSettings
    in_flight: Future[Committed] | None = None
    batches: int = 0

    def days(
        self,
        raw: RawEvents,
        since: date | None,
        until: date | None,
        adopted: Mapping[SourceKey, int],
        log: logging.Logger,
    ) -> None:
        """Write what the schema has not yet of some days.

        Raises:
            RebuildRefused: another run writes the same days.
        """
        try:
            for day, source, batches in raw.days(since, until):
                log.info("rebuilding %s of source %s", day, source)
                for batch in batches:
                    self.batch(adopted[source], batch)
            self.settle()
        except OffsetsMoved as moved:
            raise RebuildRefused(
                f"schema {self.report.schema} is written by another run ({moved}): start this one "
                "again when that has ended"
            ) from moved

    def batch(self, source_id: int, records: pa.RecordBatch) -> None:
        """Score and write those of a source's records that the schema has not yet."""
        clock = time.thread_time()
        new = self._new(source_id, records)
        self.report.known += len(records) - len(new)
        if not len(new):
            return
        fetch = fetch_of(records.take(new), self.settings.deduplicate)
        fetched = time.thread_time()
        events = decode(fetch.values, fetch.keys)
        decoded = time.thread_time()
        batch = Batch(events, self.model)
        assessment = assess_by_arm(batch, self.policy, self.policy_id, self.split)
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

    def reach(self, raw: RawEvents, adopted: Mapping[SourceKey, int], *, whole: bool) -> None:
        """Count what is missing; after the whole, give the partitions the table's progress."""
        for key, source_id in adopted.items() if whole else ():
            known = [p.partition for p in self.ledger.progress(source_id)]
            for partition, following in raw.progress(key, known).items():
                self.ledger.cover(source_id, OffsetRange(partition, following, following))
        progress = (p for at in adopted.values() for p in self.ledger.progress(at))
        self.report.gaps = sum(p.gaps for p in progress)

    def _new(self, source_id: int, records: pa.RecordBatch) -> npt.NDArray[np.intp]:
        """Positions of the records that the schema has not yet, by partition and offset."""
        partitions, offsets = (records[name].to_numpy() for name in ("partition", "offset"))
        order = np.lexsort((offsets, partitions))
        new = np.zeros(len(order), np.bool_)
        for partition in np.unique(partitions).tolist():
            of_it = partitions == partition
            new[of_it] = self.reading.absent(source_id, partition, offsets[of_it])
            gone = self.forgotten.get((source_id, partition), [])
            new[of_it] &= ~np.isin(offsets[of_it], gone)
        return order[new[order]]


def fetch_of(records: pa.RecordBatch, deduplicate: Deduplicate = "off") -> Fetch:
    """Raw events (some, by partition and offset) as the drain would have fetched them, but each
    range is one without holes."""
    columns = from_raw_rows(records)
    partitions, offsets = columns["partitions"], columns["offsets"]
    ends = (np.diff(offsets) != 1) | (np.diff(partitions) != 0)
    first, last = np.append(True, ends), np.append(ends, True)
    runs = zip(partitions[first], offsets[first], offsets[last] + 1, strict=True)
    return Fetch(
        ranges=[OffsetRange(int(p), int(f), int(n)) for p, f, n in runs],
        value_bytes=pc.sum(pc.binary_length(records["value"])).as_py() or 0,
        marks=marks(deduplicate, columns["keys"], columns["values"], headers_of(records)),
        **columns,
    )
