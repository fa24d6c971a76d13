"""Cleaning texts: codes, loan ids, and what stands for nothing."""

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Texts: TypeAlias = pa.StringArray

NULLS = frozenset({"", "n/a", "na", "nan", "null", "none", "nat", "-", "--"})
_FEW = 24  # values, that cost less one by one than telling equal ones apart
MAX_TEXT = 64  # characters; longer is no value of any of these columns

T = TypeVar("T")


def convert(
    column: Sequence[Any], one: Callable[[Any], T]
) -> tuple[list[T], npt.NDArray[np.integer[Any]]]:
    """Convert a column, of strings each only once: results, and which of them each value has."""
    if len(column) > _FEW:
        try:
            found = pa.array(column, pa.string()).dictionary_encode("encode")
        except (TypeError, ValueError):
            pass  # with other types 1, 1.0 and True would be one; and some characters are none
        else:
            return [one(text) for text in found.dictionary.to_pylist()], found.indices.to_numpy()
    return [one(value) for value in column], np.arange(len(column))


def is_missing(value: object) -> bool:
    return value is None or (type(value) is float and math.isnan(value))


# Not printable, so no parser returns them for a value.
_IMPOSSIBLE_TEXT: Final = "\0"
_ROUNDED: Final = "\0e"

Flags = npt.NDArray[np.bool_]


def parse_texts(
    column: Sequence[Any], parse: Callable[[str], str | None]
) -> tuple[Texts, Flags, Flags]:
    """Parse strings; anything but a string or null is impossible.

    Returns:
        The texts, and where they are impossible, and rounded.
    """

    def one(value: object) -> str | None:
        if type(value) is not str:
            return _text(value, parse)
        return parse(value) if len(value) <= MAX_TEXT else _IMPOSSIBLE_TEXT

    if parse is _parse_loan_id and _are_digits(column):  # which hardly repeat
        nowhere = np.zeros(len(column), np.bool_)
        return pa.array(column, pa.string()), nowhere, nowhere
    results, at = convert(column, one)
    marks = (_IMPOSSIBLE_TEXT, _ROUNDED)
    texts = pa.array([None if text in marks else text for text in results], pa.string())
    impossible, rounded = (np.array([t == mark for t in results], np.bool_)[at] for mark in marks)
    if len(texts) < len(at):  # otherwise each has its own, in order
        texts = texts.take(pa.array(at))
    return texts, impossible, rounded


def _are_digits(column: Sequence[Any]) -> bool:
    """Whether all are strings of digits, not too long."""
    try:
        digits = "".join(column)
    except TypeError:
        return False
    return (
        (digits.isascii() and digits.isdigit())
        and "" not in column
        and max(map(len, column)) <= MAX_TEXT
    )


def _text(value: object, parse: Callable[[str], str | None]) -> str | None:
    if is_missing(value):
        return None
    if parse is not _parse_loan_id:
        return _IMPOSSIBLE_TEXT
    # LendingClub's ids come as integers, floats or strings, depending on who read the file.
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if type(value) is int and abs(value) < 10**MAX_TEXT:
        return str(value)
    return _IMPOSSIBLE_TEXT


def _code(alphabet: str) -> Callable[[str], str | None]:
    """A parser of codes made of the characters of a class of regular expressions: they reach
    terminals, spreadsheets and browsers."""
    made_of = re.compile(f"[{alphabet}]+", re.ASCII)

    def parse(text: str) -> str | None:
        code = text.strip()
        if code.lower() in NULLS:
            return None
        return code if made_of.fullmatch(code) else _IMPOSSIBLE_TEXT

    return parse


_parse_code = _code(r"\w.\- ")
# "Does not meet the credit policy. Status:Charged Off", "Late (16-30 days)"
_parse_status = _code(r"\w.\- :()")

_FLOAT_ID = re.compile(r"(\d+)\.0+", re.ASCII)
_SCIENTIFIC_ID = re.compile(r"\d+(?:\.(\d+))?[eE]\+?(\d{1,2})", re.ASCII)


def _parse_loan_id(text: str) -> str | None:
    """A loan id: "68407277", also when it was a float once: "68407277.0", "6.8407277e+07", "1e+06".

    With fewer digits after the point than the exponent counts ("6.84E+07"), what follows was
    rounded away.
    """
    if text.isascii() and text.isdigit():
        return text
    text = text.strip()
    if match := _FLOAT_ID.fullmatch(text):
        return match[1]
    if match := _SCIENTIFIC_ID.fullmatch(text):
        value = Decimal(text)
        if value != value.to_integral_value() or value >= 10**MAX_TEXT:
            return _IMPOSSIBLE_TEXT
        return _ROUNDED if match[1] and len(match[1]) < int(match[2]) else f"{value:.0f}"
    return _parse_code(text)


def loan_id_of_key(key: bytes | None) -> str | None:
    """The loan id in a record's key. A key is no column: one that is no id rejects nothing."""
    text = (key or b"").decode("utf-8", "surrogateescape")
    loan_id = _parse_loan_id(text) if len(text) <= MAX_TEXT else None
    return None if loan_id in (_IMPOSSIBLE_TEXT, _ROUNDED) else loan_id


def _pattern(pattern: str) -> Callable[[str], str | None]:
    """A parser of codes that match `pattern`, in either case, to upper case."""
    compiled = re.compile(pattern, re.ASCII | re.IGNORECASE)

    def parse(text: str) -> str | None:
        code = _parse_code(text)
        if code is None or code == _IMPOSSIBLE_TEXT:
            return code
        return code.upper() if compiled.fullmatch(code) else _IMPOSSIBLE_TEXT

    return parse


def _parse_purpose(text: str) -> str | None:
    purpose = _parse_code(text)
    return purpose.lower() if purpose else purpose


def _parse_application_type(text: str) -> str | None:
    """A code: "individual", "joint" ("Joint App" in LendingClub's words), "direct_pay"."""
    kind = _parse_purpose(text)
    return "joint" if kind == "joint app" else kind


TEXT_PARSERS: dict[str, Callable[[str], str | None]] = {
    "id": _parse_loan_id,
    "purpose": _parse_purpose,
    "grade": _pattern(r"[A-G]"),
    "addr_state": _pattern(r"[A-Z]{2}"),
    "home_ownership": _pattern(r"[A-Z_ ]+"),
    "loan_status": _parse_status,
    "application_type": _parse_application_type,
}
