"""What loan servicing tells: how loans went. It is stored, and nothing is scored again."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from credit_risk_dagster.api import bodies, problems
from credit_risk_dagster.api.answers import respond
from credit_risk_dagster.api.guards import JsonBody, admit
from credit_risk_dagster.api.problems import ApiError
from credit_risk_dagster.domain.outcomes import OutcomeRefused, observation
from resources.postgres.connection import Warehouse
from resources.postgres.outcomes import Outcomes

router = APIRouter(
    tags=["outcomes"], dependencies=[Depends(admit)], responses=problems.responses(401, 403, 429)
)

_EXAMPLE: dict[str, Any] = {
    "loan_id": "127000001",
    "observed_at": "2019-03-31",
    "status": "Late (31-120 days)",
    "days_past_due": 63,
    "balance": 21345.67,
    "recovered": 0,
    "source": "servicing",
}
_MAYBE_AMOUNT: dict[str, Any] = {"type": ["number", "string", "null"], "description": "USD"}
_OUTCOME: dict[str, Any] = {
    "type": "object",
    "required": ["loan_id", "observed_at"],
    "properties": {
        "loan_id": {"type": ["string", "number"]},
        "observed_at": {"type": "string", "description": "when it was so: a day, or ISO 8601"},
        "status": {"type": ["string", "null"]},
        "days_past_due": {"type": ["number", "string", "null"]},
        "balance": _MAYBE_AMOUNT,
        "recovered": _MAYBE_AMOUNT,
        "source": {"type": ["string", "null"], "description": "who tells it; default the client"},
    },
    "description": "At least one of status, days_past_due, balance and recovered is there.",
}
_EXAMPLES = {"one": {"summary": "One outcome", "value": _EXAMPLE}}


class Told(BaseModel):
    """How many outcomes were added, and how many were known already in every value."""

    added: int = Field(examples=[1])
    known: int = Field(examples=[0])


@router.post(
    "/outcomes",
    summary="Tell how loans went",
    response_model=Told,
    responses=problems.responses(400, 413, 415, 422, 503),
    openapi_extra=bodies.documented(
        {"oneOf": [_OUTCOME, {"type": "array", "items": _OUTCOME}]}, _EXAMPLES
    ),
)
def tell(request: Request, body: JsonBody) -> Response:
    """Stores one outcome, or all of a list or none. No application is scored again.

    Safe to repeat: what is known changes nothing. Another value for the same loan, time and source
    is a correction: it counts from now on, and the old one stays.
    """
    state = request.app.state
    given = bodies.objects(body)
    most = state.settings.api.max_events
    if len(given) > most:
        raise ApiError(413, f"{len(given):,} outcomes; one request has at most {most:,}")
    found = []
    for at, row in enumerate(given):
        try:
            found.append(observation(row, source=f"api {request.state.client}"))
        except OutcomeRefused as error:
            raise ApiError(422, f"outcome {at + 1}: {error}") from error
    with Warehouse(state.settings.warehouse).session("outcomes") as connection:
        added = Outcomes(connection).add(found)
    return respond(added)
