"""The format of the raw events' table: which events make a file, and how it is called.

A file holds a range of one partition's offsets. Everything about it follows from the events
themselves and never from how they arrived, so that a second try makes the same file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.columns import array_of, scalar
from credit_risk_dagster.domain.lake_rows import RAW_EVENTS, SourceKey, days_of

PREFIX = "raw_events"
CONTENT_TYPE = "application/vnd.apache.parquet"

COLUMNS = RAW_EVENTS
_NONE = scalar(0, pa.int32())
_KEY = re.compile(
    PREFIX + r"/([^/]+)/(?:dt|day)=(\d{4}-\d\d-\d\d)/(?:[0-9a-f]{8}/)?p(\d+)/(\d+)-(\d+)"
    r"(?:-([0-9a-f]{64}))?\.parquet"
)


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


def root(topic: str) -> str:
    """Prefix of the keys of a topic's table, without the slash."""
    return f"{PREFIX}/{topic}"


def file_name(source: SourceKey, partition: int, first: int, following: int) -> str:
    """How a file of the table is called below its day, before its checksum."""
    return f"{source.short}/p{partition}/{first}-{following - 1}"


@dataclass(frozen=True)
class Coordinates:
    """What a key says of its object."""

    folder: str
    day: date
    partition: int
    first: int
    following: int
    sha256: str | None


def parse_key(key: str) -> Coordinates | None:
    """What a key says, also one of the layout before; None for a key of something else."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    folder, day, partition, first, last, sha256 = found.groups()
    ends = int(first), int(last) + 1
    return Coordinates(folder, date.fromisoformat(day), int(partition), *ends, sha256)


def day_prefix(key: str) -> str:
    """Where the keys of the same folder and day begin."""
    return "/".join(key.split("/")[:3]) + "/"


class Cutter:
    """Deals consecutive batches of one partition out to objects and row groups.

    The day of an object is that of its first event. An event of a later day begins a new object;
    one of an earlier day, which came late, stays where it was read: a stream whose timestamps go
    back and forth would otherwise be cut into as many objects as events.

    Args:
        limits: bounds of objects and row groups.
        today: the day of an event whose time is none, or lies beyond tomorrow.
    """

    def __init__(self, limits: Limits, today: date) -> None:
        self._limits = limits
        self._today = today
        self._day: np.datetime64 | None = None
        self._events = self._group_bytes = 0
        self._full = False

    def close_object(self) -> None:
        """The object is big enough; the next event begins another one."""
        self._full = True

    def spans(self, batch: pa.RecordBatch) -> Iterator[Span]:
        """Cut a batch. `close_object` may be called between two of its spans."""
        days = days_of(batch, "timestamp", self._today)
        ends = np.cumsum(_sizes(batch))
        position = 0
        while position < len(batch):
            opens: date | None = None
            later = self._day is not None and days[position] > self._day
            if self._day is None or self._full or later:
                self._day, self._events, self._group_bytes = days[position], 0, 0
                self._full = False
                opens = self._day.astype(object)
            following = np.flatnonzero(days[position:] > self._day)
            stop = position + int(following[0]) if len(following) else len(batch)
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
    lengths = [array_of(pc.binary_length(batch[n]).fill_null(_NONE)) for n in ("key", "value")]
    return np.add(*lengths, dtype=np.int64) + 24
