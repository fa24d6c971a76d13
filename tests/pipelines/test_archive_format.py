"""What makes an object follows from the events, not from how they arrived."""

from datetime import date
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from credit_risk_dagster.domain.raw_events import (
    Cutter,
    Limits,
    day_prefix,
    from_arrow,
    object_key,
    other_folder,
    to_arrow,
)

DAY = 86_400_000
LIMITS = Limits(events=7, bytes=10_000, row_group_bytes=200)

events = st.lists(
    st.tuples(st.integers(-1, 4 * DAY), st.none() | st.binary(max_size=4), st.none() | st.binary()),
    max_size=40,
)


def batch_of(rows: list[tuple[int, bytes | None, bytes | None]]) -> pa.RecordBatch:
    return to_arrow(
        3,
        np.arange(len(rows)),
        np.array([row[0] for row in rows], np.int64),
        [row[1] for row in rows],
        [row[2] for row in rows],
    )


def cut(
    batch: pa.RecordBatch, edges: list[int], day: date | None = None
) -> list[tuple[date, list[list[int]]]]:
    """Objects, as their day and the offsets of each row group, when the rows come in pieces."""
    cutter = Cutter(LIMITS, day)
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
    days = (np.maximum([row[0] for row in rows], 0) // DAY).tolist()
    for day, groups in whole:
        offsets = [at for group in groups for at in group]
        assert 0 < len(offsets) <= LIMITS.events
        assert days[offsets[0]] == (day - date(1970, 1, 1)).days
        assert max(days[at] for at in offsets) == days[offsets[0]]


@given(events)
def test_a_planned_object_is_one_object(
    rows: list[tuple[int, bytes | None, bytes | None]],
) -> None:
    found = cut(batch_of(rows), [], date(2020, 2, 2))
    assert [day for day, _ in found] == ([date(2020, 2, 2)] if rows else [])


@given(events)
def test_the_columns_keep_every_byte(rows: list[tuple[int, bytes | None, bytes | None]]) -> None:
    found = from_arrow(batch_of(rows))
    assert found["offsets"].tolist() == [*range(len(rows))]
    assert found["timestamps"].tolist() == [row[0] for row in rows]
    assert (found["keys"], found["values"]) == ([r[1] for r in rows], [r[2] for r in rows])


def test_keys_tell_partitions_ranges_and_sources_apart() -> None:
    key = object_key("loans", date(2026, 1, 2), 3, 10, 20)
    assert key == "raw_events/loans/dt=2026-01-02/p3/10-19.parquet"
    assert day_prefix(key) == "raw_events/loans/dt=2026-01-02/"
    others = {other_folder("cluster", "loans", 0), other_folder("cluster", "loans", 1)}
    assert len({*others, other_folder("other", "loans", 0)}) == 3
