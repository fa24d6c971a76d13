"""The upkeep of the lake's tables: a day's small files become few, and what was replaced goes.

Rows, their order and the progress of who writes stay what they are: a merge is a commit that names
files that go and the one with their rows. Where another commit took one of them first, it is
refused, and the next run does it.
"""

import logging
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from credit_risk_dagster.domain.lake_rows import SourceKey
from credit_risk_dagster.domain.raw_events import file_name
from credit_risk_dagster.pipelines.archive_mirror import mirror
from credit_risk_dagster.pipelines.lake_history import there
from resources.lake import Lake, ObjectMissing
from resources.lake_tables import DataFile, LakeDamaged, LakeMoved, LakeTable
from resources.parquet_files import FileWriter
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse

TARGET_BYTES = 128 * 2**20
# Each is open while they are merged; what is more than that is merged again.
_FILES_A_MERGE = 200
_RANGE = re.compile(r"/p(\d+)/(\d+)-(\d+)(?=-|\.parquet)")


@dataclass
class Upkeep:
    """What was done to a table.

    Attributes:
        before, files: files of the newest version, before and after.
        merged, merges: files that went into so many larger ones.
        refused: merges that another commit came before.
        vacuumed: objects that were deleted.
        log_objects: of the table's log, afterwards.
        damaged: what is wrong with files that could not be merged.
    """

    table: str
    before: int = 0
    files: int = 0
    rows: int = 0
    bytes: int = 0
    merged: int = 0
    merges: int = 0
    refused: int = 0
    vacuumed: int = 0
    log_objects: int = 0
    seconds: float = 0.0
    damaged: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, float]:
        """What can be counted, by name."""
        return {n: value for n, value in vars(self).items() if isinstance(value, int | float)}


def maintain(
    warehouse: Warehouse,
    lake: Lake,
    topic: str,
    keep: timedelta,
    *,
    target: int = TARGET_BYTES,
    log: logging.Logger,
) -> list[Upkeep]:
    """Compact, vacuum and checkpoint each of a topic's tables.

    Args:
        warehouse: mirrors what the raw events' table has.
        keep: for how long what was replaced, and the log, stay: older versions are read with them.
        target: bytes of a file, beyond which nothing is merged.

    Raises:
        TableMissing, LakeUnavailable, LakeRefused, WarehouseUnavailable, NotMigrated.
        LakeDamaged: of the first file that cannot be read, after all others were merged.
    """
    found = there(lake, topic)
    with warehouse.session("maintenance") as connection:
        lossy = ArchiveLedger(connection).lossy()
    done = [
        maintain_table(name, table, keep, target=target, lossy=lossy, log=log)
        for name, table, _ in found
    ]
    with warehouse.session("maintenance") as connection:
        mirror(connection, found[0][1], topic)
    for table in done:
        if table.damaged:
            raise LakeDamaged(table.damaged[0])
    return done


def maintain_table(
    name: str,
    table: LakeTable,
    keep: timedelta,
    *,
    target: int,
    lossy: Collection[str] = (),
    log: logging.Logger,
) -> Upkeep:
    """The same of one table, where what is damaged is in the answer.

    Args:
        lossy: keys of files that lack an event of their offsets. They stay as they are: who gives
            it up does so by the file's offsets.
    """
    started = time.monotonic()
    done = Upkeep(name)
    ranges = name == "raw_events"  # its mirror in Postgres is by range
    files = _files(table)
    done.before = len(files)
    left = False
    while not left and (bins := _bins(files, ranges, target, _paths(table, lossy))):
        for few in bins:
            try:
                _merge(table, few, ranges)
            except LakeMoved as moved:
                log.warning("left to the next run: %s", moved)
                done.refused += 1
                left = True
            except (LakeDamaged, ObjectMissing) as error:
                log.warning("cannot be merged: %s", error)
                done.damaged.append(str(error))
                left = True
            else:
                done.merged += len(few)
                done.merges += 1
        log.info("%s: %d files were merged into %d", name, done.merged, done.merges)
        files = _files(table)
    done.vacuumed = len(table.vacuum(keep))
    table.checkpoint(keep)
    files = _files(table)
    done.files, done.rows = len(files), sum(file.rows for file in files)
    done.bytes = sum(file.bytes for file in files)
    done.log_objects = len(table.lake.sizes(f"{table.root}/_delta_log/"))
    done.seconds = time.monotonic() - started
    return done


def _files(table: LakeTable) -> list[DataFile]:
    snapshot = table.open()
    return snapshot.files() if snapshot else []


def _paths(table: LakeTable, keys: Collection[str]) -> set[str]:
    return {key.removeprefix(f"{table.root}/") for key in keys}


def _bins(
    files: Sequence[DataFile], ranges: bool, target: int, alone: Collection[str]
) -> list[list[DataFile]]:
    """Files of a source and day that one file can take the place of.

    Args:
        ranges: each file has rows of one partition. What is between those of a day is in files of
            other days, and not lost: all that touch each other are one range of the mirror.
        alone: paths of files that nothing is merged with.
    """
    if ranges:
        files = sorted(files, key=lambda file: (file.source, *_range(file)))
    bins: list[list[DataFile]] = []
    filling: dict[tuple[str, date, int], list[DataFile]] = {}
    chain, reached = 0, ("", 0, 0)
    for file in files:
        if ranges:
            partition, first, following = _range(file)
            touches = reached[:2] == (file.source, partition) and first <= reached[2]
            if not touches or file.path in alone:
                chain += 1
            if touches:
                following = max(following, reached[2])
            # After one that stays alone nothing touches it.
            reached = file.source, partition, -1 if file.path in alone else following
        few = filling.get((file.source, file.day, chain), [])
        if (
            not few
            or sum(it.bytes for it in few) + file.bytes > target
            or len(few) == _FILES_A_MERGE
        ):
            few = filling[file.source, file.day, chain] = []
            bins.append(few)
        few.append(file)
    return [few for few in bins if len(few) > 1]


def _range(file: DataFile) -> tuple[int, int, int]:
    """Partition, first and following offset of a file, as its name says."""
    partition, first, last = map(int, _RANGE.findall(file.path)[-1])
    return partition, first, last + 1


def _merge(table: LakeTable, files: Sequence[DataFile], ranges: bool) -> None:
    """Commit one file in the place of several, which have the same day, by partition and offset.

    Raises:
        LakeMoved: one of them is no longer the table's; nothing changed.
    """
    name = None
    if ranges:
        (partition, first, _), following = _range(files[0]), _range(files[-1])[2]
        name = file_name(SourceKey.parse(files[0].source), partition, first, following)
    with FileWriter(files[0].day, table.columns) as writer:
        for rows in table.read(files):
            writer.add(rows)
        if writer.staged.rows != (logged := sum(file.rows for file in files)):
            raise LakeDamaged(
                f"{table.uri}: {len(files)} files from {files[0].path} on have "
                f"{writer.staged.rows:,} rows, and {logged:,} by the table's log"
            )
        replace_files(table, files, writer, name, "compaction")


def replace_files(
    table: LakeTable, old: Sequence[DataFile], new: FileWriter, name: str | None, run: str
) -> None:
    """Commit a file that was written in the place of others, of the same source; none, where it has
    no row.

    Raises:
        LakeMoved: nothing changed, and no object was left.
    """
    staged = new.finish()
    added = [table.upload(staged, SourceKey.parse(old[0].source), name)] if staged.rows else []
    try:
        table.commit(added, {}, removed=old, said={"run": run})
    except LakeMoved:
        present = {file.path for file in _files(table)}
        for file, _ in added:
            # A commit of which the answer was lost is refused when it is tried again.
            if file.path in present:
                return
            table.lake.delete(table.key(file.path))
        raise
