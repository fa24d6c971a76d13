"""The credit policy: a validated YAML document, identified by its name and content hash."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from credit_risk_dagster.errors import PlatformError

BANDS = ("Low", "Moderate", "High", "Very High")
TIERS = ("Low", "Elevated", "Watchlist")

Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]
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
            f"DTI>={rule.dti_at_least:g}",
            f"REVOL_UTIL>={rule.revol_util_at_least:g}",
            f"DELINQ_2YRS>{rule.delinq_2yrs_above:g}",
            f"INQ_LAST_6MTHS>={rule.inq_last_6mths_at_least:g}",
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
    except yaml.YAMLError as error:
        raise PolicyError(f"policy {path} is not YAML: {error}") from error
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'document'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise PolicyError(f"policy {path} is not valid: {problems}") from error
