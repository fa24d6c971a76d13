"""The archive's format: which events make an object, its key and its Parquet columns.

An object holds a range of one partition's offsets. Everything about it follows from the events
themselves and never from how they arrived, so that a second try makes the same object.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.record_time import NO_TIME

PREFIX = "raw_events"
CONTENT_TYPE = "application/vnd.apache.parquet"

COLUMNS = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC")),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
_KEY = re.compile(PREFIX + r"/([^/]+)/dt=(\d{4}-\d\d-\d\d)/p(\d+)/(\d+)-(\d+)\.parquet")


@dataclass(frozen=True)
class Limits:
    """Bounds of one object: events, bytes of the file, and bytes of events in a row group."""

    events: int
    bytes: int
    row_group_bytes: int = 4 * 2**20


@dataclass(frozen=True)
class Span:
    """Consecutive rows of a batch; `opens` a new object, or goes on with the one before.

    Attributes:
        start, stop: positions in the batch.
        opens: day of the object that begins here, None when none does.
        flush: the row group is full after it.
    """

    start: int
    stop: int
    opens: date | None
    flush: bool


def other_folder(cluster_id: str, topic: str, epoch: int) -> str:
    """The folder of a source whose topic's own folder has the objects of another source.

    A topic that was recreated, or one of another cluster, has the same offsets on the same days.
    No topic can have such a name.
    """
    source = hashlib.sha256(f"{cluster_id}\0{topic}\0{epoch}".encode()).hexdigest()
    return f"{topic}@{source[:8]}"


def prefix(folder: str) -> str:
    """Where the keys of a folder begin."""
    return f"{PREFIX}/{folder}/"


def object_key(folder: str, day: date, partition: int, first: int, following: int) -> str:
    """Key of the object with offsets first <= offset < following."""
    return f"{prefix(folder)}dt={day.isoformat()}/p{partition}/{first}-{following - 1}.parquet"


@dataclass(frozen=True)
class Coordinates:
    """What a key says of its object."""

    folder: str
    day: date
    partition: int
    first: int
    following: int


def parse_key(key: str) -> Coordinates | None:
    """The reverse of `object_key`; None for a key of something else."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    folder, day, partition, first, last = found.groups()
    return Coordinates(folder, date.fromisoformat(day), int(partition), int(first), int(last) + 1)


def day_prefix(key: str) -> str:
    """Where the keys of the same folder and day begin."""
    return key[: key.index("/", key.index("/dt=") + 1) + 1]


def to_arrow(
    partition: int,
    offsets: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.int64],
    keys: list[bytes | None],
    values: list[bytes | None],
) -> pa.RecordBatch:
    """The columns of records; timestamps are milliseconds, `NO_TIME` without."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.full(len(offsets), partition, np.int32)),
            pa.array(offsets),
            pa.array(timestamps, mask=timestamps == NO_TIME).cast(COLUMNS.types[2]),
            pa.array(keys, pa.binary()),
            pa.array(values, pa.binary()),
        ],
        schema=COLUMNS,
    )


def from_arrow(batch: pa.RecordBatch) -> dict[str, Any]:
    """The reverse of `to_arrow`: offsets, timestamps, keys and values."""
    timestamps = batch["timestamp"].cast(pa.int64()).fill_null(NO_TIME)
    return {
        "offsets": batch["offset"].to_numpy(),
        "timestamps": timestamps.to_numpy(),
        "keys": batch["key"].to_pylist(),
        "values": batch["value"].to_pylist(),
    }


class Cutter:
    """Deals consecutive batches of one partition out to objects and row groups.

    The day of an object is that of its first event. An event of a later day begins a new object;
    one of an earlier day, which came late, stays where it was read: a stream whose timestamps go
    back and forth would otherwise be cut into as many objects as events.

    Args:
        limits: bounds of objects and row groups.
        day: everything belongs to one object of this day, whatever the limits.
    """

    def __init__(self, limits: Limits, day: date | None = None) -> None:
        self._limits = limits
        self._fixed = day is not None
        self._day: np.datetime64 | None = None
        self._given = day
        self._events = self._group_bytes = 0
        self._full = False

    def close_object(self) -> None:
        """The object is big enough; the next event begins another one."""
        self._full = not self._fixed

    def spans(self, batch: pa.RecordBatch) -> Iterator[Span]:
        """Cut a batch. `close_object` may be called between two of its spans."""
        timestamps = batch["timestamp"].cast(pa.int64()).fill_null(0).to_numpy()
        days = timestamps.view("datetime64[ms]").astype("datetime64[D]")
        ends = np.cumsum(_sizes(batch))
        position = 0
        while position < len(batch):
            opens: date | None = None
            later = not self._fixed and self._day is not None and days[position] > self._day
            if self._day is None or self._full or later:
                self._day, self._events, self._group_bytes = days[position], 0, 0
                self._full = False
                opens = self._given or self._day.astype(object)
            stop = len(batch)
            if not self._fixed:
                following = np.flatnonzero(days[position:] > self._day)
                stop = position + int(following[0]) if len(following) else stop
                stop = min(stop, position + self._limits.events - self._events)
            # The row group ends with the event that fills it.
            before = ends[position - 1] if position else 0
            room = self._limits.row_group_bytes - self._group_bytes
            filled = int(np.searchsorted(ends, before + room)) + 1
            flush = filled <= stop
            stop = min(stop, filled)
            self._events += stop - position
            self._group_bytes = 0 if flush else self._group_bytes + int(ends[stop - 1] - before)
            if self._events >= self._limits.events:
                self.close_object()
            yield Span(position, stop, opens, flush)
            position = stop


def _sizes(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Bytes of key and value of each row, and a few for the rest of it."""
    lengths = [pc.binary_length(batch[name]).fill_null(0).to_numpy() for name in ("key", "value")]
    return np.add(*lengths, dtype=np.int64) + 24
