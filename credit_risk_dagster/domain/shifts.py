"""Drift on demand: a replay whose loans change at some point, for demonstration and tests."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from credit_risk_dagster.errors import PlatformError

Row = Mapping[str, Any]

_SHIFT = re.compile(r"(?P<column>\w+)(:(?P<value>[^=]+))?=(?P<how>[+x-])(?P<amount>\d+(\.\d+)?)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


class ShiftRefused(PlatformError):
    """A shift that cannot be read, or a column that the loans do not have."""


@dataclass(frozen=True)
class Shift:
    """A change of one column.

    Attributes:
        value: without it, the column's number changes; with it, loans that have this value become
            more or fewer.
        times: multiply by the amount, instead of adding it.
    """

    column: str
    value: str | None
    times: bool
    amount: Decimal


def parse_shift(text: str) -> Shift:
    """Read a shift: `dti=+8`, `annual_inc=x0.8`, `purpose:small_business=x3`.

    Raises:
        ShiftRefused: it is none of these.
    """
    match = _SHIFT.fullmatch(text)
    if not match or (match["value"] and match["how"] != "x"):
        raise ShiftRefused(
            f"shift {text!r} is not like dti=+8, dti=-8, annual_inc=x0.8 or "
            "purpose:small_business=x3"
        )
    sign = -1 if match["how"] == "-" else 1
    return Shift(
        match["column"], match["value"], match["how"] == "x", sign * Decimal(match["amount"])
    )


def shifted(loans: Iterable[Row], shifts: Sequence[Shift], after: int = 0) -> Iterator[Row]:
    """The loans, changed from a point on.

    Numbers keep the notation that they have, `" 14.07%"` too, and missing ones stay missing. Of a
    value that becomes more frequent, loans are repeated as they are, so that their other columns
    stay what they really are; of one that becomes rarer, loans are left out, evenly.

    Args:
        after: how many loans come first as they are.

    Raises:
        ShiftRefused: the loans do not have such a column.
    """
    loans = iter(loans)
    yield from islice(loans, after)
    due = dict.fromkeys((shift for shift in shifts if shift.value is not None), Decimal(0))
    for loan in loans:
        copies = 1
        changed = dict(loan)
        for shift in shifts:
            if shift.column not in loan:
                raise ShiftRefused(f"the loans have no column {shift.column!r} to shift")
            if shift.value is None:
                changed[shift.column] = _change(loan[shift.column], shift)
            elif str(loan[shift.column]).strip() == shift.value:
                due[shift] += shift.amount * copies
                copies = int(due[shift])
                due[shift] -= copies
        for _ in range(copies):
            yield changed


def _change(value: Any, shift: Shift) -> Any:
    def apply(number: Decimal) -> Decimal:
        return number * shift.amount if shift.times else number + shift.amount

    if isinstance(value, str):
        return _NUMBER.sub(lambda match: format(apply(Decimal(match[0])), "f"), value, count=1)
    return None if value is None else float(apply(Decimal(str(value))))
