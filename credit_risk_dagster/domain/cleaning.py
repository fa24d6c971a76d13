"""Cleaning: raw columns, as messy as LendingClub's are, to typed ones.

Every value is judged alone, so one event gives the same result as a batch of a million. Columns of
numbers are converted whole; a column of strings, which repeat, parses each distinct string once.

In a float column NaN means missing and infinity means "cannot be what this column means".
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, reduce
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from credit_risk_dagster.domain.decoding import (
    ACCEPTED,
    REQUIRED,
    ROUNDED_ID,
    DecodedEvents,
    reason_code,
)
from credit_risk_dagster.domain.texts import (
    MAX_TEXT,
    NULLS,
    TEXT_PARSERS,
    Texts,
    convert,
    is_missing,
    loan_id_of_key,
    parse_texts,
)

Floats = npt.NDArray[np.float64]

MISSING: Final = math.nan
IMPOSSIBLE: Final = math.inf

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_YEARS = range(1900, 2101)

# Field -> (lowest, highest, whole numbers only). What is higher cannot be meant, whatever the risk:
# a rate of 1,356 is in basis points, a ratio of a thousand times the income or the limit is a slip.
_LIMITS: dict[str, tuple[float, float, bool]] = {
    "loan_amnt": (0.01, 1e9, False),
    "annual_inc": (0, 1e12, False),
    "annual_inc_joint": (0, 1e12, False),
    "dti": (0, 1e5, False),
    "dti_joint": (0, 1e5, False),
    "int_rate": (0, 1000, False),
    "revol_util": (0, 1e5, False),
    "delinq_2yrs": (0, 1000, True),
    "inq_last_6mths": (0, 1000, True),
    "term": (1, 600, True),
    "emp_length": (0, 100, False),
}
_UNKNOWN_DTI = (-1, 999, 9999)  # what LendingClub writes for it

Joint = Literal["combined", "primary"]
# Whose income and DTI decide on a joint application: `CleanApplications.figures`.
FIGURES: Final = ("primary", "combined", "mixed", "fallback")
INDIVIDUAL: Final = -1


@dataclass(frozen=True)
class CleanApplications:
    """A cleaned batch: one entry for each decoded event, in order.

    Attributes:
        numbers: name to float64 array, NaN where missing: loan_amnt, annual_inc (USD), dti,
            int_rate, revol_util (percent), delinq_2yrs, inq_last_6mths (counts),
            credit_history_years, emp_length_yrs (years), term_months. annual_inc and dti are those
            that decide; of a joint application, annual_inc_primary and dti_primary are the first
            borrower's own, annual_inc_joint and dti_joint both borrowers'.
        texts: name to strings of Arrow: loan_id, purpose, grade, addr_state, home_ownership,
            loan_status, application_type.
        figures: int8, position in `FIGURES`, `INDIVIDUAL` where no second borrower is.
        event_time: datetime64[us], UTC, NaT where missing.
        issue_d: datetime64[M], NaT where missing.
        reasons: int16 code in `REASONS`, or `ACCEPTED` for an application that can be scored.
    """

    numbers: dict[str, Floats]
    texts: dict[str, Texts]
    figures: npt.NDArray[np.int8]
    event_time: npt.NDArray[np.datetime64]
    issue_d: npt.NDArray[np.datetime64]
    reasons: npt.NDArray[np.int16]

    def columns(self) -> dict[str, Any]:
        """What a policy can decide by, under its names."""
        names = np.array([*FIGURES, None], dtype=object)
        dates = {"event_time": self.event_time, "issue_d": self.issue_d}
        return {**self.numbers, **self.texts, **dates, "figures": names[self.figures]}


@dataclass(frozen=True)
class _Values:
    """A batch whose values are clean, before it is said whose figures decide: as
    `CleanApplications`, with the first borrower's, and with reasons of what is there."""

    numbers: dict[str, Floats]
    texts: dict[str, Texts]
    event_time: npt.NDArray[np.datetime64]
    issue_d: npt.NDArray[np.datetime64]
    reasons: npt.NDArray[np.int16]


def clean(events: DecodedEvents, joint: Joint = "primary") -> CleanApplications:
    """Clean a decoded batch; see `Cleaning`."""
    return Cleaning(events).decided_by(joint)


class Cleaning:
    """A decoded batch, cleaned. Never raises: what cannot be used gets a reason instead.

    A value that cannot be what its column means rejects the event, in an optional column too: it
    says that the producer is broken, and then the other values are not to be trusted either.
    """

    def __init__(self, events: DecodedEvents) -> None:
        self._values = _values(events)

    @property
    def texts(self) -> dict[str, Texts]:
        """As `CleanApplications.texts`."""
        return self._values.texts

    def decided_by(self, joint: Joint) -> CleanApplications:
        """The batch, by whose figures decide on a joint application."""
        values = self._values
        numbers, reasons = dict(values.numbers), values.reasons.copy()
        figures = _take_figures(numbers, values.texts["application_type"], joint)
        for field in REQUIRED:
            missing = np.isnan(numbers[_CLEAN_NAMES.get(field, field)])
            _assign(reasons, missing, f"missing_required:{field}")
        return CleanApplications(
            numbers, values.texts, figures, values.event_time, values.issue_d, reasons
        )


_CLEAN_NAMES = {
    "credit_history": "credit_history_years",
    "emp_length": "emp_length_yrs",
    "term": "term_months",
}


def _values(events: DecodedEvents) -> _Values:
    raw = events.columns
    reasons = events.reasons.copy()
    numbers: dict[str, Floats] = {}
    impossible: dict[str, npt.NDArray[np.bool_]] = {}
    for field, parse_number in _NUMBER_PARSERS.items():
        numbers[field], impossible[field] = _number(field, _floats(raw[field], parse_number))

    texts: dict[str, Texts] = {}
    for field, parse in TEXT_PARSERS.items():
        name = "loan_id" if field == "id" else field
        texts[name], impossible[field], rounded = parse_texts(raw[field], parse)
        _assign(reasons, rounded, ROUNDED_ID)
    if events.keys is not None and texts["loan_id"].null_count:
        ids = zip(texts["loan_id"].to_pylist(), events.keys, strict=True)
        own_or_key = [loan_id_of_key(key) if own is None else own for own, key in ids]
        texts["loan_id"] = pa.array(own_or_key, pa.string())

    event_time, impossible["event_time"] = _timestamps(raw["event_time"])
    issue_month = _months(raw["issue_d"])
    credit_month = _months(raw["earliest_cr_line"])
    impossible["issue_d"] = np.isinf(issue_month)
    issue_month = _century(issue_month, before=2069 * 12.0)  # the POSIX pivot
    # Credit history is measured from the application's own date.
    applied_month = np.where(np.isfinite(issue_month), issue_month, _month_number(event_time))
    credit_month_known = _century(credit_month, before=applied_month + 1)
    history = (applied_month - credit_month_known) / 12
    impossible["earliest_cr_line"] = np.isinf(credit_month) | (history < 0)

    numbers["credit_history"] = history
    for field, found in impossible.items():
        _assign(reasons, found, f"invalid_value:{field}")

    numbers = {_CLEAN_NAMES.get(field, field): found for field, found in numbers.items()}
    issue_d = np.full(len(reasons), "NaT", dtype="datetime64[M]")
    known = np.isfinite(issue_month)
    issue_d[known] = (issue_month[known] - 1970 * 12).astype(np.int64).astype("datetime64[M]")
    return _Values(numbers, texts, event_time, issue_d, reasons)


def _number(field: str, values: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A column of numbers, and where they cannot be what it means."""
    if field in ("dti", "dti_joint"):
        unknown = reduce(np.logical_or, (values == code for code in _UNKNOWN_DTI))
        values = np.where(unknown, MISSING, values)
    lowest, highest, whole = _LIMITS[field]
    outside = np.isinf(values) | (values < lowest) | (values > highest)
    if whole:
        outside |= np.floor(values) < values
    return values, outside


def _take_figures(numbers: dict[str, Floats], types: Texts, joint: Joint) -> npt.NDArray[np.int8]:
    """Make `dti` and `annual_inc` those that decide; whose they are, by position in `FIGURES`."""
    known = {name: ~np.isnan(numbers[f"{name}_joint"]) for name in ("dti", "annual_inc")}
    either = known["dti"] | known["annual_inc"]
    # An event that has the figures of two borrowers and no type is of two borrowers.
    of_two = types.to_numpy(zero_copy_only=False) == "joint"
    of_two |= types.is_null().to_numpy(zero_copy_only=False) & either
    for name, known_joint in known.items():
        own = numbers[name]
        numbers[f"{name}_primary"] = np.where(of_two, own, MISSING)
        if joint == "combined":
            numbers[name] = np.where(of_two & known_joint, numbers[f"{name}_joint"], own)
    primary, combined, mixed, fallback = range(len(FIGURES))
    found = np.where(
        either, np.where(known["dti"] & known["annual_inc"], combined, mixed), fallback
    )
    return np.where(of_two, found if joint == "combined" else primary, INDIVIDUAL).astype(np.int8)


def _assign(reasons: npt.NDArray[np.int16], found: npt.NDArray[np.bool_], reason: str) -> None:
    """Give `reason` to the events in which it was found, unless an earlier reason stands."""
    code = reason_code(reason)
    reasons[found & ((reasons == ACCEPTED) | (reasons > code))] = code


# --- numbers ------------------------------------------------------------------------------------

_PLAIN = frozenset({int, float, type(None)})


def _floats(column: Sequence[Any], parse: Callable[[str], float]) -> Floats:
    """Convert a column to float64; strings go through `parse`."""
    if _PLAIN.issuperset(map(type, column)):
        try:
            return np.array(column, dtype=np.float64)  # None becomes NaN
        except OverflowError:
            pass  # an integer beyond float64: value by value, below
    return _each(column, parse, _float)


def _each(
    column: Sequence[Any], parse: Callable[[str], float], other: Callable[[object], float]
) -> Floats:
    def one(value: object) -> float:
        if type(value) is not str:
            return other(value)
        return parse(value) if len(value) <= MAX_TEXT else IMPOSSIBLE

    results, at = convert(column, one)
    return np.array(results, np.float64)[at]


def _float(value: object) -> float:
    if value is None:
        return MISSING
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return IMPOSSIBLE
    return IMPOSSIBLE  # a boolean, a list, an object


_NUMBER = re.compile(r"[-+]?([1-9]\d{0,2}(,\d{3})+|\d+)?(\.\d*)?([eE][-+]?\d{1,3})?", re.ASCII)


def _parse_number(text: str) -> float:
    """A number, with or without thousands separators: "1,200.50"."""
    text = text.strip()
    if text.lower() in NULLS:
        return MISSING
    if not _NUMBER.fullmatch(text):
        return IMPOSSIBLE
    try:
        return float(text.replace(",", ""))
    except ValueError:  # the pattern lets "." and "+" through
        return IMPOSSIBLE


@lru_cache(4096)  # LendingClub writes a thousand, and batches have hundreds of them
def _parse_percent(text: str) -> float:
    """A number with or without a percent sign: "13.56%" and "13.56" are the same."""
    return _parse_number(text.rstrip().removesuffix("%"))


_TERM = re.compile(r"(\d{1,3})(\.0+)?\s*(months?)?", re.ASCII | re.IGNORECASE)


def _parse_term(text: str) -> float:
    """A term in months: " 36 months"."""
    text = text.strip()
    if text.lower() in NULLS:
        return MISSING
    match = _TERM.fullmatch(text)
    return float(match[1]) if match else IMPOSSIBLE


_EMP_LENGTH = re.compile(r"(<\s*1|(\d{1,2}(\.\d+)?)\s*\+?)\s*(years?)?", re.ASCII | re.IGNORECASE)


def _parse_emp_length(text: str) -> float:
    """Years of employment: "10+ years" is 10, "< 1 year" is 0."""
    text = text.strip()
    if text.lower() in NULLS:
        return MISSING
    match = _EMP_LENGTH.fullmatch(text)
    if not match:
        return IMPOSSIBLE
    return float(match[2] or 0)


_NUMBER_PARSERS: dict[str, Callable[[str], float]] = {
    "loan_amnt": _parse_number,
    "annual_inc": _parse_number,
    "dti": _parse_percent,
    "int_rate": _parse_percent,
    "revol_util": _parse_percent,
    "delinq_2yrs": _parse_number,
    "inq_last_6mths": _parse_number,
    "term": _parse_term,
    "emp_length": _parse_emp_length,
    "annual_inc_joint": _parse_number,
    "dti_joint": _parse_percent,
}


# --- months and times ---------------------------------------------------------------------------
#
# A month is year * 12 + (month - 1). A year of two digits is stored as the year 0..99, and gets its
# century when it is known what it must come before.

_MON_YEAR = re.compile(r"([a-z]{3,9})[-\s/]+(\d{4}|\d{1,2})", re.ASCII | re.IGNORECASE)
_YEAR_MON = re.compile(r"(\d{4}|\d{1,2})[-\s/]+([a-z]{3,9})", re.ASCII | re.IGNORECASE)
_ISO_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)


def _months(column: Sequence[Any]) -> Floats:
    """Month strings to month numbers; a bare number is no month."""
    return _each(column, _parse_month, lambda value: MISSING if is_missing(value) else IMPOSSIBLE)


@lru_cache(4096)  # there are 1,200 of each notation, and batches have hundreds of them
def _parse_month(text: str) -> float:
    """A month: "Sep-2003", "Sep-03", "3-Sep" (a spreadsheet's idea of Sep-03), "2003-09" or an
    ISO 8601 date or time. "01/09/2003" is none: it has two meanings."""
    text = text.strip()
    if text.lower() in NULLS:
        return MISSING
    if match := _MON_YEAR.fullmatch(text):
        name, year = match.groups()
    elif match := _YEAR_MON.fullmatch(text):
        year, name = match.groups()
    else:
        try:
            date = datetime.fromisoformat(f"{text}-01" if _ISO_MONTH.fullmatch(text) else text)
        except ValueError:
            return IMPOSSIBLE
        return date.year * 12.0 + date.month - 1 if date.year in _YEARS else IMPOSSIBLE
    if len(year) == 4 and int(year) not in _YEARS:
        return IMPOSSIBLE
    for month, full_name in enumerate(_MONTHS):
        if full_name.startswith(name.lower()):
            return int(year) * 12.0 + month
    return IMPOSSIBLE


def _century(months: Floats, before: Floats | float) -> Floats:
    """Give years of two digits the latest century that puts the month before `before`."""
    two_digits = months < 100 * 12
    in_2000s = months + 2000 * 12
    return np.where(two_digits, np.where(in_2000s < before, in_2000s, months + 1900 * 12), months)


def _month_number(times: npt.NDArray[np.datetime64]) -> Floats:
    months = times.astype("datetime64[M]")
    return np.where(np.isnat(months), MISSING, months.astype(np.int64) + 1970 * 12.0)


_IMPOSSIBLE_TIME: Final = datetime.max.replace(tzinfo=UTC)  # like infinity: beyond every limit


def _timestamps(
    column: Sequence[Any],
) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.bool_]]:
    """ISO 8601 strings to UTC microseconds (no zone means UTC), and where that is impossible."""
    kind = pa.timestamp("us", "UTC")
    try:
        times = pa.array(column, pa.string()).cast(kind)  # which all have a zone, as Arrow reads it
    except (TypeError, ValueError):
        times = pa.array(map(_time, column), kind)
    utc = times.to_numpy(zero_copy_only=False)
    first, end = (np.datetime64(f"{year}", "us") for year in (_YEARS.start, _YEARS.stop))
    impossible = (utc < first) | (utc >= end)
    return np.where(impossible, np.datetime64("NaT", "us"), utc), impossible


def _time(value: object) -> datetime | None:
    if is_missing(value):
        return None
    if type(value) is not str:
        return _IMPOSSIBLE_TIME
    text = value.strip()
    if text.lower() in NULLS:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return _IMPOSSIBLE_TIME
