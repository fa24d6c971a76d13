"""What is wrong, or odd, with a policy document: every finding with its line, its field and a fix.

Whether rules can fire, and which overlap, is asked of the policy itself: it decides on made-up
applications that stand for all there can be, one for each side of every number it names.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import ValidationError

from credit_risk_dagster.domain.cleaning import clean
from credit_risk_dagster.domain.decision import (
    AT_LOW,
    All,
    AnyOf,
    Applications,
    Holds,
    Node,
    Not,
    Program,
    Rule,
    absent,
)
from credit_risk_dagster.domain.decision_table import DecisionTable
from credit_risk_dagster.domain.decoding import ACCEPTED, decode
from credit_risk_dagster.domain.documents import Where, problems
from credit_risk_dagster.domain.policy import PolicyError, form_of, parse_policy
from credit_risk_dagster.domain.unary import (
    Column,
    Flags,
    Test,
    banded,
    kind_of,
)

# So many applications are made up for a question at most; beyond, they are a sample of all.
MAX_CASES: Final = 200_000
_NEVER = "no application can ever fire it, correct it or remove it"


@dataclass(frozen=True)
class Finding:
    """Something wrong (`error`: the policy cannot be used) or odd, and what to do.

    Attributes:
        line: of the file, from 1.
        field: in the document.
    """

    line: int
    field: str
    message: str
    error: bool = True

    def __str__(self) -> str:
        kind = "error" if self.error else "warning"
        return f"line {self.line}: {kind}: {self.field}: {self.message}"


def check(text: str, sample: Callable[[], Sequence[bytes | None]] | None = None) -> list[Finding]:
    """Everything that is wrong with a policy document, in the order of its lines.

    Args:
        text: the YAML.
        sample: returns events, which some rule may never fire for.

    Raises:
        PolicyError: it is not YAML.
    """
    content = _content(text)
    root = yaml.compose(text, Loader=yaml.SafeLoader)

    def finding(where: Where, message: str, *, error: bool) -> Finding:
        return Finding(_line(root, where), _field(where), message, error)

    try:
        policy = form_of(content).model_validate(content)
    except ValidationError as error:
        found = [
            finding(where, message, error=True) for where, message in problems(error, "policy")
        ]
    else:
        odd: list[tuple[Where, str]] = []
        if isinstance(policy, DecisionTable):
            odd += _odd(policy)
            if sample is not None:
                odd += _never_fired(
                    policy.program, sample(), {at for at, words in odd if words == _NEVER}
                )
        found = [finding(where, message, error=False) for where, message in odd]
    return sorted(found, key=lambda each: (each.line, each.field))


def _content(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        parse_policy(text, "of the file")  # which says so
        raise PolicyError("the policy cannot be read") from None


def _field(where: Where) -> str:
    return ".".join(map(str, where)) or "document"


def _line(node: Any, where: Where) -> int:
    """The line of a field, or of the nearest around it."""
    line = 1 if node is None else node.start_mark.line + 1
    for step in where:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(step)]
            if not found:
                return line
            line, node = found[-1][0].start_mark.line + 1, found[-1][1]
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value)
        ):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return line


# --- oddities -------------------------------------------------------------------------------------


def _odd(policy: DecisionTable) -> Iterator[tuple[Where, str]]:
    program = policy.program
    yield from _unused(policy)
    impossible = {at for at in range(len(program.rules)) if not _can_fire(program, [at]).any()}
    for at in sorted(impossible):
        yield ("rules", at, "when"), _NEVER
    if program.first:
        yield from _first(program, impossible)
    yield from _gaps(program, impossible)


def _never_fired(
    program: Program, events: Sequence[bytes | None], told: set[Where]
) -> Iterator[tuple[Where, str]]:
    cleaned = clean(decode(events), program.joint)
    columns = cleaned.columns() | {"pd": absent("pd", len(events))}
    accepted = cleaned.reasons == ACCEPTED
    applications = Applications(program, columns)
    for at, rule in enumerate(program.rules):
        where: Where = ("rules", at, "when")
        if where in told or "pd" in program.inputs(rule.when):  # which no event has
            continue
        if not (applications.fires(rule)[0] & accepted).any():
            yield (
                where,
                f"none of the {accepted.sum():,} applications of the sample fires it, check its "
                "numbers and values",
            )


def _unused(policy: DecisionTable) -> Iterator[tuple[Where, str]]:
    used = {name for row in policy.rules for _, name in row.when.named()}
    used |= {name for found in policy.conditions.values() for _, name in found.named()}
    for name in policy.conditions:
        if name not in used:
            yield ("conditions", name), "no rule names it, remove it"


def _first(program: Program, impossible: set[int]) -> Iterator[tuple[Where, str]]:
    """Of the hit policy `first`: rules that are never reached, and rules that overlap."""
    hidden = set(impossible)
    for at in range(1, len(program.rules)):
        if at in hidden:
            continue
        earlier = [k for k in range(at) if k not in impossible and _share(program, k, at)]
        fired = _can_fire(program, [at, *earlier])
        if not earlier or fired.shape[1] == 0:
            continue
        if not (fired[0] & ~fired[1:].any(axis=0)).any():
            hidden.add(at)
            names = ", ".join(program.rules[k].id for k in earlier)
            yield (
                ("rules", at, "when"),
                f"is never reached: whoever fires it fires one of {names} first; move it up, "
                "narrow those or remove it",
            )
    for one, other in combinations(range(len(program.rules)), 2):
        a, b = program.rules[one], program.rules[other]
        if {one, other} & hidden or (a.tier, a.outcome) == (b.tier, b.outcome):
            continue
        if _can_fire(program, [one, other]).all(axis=0).any():
            yield (
                ("rules", other, "when"),
                f"overlaps with rule {a.id}, which decides where both fire: leave that out of one",
            )


def _share(program: Program, one: int, other: int) -> bool:
    rules = program.rules
    return bool(program.inputs(rules[one].when) & program.inputs(rules[other].when))


def _gaps(program: Program, impossible: set[int]) -> Iterator[tuple[Where, str]]:
    """Numbers between those that several rules test alone, and that none of them covers."""
    by_column: dict[str, list[int]] = {}
    for at, rule in enumerate(program.rules):
        columns = program.inputs(rule.when)
        for column in columns:
            if at not in impossible and len(columns) == 1 and kind_of(column) == "number":
                by_column.setdefault(column, []).append(at)
    for column, rules in by_column.items():
        if len(rules) < 2:
            continue
        fired, values = _can_fire(program, rules, with_values=column)
        order = np.argsort(values)
        values, covered = values[order], fired.any(axis=0)[order]
        ends = np.flatnonzero(covered)
        if not len(ends):
            continue
        inside = slice(ends[0], ends[-1] + 1)
        for gap in _runs(values[inside], ~covered[inside]):
            names = ", ".join(program.rules[at].id for at in rules)
            yield (
                ("rules", rules[-1], "when"),
                f"{column} {gap} is in none of {names}, close the gap between their ranges",
            )


def _runs(values: npt.NDArray[np.float64], flags: Flags) -> Iterator[str]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    for start, end in edges.reshape(-1, 2):
        low, high = values[start], values[end - 1]
        yield f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"


# --- made-up applications -------------------------------------------------------------------------


def _can_fire(program: Program, rules: list[int], with_values: str | None = None) -> Any:
    """Which of the rules fire for made-up applications, shape (rules, applications); and the values
    of a column, if it is named."""
    chosen = [program.rules[at] for at in rules]
    inputs = frozenset().union(*(program.inputs(rule.when) for rule in chosen))
    points = _points(program, [rule.when for rule in chosen], inputs)
    sizes = [len(points[name]) for name in points]
    total = prod(sizes)
    if total <= MAX_CASES:
        at = np.unravel_index(np.arange(total), sizes) if sizes else ()
        count = total
    else:  # a sample of them
        random = np.random.default_rng(0)
        at, count = tuple(random.integers(0, size, MAX_CASES) for size in sizes), MAX_CASES
    columns: dict[str, Any] = {name: absent(name, count) for name in program.bands}
    columns |= {name: points[name][where] for name, where in zip(points, at, strict=True)}
    applications = Applications(program, columns)
    fired = np.array([_fires(applications, rule) for rule in chosen])
    return fired if with_values is None else (fired, columns[with_values])


def _fires(applications: Applications, rule: Rule) -> Flags:
    fires, _ = applications.fires(rule)
    return fires if rule.missing != "review" else applications.holds(rule.when, AT_LOW)


def _points(
    program: Program, nodes: list[Node], inputs: Iterable[str]
) -> dict[str, npt.NDArray[Any]]:
    """For each input the values that stand for all: each number that is named, and one on either
    side; each category and another one. What is missing is no way for a rule to fire that is
    meant: it has none, but for tests of `missing`."""
    numbers: dict[str, set[Any]] = {name: set() for name in inputs}
    tests = [test for node in nodes for test in _tests(program, node)]
    for test in tests:
        name = banded(test.column) or test.column
        if test.kind == "band":
            numbers[name] |= set(program.bands[name])
        numbers[name] |= set(test.values)
        operands = [c.operand for each in test.either for c in each] if test.kind != "band" else []
        numbers[name] |= {o for o in operands if not isinstance(o, Column)}
    for test in tests:  # where columns are compared, the values that make them equal
        for operand in (c.operand for each in test.either for c in each):
            if isinstance(operand, Column):
                mine, other = numbers[test.column], numbers[operand.name]
                other |= set() if other else {1.0, 100.0, 10_000.0}  # any will do
                mine |= {operand.factor * value for value in other}
    return {name: _around(name, values) for name, values in sorted(numbers.items())}


def _around(name: str, values: set[Any]) -> npt.NDArray[Any]:
    kind = kind_of(name)
    if kind == "category":
        return np.array([*sorted(values), "other", None], dtype=object)
    if kind == "date":
        day = np.timedelta64(1, "D")
        found = {np.datetime64("NaT", "us")} | {v + d for v in values for d in (-day, 0 * day, day)}
        return np.array(sorted(found, key=str), "datetime64[us]")
    ordered = sorted(values)
    between = [(a + b) / 2 for a, b in pairwise(ordered)]
    beside = [np.nextafter(v, side) for v in ordered for side in (-np.inf, np.inf)]
    beyond = [ordered[0] - 1, ordered[-1] + 1] if ordered else [1.0]
    found = {v for v in (*ordered, *between, *beside, *beyond) if v >= 0}
    return np.array([*sorted(found), np.nan])


def _tests(program: Program, node: Node) -> Iterator[Test]:
    match node:
        case Test():
            yield node
        case Holds():
            yield from _tests(program, program.conditions[node.name])
        case Not():
            yield from _tests(program, node.part)
        case All() | AnyOf():
            for part in node.parts:
                yield from _tests(program, part)
