"""The columns of raw events: what is a change, and what is chance."""

import json

import pytest

from credit_risk_dagster.domain.stream_columns import (
    MAX_COLUMNS,
    MAX_NAME,
    StreamColumns,
    changes,
    describe,
)


def sample(events: int, **columns: tuple[str, int]) -> StreamColumns:
    """Columns with one type each, and how many events have them."""
    return StreamColumns(events, {name: {kind: n} for name, (kind, n) in columns.items()})


def said(before: StreamColumns, now: StreamColumns) -> list[str]:
    return [str(change) for change in changes(before, now)]


def test_columns_and_types_are_counted() -> None:
    events = [
        b'{"a": 1, "b": "x"}',
        b'{"a": 1.5, "b": null, "c": true}',
        b'{"a": NaN, "c": {}, "d": [1]}',
        *(b"junk", b"[1]", b'"text"', None, b"", b"\xff", b"[" * 100_000),
    ]
    assert describe(events) == StreamColumns(
        3,
        {
            "a": {"number": 3},
            "b": {"string": 1, "null": 1},
            "c": {"boolean": 1, "object": 1},
            "d": {"array": 1},
        },
    )


def test_made_up_names_are_bounded() -> None:
    event = json.dumps({f"{i}" * 100: 1 for i in range(1000, 2 * MAX_COLUMNS + 1000)}).encode()
    found = describe([event])
    assert len(found.columns) == MAX_COLUMNS
    assert max(map(len, found.columns)) == MAX_NAME


def test_what_changed_is_told_used_columns_first() -> None:
    before = sample(
        *(1000,),
        dti=("number", 990),
        url=("string", 1000),
        grade=("string", 1000),
    )
    now = sample(1000, dti=("string", 1000), grade=("string", 1000), channel=("string", 1000))
    assert said(before, now) == [
        "dti is string, it was number",
        "channel is new (string)",
        "url has disappeared",
    ]
    assert [change.used for change in changes(before, now)] == [True, False, False]
    assert said(now, now) == []


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        # A column that one event of a hundred has: its absence from a hundred others says nothing.
        (sample(1000, x=("string", 10)), sample(100), False),
        (sample(1000, x=("string", 10)), sample(1000), True),
        (sample(100), sample(1000, x=("string", 10)), False),
        (sample(1000), sample(1000, x=("string", 10)), True),
        (sample(1000), sample(1000, x=("string", 1)), False),
        # Nulls say nothing of a type.
        (sample(1000, x=("null", 1000)), sample(1000, x=("string", 1000)), False),
        (sample(1000, x=("string", 1000)), sample(1000, x=("null", 1000)), False),
        (sample(1000, x=("number", 1000)), sample(1000, x=("boolean", 1000)), True),
    ],
)
def test_chance_is_no_change(before: StreamColumns, now: StreamColumns, changed: bool) -> None:
    assert bool(changes(before, now)) == changed


def test_a_single_odd_value_is_no_change() -> None:
    before = StreamColumns(1000, {"dti": {"number": 1000}})
    now = StreamColumns(1000, {"dti": {"number": 999, "string": 1}})
    assert said(before, now) == []
    now = StreamColumns(1000, {"dti": {"number": 900, "string": 100}})
    assert said(before, now) == ["dti is string, it was number"]
