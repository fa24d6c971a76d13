"""Rows keep every byte, and names of files tell what they hold."""

from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from credit_risk_dagster.domain.lake_rows import SourceKey, from_raw_rows, raw_rows
from credit_risk_dagster.domain.raw_events import Coordinates, file_name, parse_key, root

DAY = 86_400_000

events = st.lists(
    st.tuples(st.integers(-1, 4 * DAY), st.none() | st.binary(max_size=4), st.none() | st.binary()),
    max_size=40,
)


def batch_of(rows: list[tuple[int, bytes | None, bytes | None]]) -> pa.RecordBatch:
    moments = np.array([row[0] for row in rows], np.int64)
    return raw_rows(
        *(np.full(len(rows), 3, np.int32), np.arange(len(rows)), moments),
        *([row[1] for row in rows], [row[2] for row in rows], moments),
        *(np.zeros(len(rows), np.int64), [None] * len(rows)),
    )


@given(events)
def test_the_columns_keep_every_byte(rows: list[tuple[int, bytes | None, bytes | None]]) -> None:
    found = from_raw_rows(batch_of(rows))
    assert found["offsets"].tolist() == [*range(len(rows))]
    assert found["timestamps"].tolist() == [row[0] for row in rows]
    assert (found["keys"], found["values"]) == ([r[1] for r in rows], [r[2] for r in rows])


def test_keys_tell_partitions_ranges_and_sources_apart() -> None:
    source = SourceKey("cluster.of-ours", None, 0)
    assert SourceKey.parse(str(source)) == source
    sha256 = 64 * "a"
    key = f"{root('loans')}/day=2026-01-02/{file_name(source, 3, 10, 20)}-{sha256}.parquet"
    found = Coordinates(date(2026, 1, 2), 3, 10, 20, sha256)
    assert parse_key(key) == found
    before = "raw_events/loans/dt=2026-01-02/p3/10-19.parquet"
    assert parse_key(before) == replace(found, sha256=None)
    assert parse_key("raw_events/loans/_delta_log/00000000000000000000.json") is None
    others = [SourceKey("cluster", None, 0), SourceKey("cluster", None, 1)]
    others.append(SourceKey("cluster", "id", 0))
    assert len({file_name(other, 3, 10, 20) for other in others}) == 3
