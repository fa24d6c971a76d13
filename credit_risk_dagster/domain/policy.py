"""The credit policy: a validated YAML document, identified by its name and content hash."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from credit_risk_dagster.domain.documents import (
    Document,
    NamedDocument,
    load_document,
    parse_document,
    validate_document,
)
from credit_risk_dagster.errors import PlatformError

BANDS = ("Low", "Moderate", "High", "Very High")
TIERS = ("Low", "Elevated", "Watchlist")

# Strict: `on`, which YAML reads as true, and "30" are no thresholds.
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Edges = tuple[Threshold, Threshold, Threshold]


class PolicyError(PlatformError):
    """A policy document that cannot be used; the message names the file, the field and the fix."""


class BandEdges(Document):
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


class EarlyWarning(Document):
    """(DTI or utilization at least ...) and (delinquencies above ... or inquiries at least ...)."""

    dti_at_least: Threshold
    revol_util_at_least: Threshold
    delinq_2yrs_above: Threshold
    inq_last_6mths_at_least: Threshold


class Policy(NamedDocument):
    """Bands, the early-warning rule and where Elevated begins."""

    bands: BandEdges
    early_warning: EarlyWarning
    elevated_from: Literal["Moderate", "High", "Very High"]

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
    return load_document(path, Policy, "policy", PolicyError)


def parse_policy(text: str, origin: str) -> Policy:
    """Validate a policy document (YAML) that comes from somewhere else than a file of its own.

    Args:
        origin: where it comes from, for messages.

    Raises:
        PolicyError: it is not YAML, or a field is missing, unknown or impossible.
    """
    return parse_document(text, origin, Policy, "policy", PolicyError)


def validate_policy(content: object, origin: str) -> Policy:
    """Validate a policy that is made of plain mappings, lists and numbers.

    Raises:
        PolicyError: a field is missing, unknown or impossible.
    """
    return validate_document(content, origin, Policy, "policy", PolicyError)
