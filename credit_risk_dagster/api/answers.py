"""What the API answers with: the models that its documentation shows, and their JSON.

Answers are written by msgspec, from what the domain and the warehouse return; the models describe
them.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec
from fastapi import Response
from pydantic import BaseModel, Field

Tier = Literal["Low", "Elevated", "Watchlist"]
Band = Literal["Low", "Moderate", "High", "Very High"]

FEATURES = {
    "loan_amnt": 28000.0,
    "annual_inc": 90000.0,
    "dti": 38.01,
    "int_rate": 14.07,
    "revol_util": 81.2,
    "delinq_2yrs": 1.0,
    "inq_last_6mths": 2.0,
    "credit_history_years": 16.583333333333332,
    "emp_length_yrs": 3.0,
    "term_months": 60.0,
    "purpose": "debt_consolidation",
    "grade": "C",
    "addr_state": "NJ",
    "home_ownership": "MORTGAGE",
    "application_type": "joint",
    "annual_inc_primary": 52000.0,
    "dti_primary": 61.5,
    "annual_inc_joint": 90000.0,
    "dti_joint": 38.01,
}


_PD: Any = Field(
    None,
    description="probability of the outcome that the active model was trained on, within its "
    "horizon; by early_delinquency that is early delinquency, and no default within 12 months",
    examples=[0.182],
)
_PD_REASONS: Any = Field(
    None,
    description="what raises pd most: an explanation for staff. As long as the policy decides, the "
    "decision's reasons are `reasons`",
    examples=[["Interest rate of the loan is high", "Many recent credit inquiries"]],
)
_MODEL: Any = Field(None, description="the model's version", examples=["logistic@1a2b3c4d5e6f"])


_ARM: Any = Field(
    None,
    description="arm of the split that runs: its salt, and champion or challenger",
    examples=["autumn/champion"],
)


class _Decided(BaseModel):
    """The policy's decision; nulls when the event was rejected."""

    outcome: Literal["scored", "rejected"] = Field(examples=["scored"])
    risk_tier: Tier | None = Field(examples=["Watchlist"])
    recommendation: Literal["approve", "refer", "decline"] | None = Field(
        description="what the policy recommends beside the tier, if anything", examples=[None]
    )
    early_warning: bool | None = Field(examples=[True])
    figures: Literal["primary", "combined", "mixed", "fallback"] | None = Field(
        description="whose annual_inc and dti decided on a joint application",
        examples=["combined"],
    )
    reasons: list[str] | None = Field(
        description="codes of the rules that fired, in the policy's order; MISSING:... names what "
        "was missing where it is referred for that",
        examples=[["DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0", "INQ_LAST_6MTHS>=2"]],
    )
    dti_band: Band | None = Field(examples=["High"])
    util_band: Band | None = Field(description="of revol_util", examples=["Very High"])
    rate_band: Band | None = Field(description="of int_rate", examples=["Moderate"])
    reject_reason: str | None = Field(
        description="why it cannot be scored", examples=["missing_required:dti"]
    )
    features: dict[str, float | str | None] = Field(
        description="the cleaned values; empty when it was rejected", examples=[FEATURES]
    )


class Assessment(_Decided):
    """What the stream would decide of an application. pd, pd_reasons and model are there when a
    model is active, arm when a split runs."""

    pd: float | None = _PD
    pd_reasons: list[str] | None = _PD_REASONS
    model: str | None = _MODEL
    arm: str | None = _ARM
    loan_id: str | None = Field(examples=["127000001"])
    policy: str = Field(examples=["lendingclub-v2@15f92f12269e"])


class Accepted(BaseModel):
    """The event is in the topic, on every replica that is in sync; a run scores it in a moment."""

    loan_id: str = Field(examples=["127000001"])
    topic: str = Field(examples=["loan_applications"])
    partition: int = Field(examples=[2])
    offset: int = Field(examples=[1041])


class Decision(_Decided):
    """A decision, and all that it came from."""

    pd: float | None = _PD
    pd_reasons: list[str] | None = _PD_REASONS
    model: str | None = _MODEL
    arm: str | None = _ARM
    loan_id: str | None = Field(examples=["127000001"])
    decided_at: datetime
    policy: str | None = Field(description="name@hash", examples=["lendingclub-v2@15f92f12269e"])
    event_time: datetime | None = Field(description="the application's own time")
    recorded_at: datetime = Field(description="the record's timestamp; 1970-01-01 without one")
    cluster_id: str = Field(examples=["b1f2e6c4-3c57-4b0e-9d4f-5f0e7d1c2a3b"])
    topic: str = Field(examples=["loan_applications"])
    epoch: int = Field(description="counts how often the topic was started over", examples=[0])
    partition: int = Field(examples=[2])
    offset: int = Field(examples=[1041])
    batch_id: int = Field(description="of the ledger", examples=[312])
    run_id: str | None = Field(
        description="of Dagster; null when retention removed the batch",
        examples=["3f0c6a52-8a0b-4a3e-b0a3-1f9f2d6c9f11"],
    )
    redriven_at: datetime | None = Field(
        description="when it was scored after all, if it had been rejected at first"
    )


class History(BaseModel):
    """A page of a loan's decisions, newest first."""

    decisions: list[Decision]
    next: str | None = Field(description="cursor of the next page; null on the last one")


class Watchlist(BaseModel):
    """A page of the watchlist, newest first."""

    applications: list[Decision]
    next: str | None = Field(description="cursor of the next page; null on the last one")


def respond(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer."""
    return Response(
        msgspec.json.encode(value), status, headers or None, media_type="application/json"
    )


_COLUMNS = (
    *("outcome", "risk_tier", "recommendation", "early_warning", "reasons", "figures"),
    *("dti_band", "util_band", "rate_band"),
    *(
        "reject_reason",
        "pd",
        "pd_reasons",
        "model",
        "arm",
        "loan_id",
        "decided_at",
        "event_time",
        "recorded_at",
    ),
    *("cluster_id", "topic", "epoch", "partition", "offset", "batch_id", "run_id", "redriven_at"),
)


def decision(row: dict[str, Any]) -> dict[str, Any]:
    """A `Decision` of a row of `resources.postgres.applications`."""
    answer = {name: row[name] for name in _COLUMNS}
    version = row["policy"] and f"{row['policy']}@{row['policy_hash'][:12]}"
    scored = row["outcome"] == "scored"
    return answer | {
        "policy": version,
        "features": {name: row[name] for name in FEATURES} if scored else {},
    }
