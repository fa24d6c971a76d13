"""Parquet files of rows that are in order: written by day in bounded memory, and read back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.columns import where

CONTENT_TYPE = "application/vnd.apache.parquet"
# Measured over real loans (tests/benchmarks/archive.py): level 3 packs 10.7 to 1 at 350 MB/s; 6 and
# 9 gain a fifth and take five times as long. Row groups of 1, 8 and 32 MiB differ by a hundredth,
# so they are small, for the memory's sake.
COMPRESSION_LEVEL = 3
ROW_GROUP_BYTES = 4 * 2**20
_PENDING_BYTES = 32 * 2**20
_ORDER = ("partition", "offset")
# Offsets and times hardly repeat: with dictionaries of them, files are a tenth larger.
_UNIQUE = (pa.types.is_binary, pa.types.is_int64, pa.types.is_timestamp)


@dataclass
class StagedFile:
    """A day's rows in a temporary file without a name, which a kill leaves nothing of."""

    day: date
    file: BinaryIO
    rows: int = 0
    least: dict[str, int] = field(default_factory=dict)
    greatest: dict[str, int] = field(default_factory=dict)

    def count(self, rows: pa.RecordBatch) -> None:
        """Take rows into the statistics."""
        self.rows += len(rows)
        for name in _ORDER:
            ends = pc.min_max(rows[name])
            low, high = ends["min"].as_py(), ends["max"].as_py()
            self.least[name] = min(self.least.get(name, low), low)
            self.greatest[name] = max(self.greatest.get(name, high), high)

    def statistics(self) -> dict[str, Any]:
        """As a Delta table's log has them."""
        return {"numRecords": self.rows, "minValues": self.least, "maxValues": self.greatest,
                "nullCount": dict.fromkeys(_ORDER, 0)}  # fmt: skip


class DayFiles:
    """A file for each day that has rows, all open at once; what is pending is bounded.

    Attributes:
        rows: those that were added.
    """

    def __init__(self, columns: pa.Schema) -> None:
        self._columns = columns
        self._open: dict[date, FileWriter] = {}
        self.rows = 0

    def __enter__(self) -> "DayFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._open.values():
            writer.staged.file.close()
        self._open = {}

    @property
    def days(self) -> int:
        return len(self._open)

    @property
    def bytes(self) -> int:
        """Bytes in the files, and at most those of what is pending."""
        return sum(writer.staged.file.tell() + writer.pending for writer in self._open.values())

    def add(self, rows: pa.RecordBatch, days: Any) -> None:
        """Append rows to the files of their days (datetime64[D], one for each row)."""
        if not len(rows):
            return
        self.rows += len(rows)
        if (days[0] == days).all():
            self._add(days[0].astype(object), rows)
        else:
            for day in np.unique(days):
                self._add(day.astype(object), where(rows, days == day))
        while sum(writer.pending for writer in self._open.values()) > _PENDING_BYTES:
            max(self._open.values(), key=lambda writer: writer.pending).flush()

    def _add(self, day: date, rows: pa.RecordBatch) -> None:
        if day not in self._open:
            self._open[day] = FileWriter(day, self._columns)
        self._open[day].add(rows)

    def finish(self) -> Iterator[StagedFile]:
        """The files by day, each closed when the next one is asked for; then none is open."""
        for day in sorted(self._open):
            writer = self._open.pop(day)
            with writer.staged.file:
                yield writer.finish()
        self.rows = 0


class FileWriter:
    """A day's rows, which come in order, as a file; without a name until it is finished."""

    def __init__(self, day: date, columns: pa.Schema, group_bytes: int = ROW_GROUP_BYTES) -> None:
        import pyarrow.parquet as pq

        self.staged = StagedFile(day, TemporaryFile(prefix="credit-risk-lake-"))  # noqa: SIM115
        self.pending = 0
        self._columns = columns
        self._group_bytes = group_bytes
        self._group: list[pa.RecordBatch] = []
        self._parquet = pq.ParquetWriter(
            self.staged.file,
            columns,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=[f.name for f in columns if not any(is_it(f.type) for is_it in _UNIQUE)],
            # Of bytes, the smallest and greatest tell nothing, and a footer full of them costs.
            write_statistics=[f.name for f in columns if pa.types.is_primitive(f.type)],
        )

    def __enter__(self) -> "FileWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which is gone then."""
        self._parquet.close()
        self.staged.file.close()

    def add(self, rows: pa.RecordBatch) -> bool:
        """Append rows; each row group is written when it is full. Returns whether one was."""
        written = self.staged.file.tell()
        self.staged.count(rows)
        # The group ends with the row that fills it.
        while len(rows):
            room = self._group_bytes - self.pending
            fits = max(1, int(len(rows) * room / max(rows.nbytes, 1)))
            self._group.append(rows.slice(0, fits))
            self.pending += max(1, self._group[-1].nbytes)
            rows = rows.slice(fits)
            if self.pending >= self._group_bytes or len(rows):
                self.flush()
        return self.staged.file.tell() > written

    def flush(self) -> None:
        """Write what is pending as a row group."""
        if self._group:
            # Whole, because Parquet's pages would otherwise follow how the rows arrived.
            table = pa.Table.from_batches(self._group, self._columns).combine_chunks()
            self._parquet.write_table(table, row_group_size=len(table))
            self._group, self.pending = [], 0
            del table
            pa.default_memory_pool().release_unused()

    def finish(self) -> StagedFile:
        """The whole file, which closes with the writer."""
        self.flush()
        self._parquet.close()
        return self.staged


def groups_in_order(files: Sequence[Any]) -> Iterator[tuple[int, int, int]]:
    """Where rows are, so that they come by partition and offset.

    Args:
        files: open `ParquetFile`s whose row groups are in order within each partition, and of
            which no two have the same offsets.

    Yields:
        partition, position of the file, row group; a group of several partitions comes with each.
    """
    found = []
    for at, parquet in enumerate(files):
        names = parquet.schema_arrow.names
        for group in range(parquet.num_row_groups):
            metadata = parquet.metadata.row_group(group)
            stats = [metadata.column(names.index(name)).statistics for name in _ORDER]
            if all(s is not None and s.has_min_max for s in stats) and stats[0].min == stats[0].max:
                found.append((stats[0].min, stats[1].min, at, group))
                continue
            rows = parquet.read_row_group(group, columns=list(_ORDER))
            firsts = rows.group_by("partition").aggregate([("offset", "min")])
            for row in firsts.to_pylist():
                found.append((row["partition"], row["offset_min"], at, group))
    for partition, _, at, group in sorted(found):
        yield partition, at, group


def read_group(parquet: Any, group: int, wanted: pa.Schema, partition: int) -> pa.Table:
    """A partition's rows of a row group, with these columns; one that it has not is null."""
    there = [name for name in wanted.names if name in parquet.schema_arrow.names]
    rows = parquet.read_row_group(group, columns=sorted({*there, "partition"}))
    rows = rows.filter(pc.equal(rows["partition"], partition))
    columns = [
        rows[f.name].cast(f.type) if f.name in there else pa.nulls(len(rows), f.type)
        for f in wanted
    ]
    return pa.Table.from_arrays(columns, schema=wanted)
