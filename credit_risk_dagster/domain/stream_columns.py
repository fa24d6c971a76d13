"""The columns of raw events and their JSON types: what a sample has, and what differs from before.

Columns that are rarely there are no news when they are not: two samples differ only where chance
does not explain it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from credit_risk_dagster.domain.decoding import Event

USED: Final = frozenset(Event.__struct_fields__)
NULL: Final = "null"
# So improbable must it be that a sample has none of what is in the other one.
CHANCE: Final = 1e-3
# What is kept and shown of names that a producer makes up.
MAX_COLUMNS: Final = 1_000
MAX_NAME: Final = 64
_TYPES: Final[dict[type, str]] = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): NULL,
}


@dataclass(frozen=True)
class StreamColumns:
    """What a sample of events looks like.

    Attributes:
        events: JSON objects in it.
        columns: name to JSON type to the events that have it so.
    """

    events: int
    columns: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Change:
    """A difference of a later sample; `used` columns are those that scoring reads."""

    column: str
    what: str

    @property
    def used(self) -> bool:
        return self.column in USED

    def __str__(self) -> str:
        return f"{self.column} {self.what}"


def describe(values: Sequence[bytes | None]) -> StreamColumns:
    """The columns of raw events; what is no JSON object is left out."""
    events = 0
    counts: dict[str, Counter[str]] = {}
    for value in values:
        try:
            row: Any = json.loads(value or b"")
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict):
            continue
        events += 1
        for name, content in row.items():
            short = name[:MAX_NAME]
            if short in counts or len(counts) < MAX_COLUMNS:
                counts.setdefault(short, Counter())[_TYPES[type(content)]] += 1
    return StreamColumns(events, {name: dict(found) for name, found in sorted(counts.items())})


def changes(before: StreamColumns, now: StreamColumns) -> list[Change]:
    """What differs: columns that scoring uses first, then by name."""
    found = [*_changes(before, now)]
    return sorted(found, key=lambda change: (not change.used, change.column))


def _changes(before: StreamColumns, now: StreamColumns) -> Iterator[Change]:
    for name in before.columns.keys() | now.columns.keys():
        was, is_ = before.columns.get(name, {}), now.columns.get(name, {})
        if not is_:
            if _unexpected(sum(was.values()), before.events, now.events):
                yield Change(name, "has disappeared")
        elif not was:
            if _unexpected(sum(is_.values()), now.events, before.events):
                yield Change(name, f"is new ({' or '.join(sorted(is_))})")
        else:
            known = {kind for kind in was if kind != NULL}
            other = {
                kind
                for kind in is_.keys() - was.keys() - {NULL}
                if _unexpected(is_[kind], now.events, before.events)
            }
            if known and other:
                yield Change(
                    name, f"is {' or '.join(sorted(other))}, it was {' or '.join(sorted(known))}"
                )


def _unexpected(found: int, events: int, other_events: int) -> bool:
    """Whether a sample of `other_events` without any of what `found` of `events` have is more than
    chance."""
    return bool(found) and (1 - found / (events + 1)) ** other_events < CHANCE
