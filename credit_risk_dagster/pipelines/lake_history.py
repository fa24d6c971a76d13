"""Reading the lake's raw events: as of a version or a time, a day of a source at a time."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.lake_rows import DECISIONS, RAW_EVENTS, SourceKey
from credit_risk_dagster.domain.raw_events import root
from credit_risk_dagster.errors import PlatformError
from resources.lake import Lake
from resources.lake_tables import DataFile, LakeTable, Snapshot

_LOG_ENTRY = re.compile(r"(\d{20})\.")
_SCORED = ("partition", "offset", "timestamp", "key", "value", "headers")
Day = tuple[date, SourceKey, Iterator[pa.RecordBatch]]


class TableMissing(PlatformError):
    """Nothing was written to the table yet."""


class QueryRefused(PlatformError):
    """A query that the tables cannot answer."""


class NoMoment(PlatformError):
    """A text that names neither a version nor a time."""


def moment(at: str | None) -> int | datetime | None:
    """A version or a time (UTC, where it says no zone) of a table; None for no text.

    Raises:
        NoMoment: it is another text.
    """
    if at is None:
        return None
    try:
        if at.isdecimal() and int(at) < 2**63:
            return int(at)
        found = datetime.fromisoformat(at)
    except ValueError as error:
        raise NoMoment(
            f"at {at!r}: neither a version of the table, as 12, nor a time, as 2026-11-28T19:00"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def tables(lake: Lake, topic: str) -> dict[str, LakeTable]:
    """A topic's tables by their names in SQL."""
    return {
        "raw_events": LakeTable(lake, root(topic), RAW_EVENTS),
        "decisions": LakeTable(lake, f"decisions/{topic}", DECISIONS),
    }


def there(
    lake: Lake, topic: str, at: int | datetime | None = None
) -> list[tuple[str, LakeTable, Snapshot]]:
    """Name, table and what it was at a version or time, of each that there is.

    Raises:
        TableMissing: none is there.
        QueryRefused: a version, where several are there.
        LakeUnavailable, LakeRefused.
    """
    known = tables(lake, topic)
    found = [(name, table, now) for name, table in known.items() if (now := table.open())]
    if not found:
        raise _missing(known["raw_events"])
    _require_a_time(at, [name for name, _, _ in found])
    if at is None:
        return found
    return [(name, table, then) for name, table, _ in found if (then := table.open(at))]


def _require_a_time(at: int | datetime | None, names: Sequence[str]) -> None:
    if isinstance(at, int) and len(names) > 1:
        raise QueryRefused(
            f"version {at} is of one table, and {' and '.join(names)} have versions of their own: "
            "give a time of `credit-risk lake history`"
        )


def _missing(table: LakeTable) -> TableMissing:
    return TableMissing(f"{table.uri} is no table yet: the first run that archives makes it")


def ask(
    lake: Lake, topic: str, sql: str, at: int | datetime | None = None, limit: int = 1_000
) -> tuple[list[str], list[tuple[Any, ...]], bool]:
    """Answer one SELECT in DataFusion's SQL.

    Args:
        sql: names the tables as `tables` does; those that it does not name are not opened.
        at: version or time of the tables.
        limit: most rows.

    Returns:
        The columns' names, the rows (bytes as text), and whether there are more.

    Raises:
        QueryRefused: it is no query, or asks for what is not there, or for a version of two tables.
        TableMissing, LakeUnavailable, LakeRefused.
    """
    from deltalake import QueryBuilder
    from deltalake.exceptions import DeltaError

    builder = QueryBuilder()
    known = tables(lake, topic)
    named = [name for name in known if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
    _require_a_time(at, named)
    for name in named:
        snapshot = known[name].open(at)
        if snapshot is None:
            raise _missing(known[name])
        builder.register(name, snapshot.table)
    sql = sql.strip().rstrip(";")
    try:
        # In brackets there can be nothing but a query, so that no statement writes a file. It is
        # asked without them: they cost it its order.
        builder.execute(f"EXPLAIN SELECT * FROM (\n{sql}\n) AS asked")  # noqa: S608
        answer = pa.RecordBatchReader.from_stream(builder.execute(sql))
        rows: list[tuple[Any, ...]] = []
        for batch in answer:
            columns = [map(_text, column.to_pylist()) for column in batch.columns]
            rows += zip(*columns, strict=True)
            if len(rows) > limit:
                break
    except (DeltaError, OSError, pa.ArrowException) as error:
        said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:400]
        raise QueryRefused(
            f"the query is not possible: {said} (one SELECT, over {', '.join(known)})"
        ) from error
    return answer.schema.names, rows[:limit], len(rows) > limit


def _text(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def copied(table: LakeTable, snapshot: Snapshot, directory: Path) -> Iterator[Path]:
    """Copy a table into a folder as it is at a version: any reader of Delta tables opens it there.

    Yields each file when it is there; data files are compared with their checksums.

    Raises:
        ObjectMissing, LakeUnavailable, LakeRefused, LakeDamaged.
    """
    log = f"{table.root}/_delta_log/"
    for file in snapshot.files():
        with table.fetched(file) as content:
            yield _written(directory / table.key(file.path), content)
    for key in table.lake.sizes(log):
        number = _LOG_ENTRY.match(key.removeprefix(log))
        if number and int(number[1]) <= snapshot.version:
            with TemporaryFile() as content:
                table.lake.get(key, content)
                content.seek(0)
                yield _written(directory / key, content)


def _written(path: Path, content: BinaryIO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as file:
        copyfileobj(content, file)
    return partial.replace(path)


class RawEvents:
    """The raw events of a topic as they were at a version of their table.

    Args:
        lake, topic: whose.
        at: version or time; without, as they are now.

    Raises:
        TableMissing, LakeUnavailable, LakeRefused.
    """

    def __init__(self, lake: Lake, topic: str, at: int | datetime | None = None) -> None:
        self.topic = topic
        self._table, self._decisions = (
            tables(lake, topic)[name] for name in ("raw_events", "decisions")
        )
        snapshot = self._table.open(at)
        if snapshot is None:
            raise _missing(self._table)
        self._snapshot = snapshot
        # Of a version, what was decided when it was written: each of its events had been, before.
        self._until = at if isinstance(at, datetime) else None
        if isinstance(at, int):
            self._until = max((file.added_at for file in snapshot.files()), default=None)

    @property
    def version(self) -> int:
        return self._snapshot.version

    def sources(self) -> list[SourceKey]:
        """Every source of which there is an event."""
        return self._snapshot.sources()

    def progress(self, source: SourceKey, partitions: Sequence[int]) -> dict[int, int]:
        """The next offset of each partition that the table has of a source."""
        return self._snapshot.progress(source, partitions)

    def days(self, since: date | None = None, until: date | None = None) -> Iterator[Day]:
        """Each day of each source with what was recorded then, by partition and offset.

        Raises:
            ObjectMissing, LakeUnavailable, LakeRefused, LakeDamaged.
        """
        files = self._snapshot.files(since=since, until=until)
        for (day, source), found in groupby(files, key=lambda file: (file.day, file.source)):
            yield day, SourceKey.parse(source), self._table.read(list(found), _SCORED)

    def decisions(self, source: SourceKey, day: date) -> pa.Table:
        """Partition, offset, time and tier of what was decided of a source's events of a day, by
        time; whenever that was, or by the time, or the version's, that this is as of.

        Raises:
            ObjectMissing, LakeUnavailable, LakeRefused, LakeDamaged.
        """
        wanted = self._snapshot.files(source, since=day, until=day)
        snapshot = self._decisions.open()
        files = snapshot.files(source) if snapshot else []
        found = [file for file in files if any(_meet(file, raw) for raw in wanted)]
        names = ("partition", "offset", "decided_at", "risk_tier")
        columns = pa.schema([field for field in DECISIONS if field.name in names])
        rows = pa.Table.from_batches(self._decisions.read(found, names), columns)
        if self._until is not None:
            rows = rows.filter(pc.less_equal(rows["decided_at"], pa.scalar(self._until)))
        return rows.sort_by("decided_at")


def _meet(one: DataFile, other: DataFile) -> bool:
    """Whether two files may have rows at the same offset."""
    pairs = ((one.partitions, other.partitions), (one.offsets, other.offsets))
    return all(a is None or b is None or (a[0] <= b[1] and b[0] <= a[1]) for a, b in pairs)
