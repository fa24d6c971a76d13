"""The credit policy: a validated YAML document, identified by its name and content hash."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from credit_risk_dagster.errors import PlatformError

BANDS = ("Low", "Moderate", "High", "Very High")
TIERS = ("Low", "Elevated", "Watchlist")

# Strict: `on`, which YAML reads as true, and "30" are no thresholds.
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Edges = tuple[Threshold, Threshold, Threshold]


class PolicyError(PlatformError):
    """A policy document that cannot be used; the message names the file, the field and the fix."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BandEdges(_Document):
    """Inclusive upper edges of Low, Moderate and High, in percent."""

    dti: Edges
    revol_util: Edges
    int_rate: Edges

    @field_validator("*")
    @classmethod
    def _ascending(cls, edges: Edges) -> Edges:
        if not edges[0] < edges[1] < edges[2]:
            raise ValueError(f"band edges must ascend, got {list(edges)}")
        return edges


class EarlyWarning(_Document):
    """(DTI or utilization at least ...) and (delinquencies above ... or inquiries at least ...)."""

    dti_at_least: Threshold
    revol_util_at_least: Threshold
    delinq_2yrs_above: Threshold
    inq_last_6mths_at_least: Threshold


class Policy(_Document):
    """Bands, the early-warning rule and where Elevated begins."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    bands: BandEdges
    early_warning: EarlyWarning
    elevated_from: Literal["Moderate", "High", "Very High"]

    @property
    def document(self) -> str:
        """The policy as canonical JSON: equal policies have equal documents."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def content_hash(self) -> str:
        """SHA-256 of the canonical document, in hexadecimal."""
        return hashlib.sha256(self.document.encode()).hexdigest()

    @property
    def version(self) -> str:
        """Name and short hash, for people: `lendingclub-v1@1a2b3c4d5e6f`."""
        return f"{self.name}@{self.content_hash[:12]}"

    @property
    def reason_codes(self) -> tuple[str, str, str, str]:
        """The early-warning reasons in their fixed order, with this policy's thresholds."""
        rule = self.early_warning
        return (
            f"DTI>={rule.dti_at_least:.15g}",
            f"REVOL_UTIL>={rule.revol_util_at_least:.15g}",
            f"DELINQ_2YRS>{rule.delinq_2yrs_above:.15g}",
            f"INQ_LAST_6MTHS>={rule.inq_last_6mths_at_least:.15g}",
        )


def load_policy(path: Path) -> Policy:
    """Read and validate a policy file.

    Raises:
        PolicyError: the file is missing, is not YAML, or a field is missing, unknown or impossible.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy {path} cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-45
        raise PolicyError(f"policy {path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'document'}: {_advice(problem)}"
            for problem in error.errors()
        )
        raise PolicyError(f"policy {path} is not valid: {problems}") from error


_ADVICE = {
    "missing": "is missing, add it",
    "extra_forbidden": "is no field of a policy, correct its name or remove it",
    "model_type": "must be a mapping of fields to values",
    "tuple_type": "must be a list of three numbers",
    "too_long": "must be a list of three numbers",
}


def _advice(problem: ErrorDetails) -> str:
    return _ADVICE.get(problem["type"], problem["msg"].removeprefix("Value error, "))
