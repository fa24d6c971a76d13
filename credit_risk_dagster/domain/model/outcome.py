"""What counts as a bad loan: a validated YAML document, identified by its name and content hash."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from credit_risk_dagster.domain.documents import NamedDocument, load_document
from credit_risk_dagster.errors import PlatformError

Codes = npt.NDArray[np.int8]

_BUILTIN = Path(__file__).parent / "outcomes"
BUILTIN_OUTCOMES = tuple(sorted(path.stem for path in _BUILTIN.glob("*.yaml")))
UNKNOWN, GOOD, BAD = range(3)

_CONDITION = re.compile(r"(days_past_due|balance|recovered) *(>=|<=|>|<) *(\d+(?:\.\d+)?)")
_COMPARE: dict[str, Any] = {
    ">=": np.greater_equal,
    "<=": np.less_equal,
    ">": np.greater,
    "<": np.less,
}


class OutcomeError(PlatformError):
    """An outcome definition that cannot be used; the message says why, and the fix."""


class Outcome(NamedDocument):
    """What makes a loan bad, and what good: statuses, and conditions such as `days_past_due >= 60`
    (of days_past_due, balance, recovered). What is in neither has no outcome, and is left out.

    Attributes:
        horizon_months: bad is what was bad at any time until so many months after the first
            decision; without it, what was observed last counts, however old the loan was then.
    """

    bad: list[str] = Field(min_length=1)
    good: list[str] = Field(min_length=1)
    horizon_months: int | None = Field(None, ge=1, le=120)

    def content(self) -> dict[str, Any]:
        """As of every document; one without a horizon is what it was before there were any."""
        return self.model_dump(mode="json", exclude_none=True)

    @field_validator("bad", "good", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("bad", "good")
    @classmethod
    def _in_one_order(cls, given: list[str]) -> list[str]:
        for one in given:
            if re.search("[<>=]", one) and not _CONDITION.fullmatch(one):
                raise ValueError(f"{one!r} is no condition like days_past_due >= 60")
        return sorted(set(given))

    @model_validator(mode="after")
    def _disjoint(self) -> "Outcome":
        if both := sorted(set(self.bad) & set(self.good)):
            raise ValueError(f"{', '.join(both)} cannot be bad and good, remove it from one")
        return self

    def classes(self, observed: pa.Table) -> Codes:
        """`BAD`, `GOOD` or `UNKNOWN` of each observation; what is bad and good by it is bad.

        Args:
            observed: columns of `observed.OBSERVED`.
        """
        codes = np.full(len(observed), UNKNOWN, np.int8)
        for code, given in ((GOOD, self.good), (BAD, self.bad)):
            conditions = [found for one in given if (found := _CONDITION.fullmatch(one))]
            meets = pc.is_in(observed["status"], pa.array(given)).to_numpy()
            for name, how, number in (found.groups() for found in conditions):
                values = observed[name].to_numpy()
                meets = meets | _COMPARE[how](values, float(number))  # NaN is never
            codes[meets] = code
        return codes


# Beside each probability; a bad loan by another document is whatever that says.
_PROBABILITIES = {
    "early-delinquency": (
        "early delinquency probability",
        "no fixed horizon: as far as each loan of the sample was observed",
    ),
    "matured": ("default probability", "over the loan's whole term"),
}


def probability_of(version: str) -> tuple[str, str]:
    """What the probability of an outcome is called, and its horizon.

    Only what is one is called a default probability.

    Args:
        version: of the outcome, as of `NamedDocument.version`.
    """
    name = re.sub(r"-v\d+$", "", version.partition("@")[0])
    words = name.replace("-", " ").replace("_", " ")
    return _PROBABILITIES.get(name, (f"probability of {words}", "its horizon is the outcome's"))


def load_outcome(name_or_path: str) -> Outcome:
    """Read an outcome definition.

    Args:
        name_or_path: one of `BUILTIN_OUTCOMES`, or a YAML file.

    Raises:
        OutcomeError: there is none of that name, or the file is not valid.
    """
    path = _BUILTIN / f"{name_or_path}.yaml"
    if name_or_path not in BUILTIN_OUTCOMES:
        path = Path(name_or_path)
        if not path.suffix:
            raise OutcomeError(
                f"there is no outcome {name_or_path!r}: take {' or '.join(BUILTIN_OUTCOMES)}, or "
                "a YAML file with name, bad and good"
            )
    return load_document(path, Outcome, "outcome", OutcomeError)
