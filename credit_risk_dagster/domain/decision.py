"""Deciding: a decision table applied to columns of applications, rule by rule.

Logic has three values (Kleene): a test of a missing input is unknown, and so is what depends on it.
Each condition is asked in a mode that says what unknown counts as, so that arrays stay booleans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.cleaning import Joint
from credit_risk_dagster.domain.unary import BANDS, Array, Flags, Test, banded, kind_of

Codes = npt.NDArray[np.int8]
Missing = Literal["ignore", "fires", "review"]

TIERS = ("Low", "Elevated", "Watchlist")
LOW, ELEVATED, WATCHLIST = range(len(TIERS))
OUTCOMES = ("approve", "refer", "decline")  # the later, the stricter
APPROVE, REFER, DECLINE = range(len(OUTCOMES))
NO_BAND = NO_OUTCOME = -1


@dataclass(frozen=True)
class All:
    """True where all parts are."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class AnyOf:
    """True where any part is."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Not:
    """True where the part is false."""

    part: "Node"


@dataclass(frozen=True)
class Holds:
    """A condition by its name."""

    name: str


Node = Test | All | AnyOf | Not | Holds


@dataclass(frozen=True)
class Rule:
    """A rule: `tier` and `outcome` are positions in `TIERS` and `OUTCOMES`, None without one."""

    id: str
    when: Node
    tier: int | None
    outcome: int | None
    reason: str | None
    missing: Missing


@dataclass(frozen=True)
class Program:
    """A policy, ready to decide.

    Attributes:
        joint: whose income and DTI decide on a joint application.
        bands: inclusive upper edges of all bands but the last, by number.
        conditions: by name.
        first: only the first rule that fires counts; otherwise the worst tier and the strictest
            outcome of all that fire.
        default: the tier where no rule gives one.
    """

    joint: Joint
    bands: Mapping[str, Sequence[float]]
    conditions: Mapping[str, Node]
    rules: tuple[Rule, ...]
    first: bool
    default: int
    columns: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        of_rules = (self.inputs(rule.when) for rule in self.rules)
        object.__setattr__(self, "columns", frozenset().union(*of_rules))

    def inputs(self, node: Node) -> frozenset[str]:
        """The columns that a condition reads."""
        match node:
            case Test():
                return frozenset((banded(node.column) or node.column, *node.others))
            case Holds():
                return self.inputs(self.conditions[node.name])
            case Not():
                return self.inputs(node.part)
            case _:
                return frozenset().union(*map(self.inputs, node.parts))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason that it can give, in order."""
        reviewed = (self.inputs(rule.when) for rule in self.rules if rule.missing == "review")
        missing = sorted(frozenset().union(*reviewed))
        named = (rule.reason for rule in self.rules if rule.reason)
        return tuple(dict.fromkeys((*named, *map(missing_reason, missing))))


def missing_reason(column: str) -> str:
    """The reason of an application that is for review because a column is missing."""
    return f"MISSING:{column.upper()}"


@dataclass(frozen=True)
class Decisions:
    """What a policy says of n applications; every array has shape (n,).

    Attributes:
        tier: position in `TIERS`.
        outcome: position in `OUTCOMES`, `NO_OUTCOME` where the policy recommends none.
        bands: by number, position in `BANDS`, `NO_BAND` where the value is missing.
        fired: reason to where it is one.
    """

    tier: Codes
    outcome: Codes
    bands: Mapping[str, Codes]
    fired: Mapping[str, Flags]

    @property
    def early_warning(self) -> Flags:
        return self.tier == WATCHLIST

    def some(self, at: npt.NDArray[np.intp]) -> "Decisions":
        """Those of some applications."""
        bands = {name: codes[at] for name, codes in self.bands.items()}
        fired = {reason: flags[at] for reason, flags in self.fired.items()}
        return Decisions(self.tier[at], self.outcome[at], bands, fired)

    def reasons(self) -> pa.ListArray:
        """The reasons of each application, in the policy's order."""
        count = len(self.tier)
        fired = np.column_stack([np.empty((count, 0), np.bool_), *self.fired.values()])
        ends = np.zeros(count + 1, np.int32)
        np.cumsum(fired.sum(axis=1), out=ends[1:])
        names = pa.array(list(self.fired), pa.string())
        return pa.ListArray.from_arrays(pa.array(ends), names.take(pa.array(fired.nonzero()[1])))


def decide(program: Program, columns: Mapping[str, Any]) -> Decisions:
    """Apply a policy to columns of applications.

    Args:
        columns: by name: numbers as float64 with NaN for missing, dates as datetime64, categories
            as Arrow arrays or sequences of strings and None. `program.columns` are needed, and
            those that have bands.
    """
    return Applications(program, columns).decisions()


def policy_columns(program: Program, rows: pa.Table) -> dict[str, Any]:
    """What a policy needs of rows of applications; a column that they have not is missing."""
    return {
        name: _of_arrow(rows[name]) if name in rows.column_names else absent(name, len(rows))
        for name in program.columns | program.bands.keys()
    }


def _of_arrow(column: pa.ChunkedArray) -> Any:
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        return column.cast(pa.string()).combine_chunks()
    return column.to_numpy()


def absent(column: str, count: int) -> Any:
    """An input that no application has."""
    match kind_of(column):
        case "category":
            return pa.nulls(count, pa.string())
        case "date":
            return np.full(count, "NaT", "datetime64[us]")
    return np.full(count, np.nan)


@dataclass(frozen=True)
class Mode:
    """What is unknown counts as: true if `possibly`; `at_low`: a number that has bands and is
    missing is first taken for the worst value of its Low band."""

    possibly: bool
    at_low: bool = False

    def negated(self) -> "Mode":
        return Mode(not self.possibly, self.at_low)


SURELY, POSSIBLY, AT_LOW = Mode(False), Mode(True), Mode(False, at_low=True)


class Applications:
    """Applications under a program; what several rules ask for is computed once."""

    def __init__(self, program: Program, columns: Mapping[str, Any]) -> None:
        self._program = program
        self._columns = columns
        self._known: dict[Any, Any] = {}
        self.bands = {name: self._band(name) for name in program.bands}
        self.count = len(next(iter(columns.values())))

    def decisions(self) -> Decisions:
        """What the program says."""
        program = self._program
        tier = np.full(self.count, program.default, np.int8)
        outcome = np.full(self.count, NO_OUTCOME, np.int8)
        fired: dict[str, Flags] = {}
        referred: dict[str, Flags] = {}
        undecided = np.ones(self.count, np.bool_) if program.first else None
        reviewed: list[tuple[Rule, Flags, Flags]] = []
        tiers: dict[int, Flags] = {}
        for rule in program.rules:
            fires, unknown = self.fires(rule)
            if undecided is not None:
                fires = fires & undecided
                unknown = None if unknown is None else unknown & undecided
                undecided &= ~fires
            if unknown is not None and unknown.any():
                reviewed.append((rule, unknown, fires))
            if rule.reason:
                fired[rule.reason] = fired[rule.reason] | fires if rule.reason in fired else fires
            if rule.tier is not None:
                tiers[rule.tier] = tiers[rule.tier] | fires if rule.tier in tiers else fires
            if rule.outcome is not None:
                np.maximum(outcome, np.where(fires, rule.outcome, NO_OUTCOME), out=outcome)
        for rank in sorted(tiers):  # of all that fire, the worst; of a first one there is no other
            tier[tiers[rank]] = rank
        for rule, unknown, fires in reviewed:
            found = unknown & (fires | self._matters(rule, tier, outcome))
            self._refer(rule, found, referred)
        for found in referred.values():
            np.maximum(outcome, np.where(found, REFER, NO_OUTCOME), out=outcome)
        return Decisions(tier, outcome, self.bands, fired | referred)

    def fires(self, rule: Rule) -> tuple[Flags, Flags | None]:
        """Where a rule fires, and where a missing input leaves it open, if it is for review."""
        if rule.missing == "ignore":
            return self.holds(rule.when, SURELY), None
        if rule.missing == "fires":
            return self.holds(rule.when, POSSIBLY), None
        surely, possibly = self.holds(rule.when, SURELY), self.holds(rule.when, POSSIBLY)
        if possibly is surely:
            return surely, None
        return self.holds(rule.when, AT_LOW), possibly & ~surely

    def _matters(self, rule: Rule, tier: Codes, outcome: Codes) -> Flags:
        """Where a decision would be another one if the rule fired, too."""
        differs = np.not_equal if self._program.first else np.greater
        found = np.zeros(self.count, np.bool_)
        if rule.tier is not None:
            found |= differs(rule.tier, tier)
        if rule.outcome is not None:
            found |= differs(rule.outcome, outcome)
        return found

    def _refer(self, rule: Rule, unknown: Flags, referred: dict[str, Flags]) -> None:
        for column in sorted(self._program.inputs(rule.when)):
            missing = self.missing(column)
            if missing is not None and (found := missing & unknown).any():
                reason = missing_reason(column)
                referred[reason] = referred[reason] | found if reason in referred else found

    def holds(self, node: Node, mode: Mode) -> Flags:
        """Where a condition is true. Where nothing is unknown, all modes return the same array."""
        match node:
            case Test():
                return self._test(node, mode)
            case Not():
                part = self.holds(node.part, mode.negated())
                return self._once((node, id(part)), lambda: ~part)
            case Holds():
                return self._once(
                    (node.name, mode), lambda: self.holds(self._program.conditions[node.name], mode)
                )
        join = np.logical_and if isinstance(node, All) else np.logical_or
        parts = [self.holds(part, mode) for part in node.parts]
        return self._once((node, *map(id, parts)), lambda: reduce(join, parts))

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    # --- tests ------------------------------------------------------------------------------------

    def _test(self, test: Test, mode: Mode) -> Flags:
        names = (test.column, *test.others)
        missing = [found for name in names if (found := self.missing(name)) is not None]
        if test.of_missing is not None:
            absent = missing[0] if missing else np.zeros(self.count, np.bool_)
            return absent if test.of_missing else self._once((test, "known"), lambda: ~absent)
        if not missing:
            return self._once(test, lambda: self._true(test, at_low=False))
        return self._once((test, mode), lambda: self._true_or_unknown(test, names, mode))

    def _true_or_unknown(self, test: Test, names: tuple[str, ...], mode: Mode) -> Flags:
        found = self._true(test, at_low=mode.at_low)
        if not mode.possibly:
            return found
        for name in names:
            missing = self.missing(name)
            if missing is not None and not (mode.at_low and self._low(name) is not None):
                found = found | missing
        return found

    def _true(self, test: Test, *, at_low: bool) -> Flags:
        """Where a test is true; false where its input is missing."""
        if test.kind == "category":
            codes, names = self._category(test.column)
            table = np.array([*(name in test.values for name in names), False])
            return self._looked_up(table, codes, test.negated)
        if test.kind == "band":
            codes = self.bands[banded(test.column) or ""]
            codes = np.maximum(codes, LOW) if at_low else codes
            table = np.append(_true_of(test, np.arange(len(BANDS))), False)
            return self._looked_up(table, codes, test.negated)
        number = self._at_low if at_low else self._number
        values = number(test.column)
        found = reduce(
            np.logical_or,
            (
                reduce(np.logical_and, (c.of(values, number) for c in every))
                for every in test.either
            ),
        )
        if not test.negated:
            return found
        unknown = [_missing(values), *(_missing(number(name)) for name in test.others)]
        return ~reduce(np.logical_or, unknown, found)

    @staticmethod
    def _looked_up(table: Flags, codes: Array, negated: bool) -> Flags:
        if negated:
            table[:-1] = ~table[:-1]
        return table.take(codes)  # what is missing is -1: the last entry

    # --- inputs -----------------------------------------------------------------------------------

    def missing(self, column: str) -> Flags | None:
        """Where an input is missing; None where it never is."""
        name = banded(column) or column
        if name not in self._known:
            if kind_of(name) == "category":
                found = self._category(name)[0] < 0
            else:
                found = _missing(self._number(name))
            self._known[name] = found if found.any() else None
        return self._known[name]

    def _number(self, name: str) -> Array:
        values: Array = self._columns[name]
        return values

    def _low(self, column: str) -> float | None:
        """The worst value of the Low band of a number that has bands."""
        edges = self._program.bands.get(banded(column) or column)
        return edges[0] if edges else None

    def _at_low(self, name: str) -> Array:
        """A number, at the worst value of its Low band where it is missing."""
        values, low, missing = self._number(name), self._low(name), self.missing(name)
        return values if low is None or missing is None else np.where(missing, low, values)

    def _band(self, name: str) -> Codes:
        values = self._number(name)
        # left: the upper edge is inclusive
        codes = np.searchsorted(self._program.bands[name], values, side="left")
        return np.where(np.isnan(values), NO_BAND, codes).astype(np.int8)

    def _category(self, name: str) -> tuple[Array, list[str]]:
        """Positions in the values that occur, -1 where missing; and those values."""
        return self._once((name, "category"), lambda: self._encoded(name))

    def _encoded(self, name: str) -> tuple[Array, list[str]]:
        column = self._columns[name]
        if not isinstance(column, pa.Array):
            column = pa.array(column, pa.string())
        encoded = column.dictionary_encode()
        return pc.fill_null(encoded.indices, -1).to_numpy(), encoded.dictionary.to_pylist()


def _missing(values: Array) -> Flags:
    found: Flags = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
    return found


def _true_of(test: Test, values: Array) -> Flags:
    """Where the comparisons of a test without other columns are true."""
    every = ([c.of(values, values.__getitem__) for c in each] for each in test.either)
    return reduce(np.logical_or, (reduce(np.logical_and, found) for found in every))
