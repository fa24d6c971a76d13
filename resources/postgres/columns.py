"""Columns into Postgres and out of it, streamed: no Python object for each value.

In a binary COPY of columns of fixed width that are never null, all rows have one length, and NumPy
reads them as they are: a million rows of ten columns take about a second.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, LiteralString

import numpy as np
import numpy.typing as npt
import pgpq
import psycopg
import pyarrow as pa
from psycopg import sql

_HEADER_BYTES = 19  # signature, flags, length of the (empty) extension
_TRAILER = b"\xff\xff"
_CHUNK_BYTES = 2**20

Columns = dict[str, npt.NDArray[Any]]


def read_columns(
    connection: psycopg.Connection[Any],
    query: LiteralString,
    parameters: Mapping[str, Any],
    types: Mapping[str, str],
) -> Columns:
    """Run a query and return its columns, each as one array.

    Args:
        query: a SELECT whose columns are never null.
        parameters: those of the query.
        types: name and NumPy type of each column, in order: f8 (double precision), i8 (bigint, and
            timestamptz as microseconds since 2000), i4 (integer), i2 (smallint).

    Raises:
        ValueError: the query has other columns, or a null.
    """
    lengths = {name: np.dtype(kind).itemsize for name, kind in types.items()}
    pairs = [((f"{name} length", ">i4"), (name, f">{kind}")) for name, kind in types.items()]
    row = np.dtype([("columns", ">i2"), *(field for pair in pairs for field in pair)])
    parts = {name: [np.empty(0, kind)] for name, kind in types.items()}

    def take(data: bytearray) -> bytearray:
        """Move the whole rows into `parts`; what is left over is returned."""
        count = len(data) // row.itemsize
        rows = np.frombuffer(bytes(data), row, count)
        if (rows["columns"] != len(types)).any():
            raise ValueError(f"the query has other columns than {', '.join(types)}")
        for name, length in lengths.items():
            if (rows[f"{name} length"] != length).any():
                raise ValueError(f"column {name} has a null, or is not of {length} bytes")
            parts[name].append(rows[name].astype(types[name]))
        return data[count * row.itemsize :]

    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(sql.SQL(query))
    with connection.cursor() as cursor, cursor.copy(statement, parameters) as copy:
        pending = bytearray(copy.read())[_HEADER_BYTES:]
        for data in copy:
            pending += data
            if len(pending) >= _CHUNK_BYTES:
                pending = take(pending)
    if take(pending) != _TRAILER:  # a row of another length than all others
        raise ValueError(f"the query has a null, or other types than {dict(types)}")
    return {name: np.concatenate(parts.pop(name)) for name in types}


def copy_batch(
    connection: psycopg.Connection[Any], table: LiteralString, batch: pa.RecordBatch
) -> None:
    """COPY a record batch; its column names are the table's."""
    encoder = pgpq.ArrowToPostgresBinaryEncoder(batch.schema)
    statement = _copy_into(table, tuple(batch.schema.names))
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


def insert_batch(
    connection: psycopg.Connection[Any], table: LiteralString, batch: pa.RecordBatch
) -> None:
    """INSERT a record batch; its column names are the table's. Slower than `copy_batch` for many
    rows; but it may be one of a pipeline's statements, and so cost no round trip."""
    columns = [column.to_pylist() for column in batch.columns]
    kinds = tuple(_KINDS[field.type] for field in batch.schema)
    connection.execute(_insert_into(table, tuple(batch.schema.names), kinds), columns)


_KINDS: dict[pa.DataType, LiteralString] = {
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.string(): "text",
    pa.binary(): "bytea",
    pa.timestamp("us", "UTC"): "timestamptz",
}


@cache
def _insert_into(
    table: LiteralString, columns: tuple[str, ...], kinds: tuple[LiteralString, ...]
) -> bytes:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    arrays = sql.SQL(", ").join(sql.SQL("%b::{}[]").format(sql.SQL(kind)) for kind in kinds)
    statement = sql.SQL("INSERT INTO {} ({}) SELECT * FROM unnest({})")
    return statement.format(sql.Identifier(table), names, arrays).as_bytes()


@cache
def _copy_into(table: LiteralString, columns: tuple[str, ...]) -> bytes:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)")
    return statement.format(sql.Identifier(table), names).as_bytes()


def constant(value: int, length: int, kind: pa.DataType) -> pa.Array:
    """A column that has the same value in every row."""
    return pa.repeat(pa.scalar(value, kind), length)
