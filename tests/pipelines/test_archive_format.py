"""What makes an object follows from the events, not from how they arrived."""

from dataclasses import replace
from datetime import date
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from credit_risk_dagster.domain.lake_rows import SourceKey, from_raw_rows, raw_rows
from credit_risk_dagster.domain.raw_events import (
    Coordinates,
    Cutter,
    Limits,
    day_prefix,
    file_name,
    parse_key,
    root,
)

DAY = 86_400_000
TODAY = date(1970, 2, 1)
LIMITS = Limits(events=7, bytes=10_000, row_group_bytes=200)

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


def cut(batch: pa.RecordBatch, edges: list[int]) -> list[tuple[date, list[list[int]]]]:
    """Objects, as their day and the offsets of each row group, when the rows come in pieces."""
    cutter = Cutter(LIMITS, TODAY)
    objects: list[tuple[date, list[list[int]]]] = []
    edges = [0, *sorted(edge % (len(batch) + 1) for edge in edges), len(batch)]
    for start, stop in pairwise(edges):
        piece = batch.slice(start, stop - start)
        for span in cutter.spans(piece):
            if span.opens:
                objects.append((span.opens, [[]]))
            objects[-1][1][-1] += piece["offset"].to_pylist()[span.start : span.stop]
            if span.flush:
                objects[-1][1].append([])
    return objects


@settings(deadline=None)  # the first call imports
@given(events, st.lists(st.integers(0, 1000), max_size=8))
def test_objects_and_row_groups_do_not_depend_on_the_pieces(
    rows: list[tuple[int, bytes | None, bytes | None]], edges: list[int]
) -> None:
    batch = batch_of(rows)
    whole = cut(batch, [])
    assert cut(batch, edges) == whole
    assert [at for _, groups in whole for group in groups for at in group] == [*range(len(rows))]
    days = [row[0] // DAY if row[0] != -1 else (TODAY - date(1970, 1, 1)).days for row in rows]
    for day, groups in whole:
        offsets = [at for group in groups for at in group]
        assert 0 < len(offsets) <= LIMITS.events
        assert days[offsets[0]] == (day - date(1970, 1, 1)).days
        assert max(days[at] for at in offsets) == days[offsets[0]]


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
    found = Coordinates("loans", date(2026, 1, 2), 3, 10, 20, sha256)
    assert parse_key(key) == found
    before = "raw_events/loans/dt=2026-01-02/p3/10-19.parquet"
    assert parse_key(before) == replace(found, sha256=None)
    assert parse_key("raw_events/loans/_delta_log/00000000000000000000.json") is None
    assert day_prefix(key) == "raw_events/loans/day=2026-01-02/"
    others = [SourceKey("cluster", None, 0), SourceKey("cluster", None, 1)]
    others.append(SourceKey("cluster", "id", 0))
    assert len({file_name(other, 3, 10, 20) for other in others}) == 3
