"""Forgetting in the lake: forgotten rows leave its tables, and every object that has them goes.

The table is told first which events are forgotten, for good: so that each database that writes to
it, also one that is restored to before, forgets them with its next run that archives. A file with
such a row is replaced by one without it. Then whatever is not the tables' any more and has the row
is deleted at once: what was replaced now or by a merge before, what a run that died left, and the
originals of the layout before. So an older version of a table misses those files. What is to go is
`forgotten_offsets`, of which nobody has a name; a run that archives does what `forget` could not,
because it was interrupted or another run archived.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.lake_rows import SourceKey
from credit_risk_dagster.domain.loans import events_of, pattern
from credit_risk_dagster.domain.raw_events import PREFIX, parse_key
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.archive_migration import ADOPTED
from credit_risk_dagster.pipelines.archive_mirror import mirror
from credit_risk_dagster.pipelines.lake_history import tables
from credit_risk_dagster.pipelines.lake_maintenance import replace_files
from resources.lake import Lake
from resources.lake_tables import DataFile, LakeMoved, LakeTable, mark
from resources.parquet_files import FileWriter
from resources.postgres.forgetting import Forgettings
from resources.postgres.sources import Sources

_TRIES = 5
_NAME = re.compile(
    r"/(?P<source>[0-9a-f]{8})/p(?P<low>\d+)(?:-(?P<high>\d+))?"
    r"/(?P<first>\d+)-(?P<last>\d+)-[0-9a-f]{64}\.parquet$"
)
_CHECKSUM = re.compile(r"(-[0-9a-f]{64})?\.parquet$")
_Key = tuple[str, int, int]
LakePlace = tuple[SourceKey, int, int]
"""(source, partition, offset) of an event."""


class LakeBusy(PlatformError):
    """Others rewrite the same files again and again."""


def loan_places(lake: Lake, topic: str, loan_id: str) -> list[LakePlace]:
    """Where a loan's events are among the raw events: each that may carry it is decoded.

    Raises:
        LakeUnavailable, LakeRefused, LakeDamaged, ObjectMissing.
    """
    table = tables(lake, topic)["raw_events"]
    snapshot = table.open()
    found: list[LakePlace] = []
    suspect = pattern(loan_id)
    for file in snapshot.files() if snapshot else ():
        for rows in table.read([file], ("partition", "offset", "key", "value")):
            either = (pc.match_substring_regex(rows[name], suspect) for name in ("key", "value"))
            few = rows.filter(pc.or_(*(pc.fill_null(matches, False) for matches in either)))
            carrying = events_of(loan_id, few["value"].to_pylist(), few["key"].to_pylist())
            source = SourceKey.parse(file.source)
            found += [(source, p, at) for p, at in _pairs(few.take(pa.array(carrying, pa.int64())))]
    return found


def share_forgettings(
    connection: psycopg.Connection[Any], table: LakeTable, topic: str, *, log: logging.Logger
) -> None:
    """Tell the table what this database forgot, and forget what the table knows of others: of other
    databases that write to it, and of this one before it was restored.

    Raises:
        TablesBusy, LakeBusy, LakeUnavailable, LakeRefused.
    """
    forgettings = Forgettings(connection)
    keys = {s.source_id: str(s.key) for s in Sources(connection).all() if s.topic == topic}
    ids = {key: source_id for source_id, key in keys.items()}
    mine = {
        (keys[source_id], partition, at)
        for (source_id, partition), offsets in forgettings.offsets().items()
        if source_id in keys
        for at in offsets
    }
    _tried(table, lambda table: _mark(table, mine))
    told = table.create().forgotten() - mine
    if new := forgettings.unknown((ids[key], p, at) for key, p, at in told if key in ids):
        forgettings.forget(None, new, "the lake", "forgotten elsewhere, or before a restore")
        log.warning("%d events are forgotten, as the lake's table says", len(new))


def finish_forgettings(
    connection: psycopg.Connection[Any],
    lake: Lake,
    also: Collection[tuple[str, LakePlace]] = (),
    *,
    log: logging.Logger,
) -> bool:
    """Delete from the lake what was forgotten; the caller has the archive's lock, so that no file
    is about to be added. Safe to interrupt: it is gone on with by whoever calls this next.

    Args:
        also: places by topic, whether or not they are recorded.

    Returns:
        Whether the lake has nothing of it any more. Otherwise it has no table yet, or the objects
        of the layout before are not the table's yet.

    Raises:
        LakeBusy, LakeUnavailable, LakeRefused, LakeDamaged, ObjectMissing.
    """
    forgettings = Forgettings(connection)
    pending = forgettings.pending()
    sources = {source.source_id: source for source in Sources(connection).all()}
    wanted: dict[str, set[_Key]] = {}
    for source_id, partition, at in pending:
        source = sources[source_id]
        wanted.setdefault(source.topic, set()).add((str(source.key), partition, at))
    for topic, (key, partition, at) in also:
        wanted.setdefault(topic, set()).add((str(key), partition, at))
    for topic, of_it in wanted.items():
        ids = {str(s.key): s.source_id for s in sources.values() if s.topic == topic}
        if not _forget_topic(lake, topic, of_it, ids, forgettings, log):
            return False
        mirror(connection, tables(lake, topic)["raw_events"], topic)
    forgettings.close_lake(set(pending.values()))
    return True


def _forget_topic(
    lake: Lake,
    topic: str,
    wanted: set[_Key],
    ids: dict[str, int],
    forgettings: Forgettings,
    log: logging.Logger,
) -> bool:
    there = tables(lake, topic)
    raw = there["raw_events"].open()
    if raw is None or raw.transaction(ADOPTED) is None:
        return False
    places = _Places(wanted)
    found = [
        pair for table in there.values() for _, pairs in _found(table, places) for pair in pairs
    ]
    # Before they go, so that it is known whatever happens; who goes on finds fewer.
    forgettings.count_lake((ids[key], p, at) for key, p, at in found if key in ids)
    log.info("%d rows of topic %s are to go from the lake", len(found), topic)
    _tried(there["raw_events"], lambda table: _mark(table, wanted))
    for table in there.values():
        _tried(table, lambda table: _delete_rows(table, places))
        _delete_objects(table, places, log)
    for key in lake.sizes(f"{PREFIX}/{topic}@"):
        at = parse_key(key)
        if at and places.within((at.partition, at.partition), (at.first, at.following - 1)):
            lake.delete(key)
    return True


class _Places:
    """Places of events, by source and partition."""

    def __init__(self, places: Iterable[_Key]) -> None:
        found: dict[str, dict[int, list[int]]] = {}
        for source, partition, at in places:
            found.setdefault(source, {}).setdefault(partition, []).append(at)
        self._found = {
            source: {p: np.array(sorted(offsets)) for p, offsets in partitions.items()}
            for source, partitions in found.items()
        }

    def sources_of(self, key: str) -> list[str]:
        """The sources of which an object may have one, by its name; all, where that is silent."""
        name = _NAME.search(key)
        if name is None:
            return list(self._found)
        low, first, last = (int(name[at]) for at in ("low", "first", "last"))
        high = int(name["high"] or low)
        return [
            source
            for source in self._found
            if SourceKey.parse(source).short == name["source"]
            and self.within((low, high), (first, last), source)
        ]

    def within(
        self, partitions: tuple[int, int], offsets: tuple[int, int], source: str | None = None
    ) -> bool:
        """Whether one may be between these bounds, both inclusive."""
        low, high = offsets
        return any(
            partitions[0] <= partition <= partitions[1]
            and np.searchsorted(at, low) < np.searchsorted(at, high, side="right")
            for key, by_partition in self._found.items()
            if source in (None, key)
            for partition, at in by_partition.items()
        )

    def may_be_in(self, file: DataFile) -> bool:
        """Whether one may be in a file; what the log does not say may be anything."""
        if file.partitions is None or file.offsets is None:
            return file.source in self._found
        return self.within(file.partitions, file.offsets, file.source)

    def among(self, source: str, rows: pa.RecordBatch | pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows are at one."""
        partitions, offsets = (rows[name].to_numpy() for name in ("partition", "offset"))
        here = np.zeros(len(offsets), np.bool_)
        for partition, wanted in self._found.get(source, {}).items():
            of_it = partitions == partition
            here[of_it] = np.isin(offsets[of_it], wanted)
        return here


def _found(table: LakeTable, places: _Places) -> Iterator[tuple[DataFile, list[_Key]]]:
    """The table's files with rows at the places, and where those are."""
    snapshot = table.open()
    for file in snapshot.files() if snapshot else ():
        found: list[_Key] = []
        if places.may_be_in(file):
            for rows in table.read([file], ("partition", "offset")):
                at = rows.filter(pa.array(places.among(file.source, rows)))
                found += ((file.source, *pair) for pair in _pairs(at))
        if found:
            yield file, found


def _tried(table: LakeTable, step: Callable[[LakeTable], None]) -> None:
    for _ in range(_TRIES):
        with suppress(LakeMoved):
            return step(table)
    raise LakeBusy(f"{table.uri}: its files were rewritten {_TRIES} times meanwhile: try again")


def _mark(table: LakeTable, places: set[_Key]) -> None:
    if new := places - table.create().forgotten():
        table.commit([], {mark(*at): (None, 1) for at in new}, said={"run": "forgetting"})


def _delete_rows(table: LakeTable, places: _Places) -> None:
    for file, _ in _found(table, places):
        _rewrite(table, file, places)


def _rewrite(table: LakeTable, file: DataFile, places: _Places) -> None:
    """Replace a file by one without the rows at these places."""
    with FileWriter(file.day, table.columns) as writer:
        for rows in table.read([file]):
            left = rows.filter(pa.array(~places.among(file.source, rows)))
            if len(left):
                writer.add(left)
        name = _CHECKSUM.sub("", file.path.partition("/")[2])
        replace_files(table, [file], writer, name, "forgetting")


def _delete_objects(table: LakeTable, places: _Places, log: logging.Logger) -> None:
    """Delete the objects that are not the table's and have a row at one of the places.

    A merge that is under way may have such an object, too. It is refused: what it merges was just
    replaced.
    """
    snapshot = table.open()
    present = {table.key(file.path) for file in snapshot.files()} if snapshot else set()
    for key in table.lake.sizes(f"{table.root}/"):
        if key in present or not key.endswith(".parquet") or "/_delta_log/" in key:
            continue
        sources = places.sources_of(key)
        if any(places.among(s, rows).any() for s in sources for rows in _places_in(table, key)):
            table.lake.delete(key)
            log.info("deleted %s", key)


def _places_in(table: LakeTable, key: str) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    with TemporaryFile() as content, suppress(pa.ArrowInvalid):  # no Parquet: no row
        table.lake.get(key, content)
        content.seek(0)
        with pq.ParquetFile(content) as parquet:
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group, columns=["partition", "offset"])


def _pairs(rows: pa.RecordBatch) -> list[tuple[int, int]]:
    """Partition and offset of each row."""
    return list(zip(rows["partition"].to_pylist(), rows["offset"].to_pylist(), strict=True))
