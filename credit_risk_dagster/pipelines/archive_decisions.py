"""The lake's decisions: what became of each event, out of Postgres, by the run that archives.

Progress is the table's, as that of the raw events: for the first decision of each event an offset,
for those that were re-driven a time. What Postgres decides again after a backup was restored is in
the table already, as it was decided then.
"""

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from credit_risk_dagster.domain.lake_rows import DECISIONS, SourceKey, days_of
from resources.kafka.reader import OffsetRange
from resources.lake_tables import LakeMoved, LakeTable, application
from resources.parquet_files import DayFiles
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.decisions import Decisions

_OFFSETS_AT_ONCE = 5_000
_BYTES_A_COMMIT = 64 * 2**20
_DAYS_A_COMMIT = 100  # each has an open file
_TRIES = 5


@dataclass
class DecisionsReport:
    """How many decisions a run added, and how many had left Postgres before: dropped with their
    time partition, or forgotten with their applicant."""

    rows: int = 0
    gone: int = 0
    seconds: float = 0.0


def archive_decisions(
    warehouse: Warehouse,
    sources: Sequence[tuple[LakeTable, SourceKey, int]],
    *,
    run_id: str,
    log: logging.Logger,
) -> DecisionsReport:
    """Add the decisions that the tables do not have yet.

    Args:
        sources: table, what it calls a source, and the source's id in Postgres.

    Raises:
        WarehouseUnavailable, NotMigrated, LakeUnavailable, LakeRefused. What was committed stays.
        LakeMoved: another run does the same.
    """
    report = DecisionsReport()
    started = time.monotonic()
    with warehouse.session(f"archive {run_id}") as connection:
        for table, key, source_id in sources:
            ledger = ArchiveLedger(connection)
            parts = ledger.committed(source_id)
            decisions = Decisions(connection, source_id)
            copy = _Copy(table, key, source_id, ledger, decisions, report, log)
            for attempt in range(_TRIES):
                try:
                    copy.run(parts)
                    break
                except LakeMoved as moved:
                    if attempt == _TRIES - 1:
                        raise
                    log.warning("another run archived first (%s); going on from there", moved)
    report.seconds = time.monotonic() - started
    return report


@dataclass
class _Copy:
    """Copies the decisions of a source."""

    table: LakeTable
    key: SourceKey
    source_id: int
    ledger: ArchiveLedger
    decisions: Decisions
    report: DecisionsReport
    log: logging.Logger
    moved: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    gone: list[tuple[OffsetRange, int]] = field(default_factory=list)

    def run(self, parts: list[OffsetRange]) -> None:
        self.moved, self.gone = {}, []
        progress, redriven = self._mirrored(parts)
        with DayFiles(DECISIONS) as files:
            for part in parts:
                self._partition(part, progress.get(part.partition), files)
            self._redriven(redriven, files)
            if self.moved:
                self._commit(files)
                self._mirrored(parts)

    def _mirrored(self, parts: list[OffsetRange]) -> tuple[dict[int, int], int | None]:
        """The table's progress, by partition and of what was re-driven, after telling Postgres."""
        snapshot = self.table.create()
        progress = snapshot.progress(self.key, [part.partition for part in parts])
        redriven = snapshot.transaction(f"{self.key}/redriven")
        self.ledger.mirror_progress(self.source_id, "decisions", progress, redriven)
        return progress, redriven

    def _partition(self, part: OffsetRange, known: int | None, files: DayFiles) -> None:
        start = position = part.first if known is None else known
        rows = 0

        def account() -> None:
            covered = OffsetRange(part.partition, start, position)
            gone = len(covered) - self.decisions.holes(covered) - rows
            if gone:
                self.gone.append((covered, gone))

        while position < part.next:
            following = min(position + _OFFSETS_AT_ONCE, part.next)
            found = self.decisions.first(OffsetRange(part.partition, position, following))
            files.add(found, days_of(found, "decided_at", datetime.now(UTC).date()))
            rows += len(found)
            position = following
            self.moved[application(self.key, part.partition)] = (known, position)
            if files.bytes > _BYTES_A_COMMIT or files.days > _DAYS_A_COMMIT:
                account()
                self._commit(files)
                known = start = position
                rows = 0
        if position > start:
            account()

    def _redriven(self, known: int | None, files: DayFiles) -> None:
        """The second decision of events that were rejected first."""
        until = known
        while batch := self.decisions.redriven(until):
            found, until = batch
            files.add(found, days_of(found, "decided_at", datetime.now(UTC).date()))
            self.moved[f"{self.key}/redriven"] = (known, until)

    def _commit(self, files: DayFiles) -> None:
        rows = files.rows
        added = [self.table.upload(staged, self.key) for staged in files.finish()]
        gc.collect()
        self.table.commit(added, self.moved, said={"run": "archive of decisions"})
        self.report.rows += rows
        self.log.info("stored %d decisions in %d files", rows, len(added))
        for covered, gone in self.gone:
            self.report.gone += gone
            self.log.warning(
                "partition %d: %d decisions of offsets %d to %d had left Postgres before they were "
                "archived: their time partition was dropped, or their applicant forgotten",
                *(covered.partition, gone, covered.first, covered.next - 1),
            )
        self.moved, self.gone = {}, []
