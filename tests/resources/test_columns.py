"""Columns of a large query as arrays, from a real server."""

from collections.abc import Iterator
from typing import Any, LiteralString

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from resources.postgres.columns import copy_batch, insert_batch, read_columns


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url) as connection:
        yield connection


def test_columns_of_every_type_over_many_chunks(connection: psycopg.Connection[Any]) -> None:
    columns = read_columns(
        connection,
        """
        SELECT CASE WHEN i %% 3 = 0 THEN 'NaN' ELSE i / 4.0 END::float8, i::bigint << 40,
               -i::integer, (i %% 7)::smallint, timestamptz '2000-01-01 UTC' + i * interval '1 s'
          FROM generate_series(1, %(rows)s) AS i
        """,
        {"rows": 100_000},
        {"share": "f8", "offset": "i8", "number": "i4", "code": "i2", "at": "i8"},
    )
    i = np.arange(1, 100_001)
    assert {name: values.dtype.str for name, values in columns.items()} == {
        "share": "<f8",
        "offset": "<i8",
        "number": "<i4",
        "code": "<i2",
        "at": "<i8",
    }
    assert np.array_equal(columns["share"], np.where(i % 3, i / 4, np.nan), equal_nan=True)
    assert np.array_equal(columns["offset"], i * 2**40)
    assert np.array_equal(columns["number"], -i)
    assert np.array_equal(columns["code"], i % 7)
    assert np.array_equal(columns["at"], i * 1_000_000)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows(connection: psycopg.Connection[Any], rows: int) -> None:
    query: LiteralString = "SELECT i FROM generate_series(1, %(rows)s) AS i"
    columns = read_columns(connection, query, {"rows": rows}, {"i": "i4"})
    assert columns["i"].tolist() == list(range(1, rows + 1))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT NULL::float8, 1",
        "SELECT 1::float8, NULL::integer",
        "SELECT i::float8, nullif(i, 90000)::integer FROM generate_series(1, 100000) AS i",
        "SELECT 1::float8, 1::bigint",
        "SELECT 1::float8",
        "SELECT 1::float8, 1, 1",
    ],
)
def test_what_is_not_of_fixed_width_is_refused(
    connection: psycopg.Connection[Any], query: LiteralString
) -> None:
    with pytest.raises(ValueError, match=r"column|null"):
        read_columns(connection, query, {}, {"a": "f8", "b": "i4"})


def test_rows_are_the_same_inserted_or_copied(connection: psycopg.Connection[Any]) -> None:
    names = ("few", "large", "words", "data", "at")
    rows = pa.RecordBatch.from_arrays(
        [
            pa.array([1, None, -(2**31)], pa.int32()),
            pa.array([2**62, 0, None], pa.int64()),
            pa.array(['a, {b} \\ "c"', "", None]),
            pa.array([b"\x00\xff\\x", None, b""], pa.binary()),
            pa.array([0, 4_102_444_799_999_000, None], pa.timestamp("us", "UTC")),
        ],
        names=names,
    )
    found = {}
    for table, write in (("inserted", insert_batch), ("copied", copy_batch)):
        connection.execute(
            f"CREATE TEMP TABLE {table}"
            " (few int, large bigint, words text, data bytea, at timestamptz)"
        )
        write(connection, table, rows)
        found[table] = connection.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()
    assert found["inserted"] == found["copied"]
    assert [list(row) for row in zip(*found["copied"], strict=True)] == [
        column.to_pylist() for column in rows.columns
    ]
