"""Unary tests: what a cell of a decision table says of its input, in the words of DMN.

    >= 30    < 0.5 * annual_inc    [20..30)    2018-01    A, B, C    not(CA, NV)    missing    known

A test of a missing input is neither true nor false; only `missing` and `known` are.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.cleaning import FIGURES
from credit_risk_dagster.domain.texts import TEXT_PARSERS

Kind = Literal["number", "category", "date", "band"]

BANDS = ("Low", "Moderate", "High", "Very High")
NUMBERS: Final = {
    "loan_amnt": "amount applied for, USD",
    "annual_inc": "annual income that decides, USD",
    "annual_inc_primary": "annual income of a joint application's first borrower, USD",
    "annual_inc_joint": "annual income of both borrowers, USD",
    "dti": "debt to income that decides, percent",
    "dti_primary": "debt to income of a joint application's first borrower, percent",
    "dti_joint": "debt to income of both borrowers, percent",
    "int_rate": "interest rate, percent",
    "revol_util": "revolving utilization, percent",
    "delinq_2yrs": "delinquencies in two years",
    "inq_last_6mths": "credit inquiries in six months",
    "credit_history_years": "years since the first credit line",
    "emp_length_yrs": "years of employment, 10 is ten or more",
    "term_months": "term, months",
    "pd": "probability of default by the active model, 0 to 1",
}
CATEGORIES: Final = {
    "purpose": "purpose of the loan",
    "grade": "grade, A to G",
    "addr_state": "state, two letters",
    "home_ownership": "RENT, OWN, MORTGAGE, ...",
    "application_type": "individual, joint or direct_pay",
    "figures": f"whose income and DTI decide on a joint application: {', '.join(FIGURES)}",
}
DATES: Final = {"event_time": "when the event happened", "issue_d": "month of issue"}
_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys(NUMBERS, "number"),
    **dict.fromkeys(CATEGORIES, "category"),
    **dict.fromkeys(DATES, "date"),
}
_BAND = re.compile(r"band\((\w+)\)")


def kind_of(column: str) -> Kind:
    """The kind of an input: a column, or `band(number)`. Raises KeyError when there is none."""
    match = _BAND.fullmatch(column)
    return "band" if match and match[1] in NUMBERS else _KINDS[column]


def banded(column: str) -> str | None:
    """The number that `band(number)` is of; None of any other input."""
    match = _BAND.fullmatch(column)
    return match[1] if match else None


@dataclass(frozen=True)
class Column:
    """A number of each application, times a factor."""

    name: str
    factor: float = 1.0

    def __str__(self) -> str:
        return self.name if self.factor == 1 else f"{_written(self.factor)} * {self.name}"


def _written(number: float) -> str:
    """A number as a person writes it; read again, it is the same."""
    return repr(number).removesuffix(".0")


Operand = float | np.datetime64 | Column
Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """`relation operand`, such as `>= 30`; of a band, the operand is its position in `BANDS`."""

    relation: str
    operand: Operand

    def of(self, values: Array, number: Callable[[str], Array]) -> Flags:
        """Where it is true, and nothing is missing."""
        other: Any = self.operand
        if isinstance(other, Column):
            other = number(other.name) if other.factor == 1 else other.factor * number(other.name)
        found: Flags = _RELATIONS[self.relation](values, other)
        if self.relation == "!=":  # which NaN is of everything
            found &= (values == values) & (other == other)
        return found


_RELATIONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}


@dataclass(frozen=True)
class Test:
    """What one cell says.

    Attributes:
        column, kind: of the input.
        text: the test in its canonical spelling.
        negated: `not(...)`.
        values: of a category, the set.
        either: otherwise, the alternatives: comparisons that are all true.
        of_missing: of `missing` and `known`, what it is of a missing input.
    """

    column: str
    kind: Kind
    text: str
    negated: bool = False
    values: tuple[str, ...] = ()
    either: tuple[tuple[Comparison, ...], ...] = ()
    of_missing: bool | None = None

    @property
    def others(self) -> tuple[str, ...]:
        """The other columns that it compares with."""
        operands = (c.operand for alternative in self.either for c in alternative)
        return tuple(o.name for o in operands if isinstance(o, Column))


class BadTest(ValueError):
    """A test that cannot be read; the message says what to write instead."""


@lru_cache(maxsize=4096)
def parse_test(column: str, text: str) -> Test:
    """Read a unary test.

    Raises:
        BadTest: it is none, or none of this column.
    """
    kind = kind_of(column)
    text = " ".join(text.split())
    if text in ("missing", "known"):
        return Test(column, kind, text, of_missing=text == "missing")
    negated = text.startswith("not(") and text.endswith(")")
    parts = [part.strip() for part in _COMMA.split(text[4:-1] if negated else text)]
    if not all(parts):
        raise BadTest(f"{text!r} has nothing at one side of a comma, write the value or remove it")
    if kind == "category":
        values = tuple(_category(column, part) for part in parts)
        written = ", ".join(values)
        return Test(column, kind, f"not({written})" if negated else written, negated, values)
    either = tuple(_alternative(column, kind, part) for part in parts)
    written = ", ".join(_spelt(kind, alternative) for alternative in either)
    text = f"not({written})" if negated else written
    return Test(column, kind, text, negated, either=either)


# A comma between alternatives; one in a range ("[20,30]") is none of the language.
_COMMA = re.compile(r",")
_RANGE = re.compile(r"([\[(\]]) ?(.+?) ?\.\. ?(.+?) ?([\])\[])")
_COMPARISON = re.compile(r"(<=|>=|!=|<|>|=) ?(.+)")
_PRODUCT = re.compile(r"(?:(\S+) ?\* ?)?([a-z]\w*)")


def _alternative(column: str, kind: Kind, text: str) -> tuple[Comparison, ...]:
    if match := _RANGE.fullmatch(text):
        opened, low, high, closed = match.groups()
        ends = (_operand(column, kind, low), _operand(column, kind, high))
        if not any(isinstance(end, Column) for end in ends) and ends[0] > ends[1]:  # type: ignore[operator]
            raise BadTest(f"{text!r} is empty, write the lower end first")
        return (
            Comparison(">=" if opened == "[" else ">", ends[0]),
            Comparison("<=" if closed == "]" else "<", ends[1]),
        )
    match = _COMPARISON.fullmatch(text)
    relation, operand = match.groups() if match else ("=", text)
    return (Comparison(relation, _operand(column, kind, operand)),)


def _operand(column: str, kind: Kind, text: str) -> Operand:
    if kind == "band":
        if text.strip("\"'") not in BANDS:
            raise BadTest(f"{text!r} is no band, write one of {', '.join(BANDS)}")
        return float(BANDS.index(text.strip("\"'")))
    if kind == "date":
        try:
            return np.datetime64(text, "us")
        except ValueError as error:
            raise BadTest(f"{text!r} is no date, write it like 2018-03-31") from error
    try:
        value = float(text)
    except ValueError:
        return _column(column, text)
    if not np.isfinite(value) or "_" in text:
        raise BadTest(f"{text!r} is no number, write it like 30 or 0.5")
    return value


def _column(column: str, text: str) -> Column:
    match = _PRODUCT.fullmatch(text)
    if match is None or match[2] not in NUMBERS:
        offered = "write it like >= 30, [20..30], 1, 2 or > 0.5 * annual_inc"
        raise BadTest(f"{text!r} is no number and no column of numbers, {offered}")
    if match[2] == column:
        raise BadTest(f"{column} is compared with itself, name another column")
    try:
        return Column(match[2], float(match[1] or 1))
    except ValueError as error:
        raise BadTest(f"{match[1]!r} is no number, write it like 0.5 * {match[2]}") from error


def _category(column: str, text: str) -> str:
    if _COMPARISON.fullmatch(text) or _RANGE.fullmatch(text):
        raise BadTest(f"{column} has no order, write the values like A, B or not(A, B)")
    value = text.strip("\"'")
    if column == "figures":
        if value not in FIGURES:
            raise BadTest(f"{value!r} is none of {', '.join(FIGURES)}")
        return value
    cleaned = TEXT_PARSERS[column](value)
    if cleaned is None or not cleaned.isprintable():
        raise BadTest(f"{value!r} is no value that {column} can have")
    if cleaned != value:
        raise BadTest(f"{column} is never {value!r}, write {cleaned}")
    return value


def _spelt(kind: Kind, alternative: tuple[Comparison, ...]) -> str:
    def spelt(operand: Operand) -> str:
        if isinstance(operand, Column):
            return str(operand)
        if isinstance(operand, np.datetime64):
            return str(operand).removesuffix("T00:00:00.000000")
        return BANDS[int(operand)] if kind == "band" else _written(operand)

    if len(alternative) == 2:
        low, high = alternative
        opened = "[" if low.relation == ">=" else "("
        closed = "]" if high.relation == "<=" else ")"
        return f"{opened}{spelt(low.operand)}..{spelt(high.operand)}{closed}"
    (one,) = alternative
    return spelt(one.operand) if one.relation == "=" else f"{one.relation} {spelt(one.operand)}"
