"""The credit policy: a validated YAML document, identified by its name and content hash.

A decision table, or the older form of four thresholds, which loads for ever: it is translated.
"""

from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from credit_risk_dagster.domain.decision import TIERS
from credit_risk_dagster.domain.decision_table import (
    DecisionTable,
    Edges,
    Policy,
    Threshold,
    ascending,
)
from credit_risk_dagster.domain.documents import (
    Document,
    parse_content,
    read_text,
    validate_document,
)
from credit_risk_dagster.domain.unary import BANDS
from credit_risk_dagster.errors import PlatformError

__all__ = ["BANDS", "TIERS", "DecisionTable", "Policy", "PolicyError", "Thresholds", "load_policy"]


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
        return ascending(edges)


class EarlyWarning(Document):
    """(DTI or utilization at least ...) and (delinquencies above ... or inquiries at least ...)."""

    dti_at_least: Threshold
    revol_util_at_least: Threshold
    delinq_2yrs_above: Threshold
    inq_last_6mths_at_least: Threshold


class Thresholds(Policy):
    """The older form: bands, the early-warning rule and where Elevated begins. A missing value
    fires no rule, and the first borrower's figures decide on a joint application."""

    bands: BandEdges
    early_warning: EarlyWarning
    elevated_from: Literal["Moderate", "High", "Very High"]

    @cached_property
    def table(self) -> DecisionTable:
        """The same policy as a decision table."""
        return DecisionTable.model_validate(self._as_table())

    def _as_table(self) -> dict[str, Any]:
        rule = self.early_warning
        signals = {
            "high-dti": ("stress", "dti", ">=", rule.dti_at_least),
            "high-utilization": ("stress", "revol_util", ">=", rule.revol_util_at_least),
            "delinquent": ("behaviour", "delinq_2yrs", ">", rule.delinq_2yrs_above),
            "asking": ("behaviour", "inq_last_6mths", ">=", rule.inq_last_6mths_at_least),
        }
        beside = {"stress": ["{}", "behaviour"], "behaviour": ["stress", "{}"]}
        rules: list[dict[str, Any]] = [
            {
                "id": name,
                "when": {"holds": [condition.format(name) for condition in beside[group]]},
                "tier": "Watchlist",
                "reason": f"{column.upper()}{relation}{threshold:.15g}",
                "words": f"{column} {relation} {threshold:g}, with a signal of the other kind",
                "missing": "ignore",
            }
            for name, (group, column, relation, threshold) in signals.items()
        ]
        at_least = f">= {self.elevated_from}"
        rules.append(
            {
                "id": "elevated",
                "when": {"any": [{"band(dti)": at_least}, {"band(revol_util)": at_least}]},
                "tier": "Elevated",
                "words": f"The band of the DTI or of the utilization is {self.elevated_from}",
                "missing": "ignore",
            }
        )
        conditions: dict[str, Any] = {
            name: {column: f"{relation} {threshold!r}"}
            for name, (_, column, relation, threshold) in signals.items()
        }
        for group in beside:
            names = [name for name, (of, *_) in signals.items() if of == group]
            conditions[group] = {"any": [{"holds": name} for name in names]}
        return {
            "name": self.name,
            "joint": "primary",
            "bands": self.bands.model_dump(),
            "conditions": conditions,
            "rules": rules,
        }


def load_policy(path: Path) -> Policy:
    """Read and validate a policy file.

    Raises:
        PolicyError: the file is missing, is not YAML, or a field is missing, unknown or impossible.
    """
    return parse_policy(read_text(path, "policy", PolicyError), str(path))


@cache
def built_in_hashes() -> list[str]:
    """The content hashes of the policies that this version brings."""
    files = (Path(__file__).parent / "policies").glob("*.yaml")
    return sorted(load_policy(file).content_hash for file in files)


@lru_cache(maxsize=32)
def parse_policy(text: str, origin: str) -> Policy:
    """Validate a policy document (YAML) that comes from somewhere else than a file of its own.

    Args:
        origin: where it comes from, for messages.

    Raises:
        PolicyError: it is not YAML, or a field is missing, unknown or impossible.
    """
    return validate_policy(parse_content(text, origin, "policy", PolicyError), origin)


def validate_policy(content: object, origin: str) -> Policy:
    """Validate a policy that is made of plain mappings, lists and numbers.

    Raises:
        PolicyError: a field is missing, unknown or impossible.
    """
    return validate_document(content, origin, form_of(content), "policy", PolicyError)


def form_of(content: object) -> type[Policy]:
    """Which form a document has: a table has rules."""
    return DecisionTable if isinstance(content, dict) and "rules" in content else Thresholds
