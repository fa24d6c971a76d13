"""Decision tables as documents: inputs, rules and hit policy in the words of DMN.

docs/policy.md teaches the language.
"""

import json
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)

from credit_risk_dagster.domain.cleaning import Joint, clean
from credit_risk_dagster.domain.decision import (
    NO_OUTCOME,
    OUTCOMES,
    TIERS,
    All,
    AnyOf,
    Holds,
    Missing,
    Node,
    Not,
    Program,
    Rule,
    decide,
)
from credit_risk_dagster.domain.decoding import ACCEPTED, REASONS, Event, decode
from credit_risk_dagster.domain.documents import Document, NamedDocument, Problems, Where
from credit_risk_dagster.domain.unary import BANDS, CATEGORIES, DATES, NUMBERS, banded, parse_test

# Strict: `on`, which YAML reads as true, and "30" are no thresholds.
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Edges = tuple[Threshold, Threshold, Threshold]
Tier = Literal["Low", "Elevated", "Watchlist"]
Outcome = Literal["approve", "refer", "decline"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
ReasonCode = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]


def ascending(edges: Edges) -> Edges:
    """Check band edges. Raises ValueError when they do not ascend."""
    if not edges[0] < edges[1] < edges[2]:
        raise ValueError(f"band edges must ascend, got {list(edges)}")
    return edges


class Policy(NamedDocument):
    """A policy of either form."""

    @property
    @abstractmethod
    def table(self) -> "DecisionTable":
        """The policy as a decision table."""

    @property
    def program(self) -> Program:
        """What decides."""
        return self.table.program

    @property
    def reason_codes(self) -> tuple[str, ...]:
        """Every reason that it can give, in order."""
        return self.program.reasons

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, without what was computed of the original."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


# --- conditions -----------------------------------------------------------------------------------


def _cell(value: object) -> object:
    """A cell as text: YAML's numbers, dates and lists are tests, too."""
    if isinstance(value, bool):
        raise ValueError('YAML reads this as true or false, quote it: "NO"')
    if isinstance(value, list):
        return ", ".join(str(_cell(item)) for item in value)
    if isinstance(value, date):
        return value.isoformat()
    return repr(value) if isinstance(value, int | float) else value


Cell = Annotated[
    str,
    BeforeValidator(_cell),
    WithJsonSchema(
        {"type": ["string", "number", "array"], "items": {"type": ["string", "number"]}}
    ),
]
INPUTS = {
    **NUMBERS,
    **{f"band({name})": f"band of {name}: {', '.join(BANDS)}" for name in NUMBERS},
    **CATEGORIES,
    **DATES,
}


def _field(column: str) -> str:
    """The attribute of `Condition` that holds the test of an input."""
    number = banded(column)
    return f"band_{number}" if number else column


class _Logic(Document):
    """Tests of inputs, all of which must be true."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all: tuple["Condition", ...] | None = Field(None, min_length=1, description="all must be true")
    any: tuple["Condition", ...] | None = Field(None, min_length=1, description="one must be true")
    not_: "Condition | None" = Field(None, alias="not", description="must be false")
    holds: tuple[Name, ...] | None = Field(
        None, min_length=1, description="named conditions, all of which must be true"
    )

    @field_validator("holds", mode="before")
    @classmethod
    def _one_name(cls, names: object) -> object:
        return [names] if isinstance(names, str) else names

    @field_validator(*map(_field, INPUTS), check_fields=False)
    @classmethod
    def _test(cls, text: str | None, info: ValidationInfo) -> str | None:
        name = info.field_name or ""
        column = f"band({name[5:]})" if name.startswith("band_") else name
        return None if text is None else parse_test(column, text).text

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError('tests nothing, write an input and its test, such as dti: ">= 30"')
        return self

    @property
    def node(self) -> Node:
        """The condition, ready to be asked."""
        parts: list[Node] = [Holds(name) for name in self.holds or ()]
        for column in INPUTS:
            if text := getattr(self, _field(column)):
                parts.append(parse_test(column, text))
        parts += [part.node for part in self.all or ()]
        if self.any:
            parts.append(AnyOf(tuple(part.node for part in self.any)))
        if self.not_:
            parts.append(Not(self.not_.node))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def named(self) -> Iterator[tuple[Where, str]]:
        """The named conditions that it reads, and where."""
        for at, name in enumerate(self.holds or ()):
            yield ("holds", at), name
        for key in ("all", "any"):
            for at, part in enumerate(getattr(self, key) or ()):
                yield from (((key, at, *where), name) for where, name in part.named())
        if self.not_:
            yield from ((("not", *where), name) for where, name in self.not_.named())


_TESTS: Any = {
    _field(column): (Cell | None, Field(None, description=words, alias=column))
    for column, words in INPUTS.items()
}
Condition: Any = create_model("Condition", __base__=_Logic, __doc__=_Logic.__doc__, **_TESTS)
Condition.model_rebuild(_types_namespace={"Condition": Condition, "Name": Name})


# --- the table ------------------------------------------------------------------------------------


class RuleRow(Document):
    """A rule of the table.

    Attributes:
        id: names it in messages.
        when: the condition.
        tier, outcome: what it gives; an outcome is a recommendation beside the tier.
        reason: code in the rows for which it fires; none without one.
        words: the reason, for a person.
        missing: what happens where a missing input leaves the condition open. ignore: the rule
            does not fire. fires: it does. review: it decides as if a number that has bands were the
            worst of its Low band, and refers the application to a person if that may be wrong.
    """

    id: Name
    when: Condition
    tier: Tier | None = None
    outcome: Outcome | None = None
    reason: ReasonCode | None = None
    words: str = Field(min_length=1, max_length=200)
    missing: Missing = "review"

    @model_validator(mode="after")
    def _gives_something(self) -> Self:
        if self.tier is None and self.outcome is None:
            raise ValueError("gives nothing, add a tier or an outcome")
        return self

    @property
    def rule(self) -> Rule:
        return Rule(
            self.id,
            self.when.node,
            None if self.tier is None else TIERS.index(self.tier),
            None if self.outcome is None else OUTCOMES.index(self.outcome),
            self.reason,
            self.missing,
        )


class Example(Document):
    """What the policy must say of an application, checked whenever the policy is loaded.

    Attributes:
        given: columns of an event, under LendingClub's names and as messy, or inputs.
        tier, outcome, reasons: what is expected; an outcome of null is none at all.
    """

    given: dict[str, Any]
    tier: Tier
    outcome: Outcome | None = None
    reasons: tuple[str, ...] | None = None


class DecisionTable(Policy):
    """A policy as a decision table."""

    joint: Joint = "combined"
    bands: dict[str, Edges] = Field(
        description="inclusive upper edges of Low, Moderate and High, by number"
    )
    conditions: dict[Name, Condition] = Field({}, description="conditions that rules name")
    hit_policy: Literal["collect", "first"] = Field(
        "collect",
        description="collect: the worst tier and strictest outcome of all rules that fire; first: "
        "those of the first one",
    )
    rules: tuple[RuleRow, ...] = Field(min_length=1)
    default: Tier = Field("Low", description="the tier where no rule gives one")
    examples: tuple[Example, ...] = ()

    def content(self) -> dict[str, Any]:
        """Without what is as it is by default, so that fields to come change no hash."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @property
    def table(self) -> "DecisionTable":
        return self

    @cached_property
    def program(self) -> Program:
        return Program(
            self.joint,
            self.bands,
            {name: condition.node for name, condition in self.conditions.items()},
            tuple(row.rule for row in self.rules),
            self.hit_policy == "first",
            TIERS.index(self.default),
        )

    @field_validator("bands")
    @classmethod
    def _bands(cls, bands: dict[str, Edges]) -> dict[str, Edges]:
        wrong: list[tuple[Where, str]] = [
            ((name,), "is no number of an application, correct its name or remove it")
            for name in bands.keys() - NUMBERS.keys()
        ]
        wrong += [
            ((name,), "is missing, add it")
            for name in ("dti", "revol_util", "int_rate")
            if name not in bands
        ]
        for name, edges in bands.items():
            if not edges[0] < edges[1] < edges[2]:
                wrong.append(((name,), f"band edges must ascend, got {list(edges)}"))
        if wrong:
            raise Problems(wrong)
        return bands

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        wrong = [*self._wrong_names(), *self._wrong_bands()]
        if not wrong:
            wrong = list(self._wrong_examples())
        if wrong:
            raise Problems(wrong)
        return self

    def _wrong_names(self) -> Iterator[tuple[Where, str]]:
        known = self.conditions.keys()
        for name, condition in self.conditions.items():
            yield from self._unknown(("conditions", name), condition, known)
            if name in self._reached(condition):
                yield ("conditions", name), "needs itself, name other conditions in it"
        ids: set[str] = set()
        for at, row in enumerate(self.rules):
            yield from self._unknown(("rules", at, "when"), row.when, known)
            if row.id in ids:
                yield ("rules", at, "id"), f"{row.id} is the id of another rule, too: rename one"
            ids.add(row.id)

    @staticmethod
    def _unknown(at: Where, condition: Any, known: Collection[str]) -> Iterator[tuple[Where, str]]:
        for where, name in condition.named():
            if name not in known:
                yield (
                    (*at, *where),
                    f"there is no condition {name!r}, add it to conditions"
                    + (f" (there is: {', '.join(sorted(known))})" if known else ""),
                )

    def _reached(self, condition: Any) -> set[str]:
        """The named conditions that a condition needs, and those that they need."""
        found: set[str] = set()
        names = [name for _, name in condition.named()]
        while names:
            name = names.pop()
            if name in self.conditions and name not in found:
                found.add(name)
                names += [other for _, other in self.conditions[name].named()]
        return found

    def _wrong_bands(self) -> Iterator[tuple[Where, str]]:
        conditions: list[tuple[Where, Any]] = [
            *((("conditions", name), found) for name, found in self.conditions.items()),
            *((("rules", at, "when"), row.when) for at, row in enumerate(self.rules)),
        ]
        while conditions:
            where, condition = conditions.pop()
            for number in NUMBERS.keys() - self.bands.keys():
                if getattr(condition, f"band_{number}"):
                    at = (*where, f"band({number})")
                    yield at, f"{number} has no bands, add its edges to bands"
            for key in ("all", "any"):
                parts = enumerate(getattr(condition, key) or ())
                conditions += [((*where, key, at), part) for at, part in parts]
            if condition.not_:
                conditions.append(((*where, "not"), condition.not_))

    def _wrong_examples(self) -> Iterator[tuple[Where, str]]:
        for at, example in enumerate(self.examples):
            try:
                tier, outcome, reasons = self.says(example.given)
            except ValueError as error:
                yield ("examples", at, "given"), str(error)
                continue
            for name, found, expected in (
                ("tier", tier, example.tier),
                ("outcome", outcome, example.outcome),
                ("reasons", list(reasons), list(example.reasons or ())),
            ):
                if found != expected and name in example.model_fields_set:
                    said = f"the policy says {found}, the example {expected}: correct either"
                    yield ("examples", at, name), said

    def says(self, given: Mapping[str, Any]) -> tuple[str, str | None, tuple[str, ...]]:
        """Tier, outcome and reasons of an application of which nothing else is known.

        Raises:
            ValueError: a column is unknown, or its value cannot be.
        """
        decisions = decide(self.program, inputs_of(given, self.joint))
        outcome = int(decisions.outcome[0])
        return (
            TIERS[decisions.tier[0]],
            None if outcome == NO_OUTCOME else OUTCOMES[outcome],
            tuple(decisions.reasons()[0].as_py()),
        )


def inputs_of(given: Mapping[str, Any], joint: Joint) -> dict[str, Any]:
    """The columns of one application: of an event's fields, and of inputs under their own names.

    Raises:
        ValueError: a column is unknown, or its value cannot be.
    """
    of_event = {name: value for name, value in given.items() if name in Event.__struct_fields__}
    applications = clean(decode([json.dumps(of_event, default=str).encode()]), joint)
    reason = int(applications.reasons[0])
    if reason != ACCEPTED and not REASONS[reason].startswith("missing_required"):
        raise ValueError(f"{REASONS[reason]}, write a value that the column can have")
    columns = applications.columns() | {"pd": np.array([np.nan])}
    for name in given.keys() - of_event.keys():
        if name not in NUMBERS:
            raise ValueError(f"{name} is no column of an application, correct its name")
        if not isinstance(given[name], int | float):
            raise ValueError(f"{name} must be a number")
        columns[name] = np.array([float(given[name])])
    return columns
