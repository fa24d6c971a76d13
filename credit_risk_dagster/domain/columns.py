"""Arrow columns of NumPy arrays and bytes, and back. `pa.array`, `to_numpy` and scalars that are no
Arrow's would do, and import pandas: 37 MB of a run that archives."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def numbers(values: npt.NDArray[Any], known: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers as a column, None where they are not known."""
    values = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [_bits(known), pa.py_buffer(values)])


def binaries(values: list[bytes | None]) -> pa.Array:
    """Bytes as a column."""
    whole = [value or b"" for value in values]
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, whole), np.int32, len(whole)), out=ends[1:])
    known = np.array([value is not None for value in values], np.bool_)
    buffers = [None if known.all() else _bits(known), pa.py_buffer(ends)]
    return pa.Array.from_buffers(
        pa.binary(), len(values), [*buffers, pa.py_buffer(b"".join(whole))]
    )


def array_of(column: pa.Array) -> npt.NDArray[Any]:
    """Numbers, all known, as they are in the column."""
    kind = np.dtype(column.type.to_pandas_dtype())
    if not len(column):
        return np.empty(0, kind)
    at = column.offset * kind.itemsize
    return np.frombuffer(column.buffers()[1], kind, len(column), at)


def where(rows: pa.RecordBatch, wanted: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """The rows that are wanted."""
    return rows.take(numbers(np.flatnonzero(wanted)))


def scalar(value: int, kind: pa.DataType) -> pa.Scalar:
    """A number for Arrow's functions."""
    return numbers(np.array([value], kind.to_pandas_dtype()))[0]


def _bits(known: npt.NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
