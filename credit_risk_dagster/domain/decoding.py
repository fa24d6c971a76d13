"""Decoding: raw record values to the columns of a loan application that the platform uses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import astuple


class Event(msgspec.Struct, gc=False):
    """The used fields of one LendingClub row, as they came. The other columns are skipped."""

    id: Any = None
    loan_amnt: Any = None
    annual_inc: Any = None
    dti: Any = None
    int_rate: Any = None
    revol_util: Any = None
    delinq_2yrs: Any = None
    inq_last_6mths: Any = None
    earliest_cr_line: Any = None
    issue_d: Any = None
    event_time: Any = None
    emp_length: Any = None
    term: Any = None
    purpose: Any = None
    grade: Any = None
    addr_state: Any = None
    home_ownership: Any = None
    loan_status: Any = None
    application_type: Any = None
    annual_inc_joint: Any = None
    dti_joint: Any = None


# Of an id that a spreadsheet rounded: it may be any of many loans.
ROUNDED_ID = "rounded:id"

REQUIRED = ("loan_amnt", "annual_inc", "dti", "int_rate", "credit_history")

# Of an event that can be scored, and that Postgres refuses: for a value, for a constraint or a
# trigger, for a limit; or that cannot be sent to it.
UNSTORABLE = ("unstorable:data", "unstorable:constraint", "unstorable:limit", "unstorable:encoding")

# Of the same application, sent again: see `domain.repeats`.
DUPLICATE = "duplicate_submission"

# Every reason for which an event can be rejected. The codes are stored and alerted on: never rename
# one. An event that has several gets the first in this order.
REASONS: tuple[str, ...] = (
    "tombstone",
    "empty_value",
    "invalid_json",
    "not_an_object",
    *(f"invalid_value:{field}" for field in Event.__struct_fields__),
    ROUNDED_ID,
    *(f"missing_required:{field}" for field in REQUIRED),
    *UNSTORABLE,
    DUPLICATE,
)
ACCEPTED = -1
_CODE = {reason: code for code, reason in enumerate(REASONS)}


def reason_code(reason: str) -> int:
    """Position of a reason in `REASONS`. Raises KeyError for a reason that does not exist."""
    return _CODE[reason]


@dataclass(frozen=True)
class DecodedEvents:
    """A decoded batch: one entry for each input value, in order.

    Attributes:
        columns: field name to its raw values (None where the event has none).
        keys: the records' keys, where known.
        reasons: shape (n,), a code in `REASONS` for what is no event at all, else `ACCEPTED`.
    """

    columns: dict[str, Sequence[Any]]
    keys: Sequence[bytes | None] | None
    reasons: npt.NDArray[np.int16]


def decode(
    values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None
) -> DecodedEvents:
    """Decode record values; whatever the bytes are, no exception is raised.

    Args:
        values: record values; None is a tombstone.
        keys: record keys, which stand in for a missing `id`.

    An event is JSON in UTF-8, also with NaN and Infinity in it, or with a BOM before it. Columns
    that are not used must be JSON, and may hold anything else. Nesting beyond the interpreter's
    recursion limit (about a thousand levels) counts as invalid JSON.
    """
    reasons = np.full(len(values), ACCEPTED, dtype=np.int16)
    rows: list[tuple[Any, ...]] = []
    rest = iter(values)
    while len(rows) < len(values):
        try:
            rows.extend(map(astuple, map(_decoder.decode, rest)))  # type: ignore[arg-type]
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
            # The list has what came before it, and the iterator is after it.
            event, reasons[len(rows)] = _decode_leniently(values[len(rows)])
            rows.append(astuple(event))
    columns: dict[str, Sequence[Any]] = dict(
        zip(_FIELDS, zip(*rows, strict=True) if rows else [()] * len(_FIELDS), strict=True)
    )
    return DecodedEvents(columns, keys, reasons)


_decoder = msgspec.json.Decoder(Event)
_FIELDS = Event.__struct_fields__
_NO_EVENT = Event()


def _decode_leniently(value: bytes | None) -> tuple[Event, int]:
    """Decode what the strict decoder refuses although it has columns: NaN, Infinity, 1e999, a BOM,
    characters that are none (the column that has them is refused, when it is used)."""
    if value is None:
        return _NO_EVENT, _CODE["tombstone"]
    if not value.strip():
        return _NO_EVENT, _CODE["empty_value"]
    try:
        row = json.loads(value.decode("utf-8-sig", "surrogateescape"), parse_int=_integer)
    except (ValueError, RecursionError):
        return _NO_EVENT, _CODE["invalid_json"]
    if not isinstance(row, dict):
        return _NO_EVENT, _CODE["not_an_object"]
    return Event(**{field: row.get(field) for field in _FIELDS}), ACCEPTED


def _integer(digits: str) -> int | float:
    """An integer, or the infinity that float makes of one beyond its range: Python refuses to
    convert more than 4,300 digits."""
    return int(digits) if len(digits) <= 400 else float(digits)
