"""What the tables of the lake hold: their columns, whose rows they are, and of which day."""

import hashlib
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.columns import array_of, binaries, numbers, scalar
from credit_risk_dagster.domain.record_time import NO_TIME

PARTITIONED_BY = pa.schema(
    [
        pa.field("day", pa.date32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
    ]
)
_TIME = pa.timestamp("us", "UTC")
_HEADER = pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())])
RAW_EVENTS = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", _TIME),
        pa.field("timestamp_ms", pa.int64()),
        pa.field("timestamp_type", pa.string()),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(_HEADER)),
    ]
)
"""timestamp is None where the number that the record has, timestamp_ms, can be no time."""

_TEXTS = pa.list_(pa.string())
_AMOUNTS = (
    *("loan_amnt", "annual_inc", "dti", "int_rate", "revol_util", "delinq_2yrs", "inq_last_6mths"),
    *("credit_history_years", "emp_length_yrs", "term_months"),
    *("annual_inc_primary", "dti_primary", "annual_inc_joint", "dti_joint"),
)
DECISIONS = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("decided_at", _TIME, nullable=False),
        pa.field("recorded_at", _TIME),
        *(
            pa.field(name, pa.string())
            for name in (
                *("outcome", "reject_reason", "loan_id", "policy", "policy_hash", "model", "arm"),
                *("risk_tier", "recommendation"),
            )
        ),
        pa.field("early_warning", pa.bool_()),
        pa.field("reasons", _TEXTS),
        *(pa.field(name, pa.string()) for name in ("dti_band", "util_band", "rate_band")),
        pa.field("pd", pa.float64()),
        pa.field("pd_reasons", _TEXTS),
        pa.field("event_time", _TIME),
        pa.field("issue_d", pa.date32()),
        *(pa.field(name, pa.float64()) for name in _AMOUNTS),
        *(
            pa.field(name, pa.string())
            for name in (
                *("purpose", "grade", "addr_state", "home_ownership", "loan_status"),
                *("application_type", "figures"),
            )
        ),
    ]
)
"""A row for each event that was decided, scored or rejected for a reason; and one more for one that
was rejected and scored after all. The greatest decided_at of an offset counts."""

_NEVER = scalar(np.iinfo(np.int64).max, pa.int64())
SEPARATOR = "\x1f"  # between the texts of a list, where it is one text
_TYPES = binaries([b"CreateTime", b"LogAppendTime", None]).cast(pa.string())


@dataclass(frozen=True)
class SourceKey:
    """A topic of a cluster in one of its epochs, by what does not depend on a database."""

    cluster_id: str
    topic_id: str | None
    epoch: int

    def __str__(self) -> str:
        return f"{self.cluster_id}.{self.topic_id or '-'}.{self.epoch}"

    @property
    def short(self) -> str:
        """As the names of files have it: eight hexadecimal digits."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:8]

    @classmethod
    def parse(cls, text: str) -> "SourceKey":
        """The reverse of `str`. Raises ValueError for another text."""
        cluster_id, topic_id, epoch = text.rsplit(".", 2)
        return cls(cluster_id, None if topic_id == "-" else topic_id, int(epoch))


def raw_rows(
    partitions: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.int64],
    keys: list[bytes | None],
    values: list[bytes | None],
    written: npt.NDArray[np.int64],
    clocks: npt.NDArray[np.int64],
    headers: list[list[tuple[str, bytes | None]] | None],
) -> pa.RecordBatch:
    """Records as rows of `RAW_EVENTS`.

    Args:
        timestamps: milliseconds since the epoch, `NO_TIME` without.
        written: what the records have there instead.
        clocks: position in `CLOCKS`; 2 where the record does not say.
        headers: by record; None where no record of the batch has any.
    """
    columns = [
        numbers(partitions),
        numbers(offsets),
        numbers(timestamps * 1000, timestamps != NO_TIME).cast(_TIME),
        numbers(written),
        _TYPES.take(numbers(clocks)),
        binaries(keys),
        binaries(values),
        _headers(headers) if any(headers) else pa.nulls(len(offsets), RAW_EVENTS.types[-1]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RAW_EVENTS)


def _headers(headers: list[list[tuple[str, bytes | None]] | None]) -> pa.Array:
    pairs = pa.array(headers, pa.map_(pa.string(), pa.binary()))
    both = pa.StructArray.from_arrays([pairs.keys, pairs.items], fields=list(_HEADER))
    return pa.ListArray.from_arrays(pairs.offsets, both, mask=pairs.is_null())


def from_raw_rows(rows: pa.RecordBatch) -> dict[str, Any]:
    """What the drain makes of the same records: partitions, offsets, timestamps, keys, values."""
    timestamps = rows["timestamp"].cast(pa.timestamp("ms", "UTC")).cast(pa.int64())
    return {
        "partitions": rows["partition"].to_numpy(),
        "offsets": rows["offset"].to_numpy(),
        "timestamps": timestamps.fill_null(NO_TIME).to_numpy(),
        "keys": rows["key"].to_pylist(),
        "values": rows["value"].to_pylist(),
    }


def headers_of(rows: pa.RecordBatch) -> list[list[tuple[str, bytes | None]] | None]:
    """The headers of raw events, as the drain gets them."""
    column = rows["headers"]
    if column.null_count == len(column):
        return [None] * len(column)
    return [
        of_one and [(header["key"], header["value"]) for header in of_one]
        for of_one in column.to_pylist()
    ]


def days_of(rows: pa.RecordBatch, column: str, today: date) -> npt.NDArray[Any]:
    """The day (UTC, datetime64[D]) of each row by a column of times.

    A row without a time, and one from after tomorrow, counts as today's: whatever a producer
    writes, it makes no day of its own.
    """
    now = np.datetime64(today, "D")
    micros = array_of(rows[column].cast(pa.int64()).fill_null(_NEVER))
    days = micros.view("datetime64[us]").astype("datetime64[D]")
    return np.where(days <= now + 1, days, now)


def written_type(column: pa.Field) -> pa.DataType:
    """How a column of `DECISIONS` is written where there are no lists."""
    return pa.string() if pa.types.is_list(column.type) else column.type


def decision_rows(written: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of `DECISIONS` of those that are written so, by partition, offset and time."""
    order = [(name, "ascending") for name in ("partition", "offset", "decided_at")]
    written = written.take(pc.sort_indices(written, order))
    columns = [
        _split(written[f.name]) if pa.types.is_list(f.type) else written[f.name] for f in DECISIONS
    ]
    return pa.RecordBatch.from_arrays(columns, schema=DECISIONS)


def _split(texts: pa.Array) -> pa.Array:
    """Lists of texts; of an empty text an empty list."""
    full = array_of(pc.binary_length(texts).fill_null(scalar(0, pa.int32()))) > 0
    lists = pc.split_pattern(texts.take(numbers(np.flatnonzero(full))), SEPARATOR)
    lengths = np.zeros(len(texts), np.int32)
    lengths[full] = array_of(pc.list_value_length(lists))
    offsets = numbers(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, lists.flatten(), type=_TEXTS, mask=texts.is_null())
