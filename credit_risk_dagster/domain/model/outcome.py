"""What counts as a bad loan: a validated YAML document, identified by its name and content hash."""

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from credit_risk_dagster.domain.documents import NamedDocument, load_document
from credit_risk_dagster.errors import PlatformError

_BUILTIN = Path(__file__).parent / "outcomes"
BUILTIN_OUTCOMES = tuple(sorted(path.stem for path in _BUILTIN.glob("*.yaml")))


class OutcomeError(PlatformError):
    """An outcome definition that cannot be used; the message says why, and the fix."""


class Outcome(NamedDocument):
    """Which values of `loan_status` are bad and which are good; a loan with another one has no
    outcome, and is left out."""

    bad: list[str] = Field(min_length=1)
    good: list[str] = Field(min_length=1)

    @field_validator("bad", "good")
    @classmethod
    def _in_one_order(cls, statuses: list[str]) -> list[str]:
        return sorted(set(statuses))

    @model_validator(mode="after")
    def _disjoint(self) -> "Outcome":
        if both := sorted(set(self.bad) & set(self.good)):
            raise ValueError(f"{', '.join(both)} cannot be bad and good, remove it from one")
        return self


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
