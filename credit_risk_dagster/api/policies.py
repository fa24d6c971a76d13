"""The life of policies over HTTP: who asks is the client whose key it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

from credit_risk_dagster.api import bodies, problems
from credit_risk_dagster.api.answers import respond
from credit_risk_dagster.api.guards import JsonBody, admit
from credit_risk_dagster.api.problems import ApiError
from credit_risk_dagster.domain.policy import PolicyError, parse_policy
from credit_risk_dagster.domain.rights import Right
from credit_risk_dagster.pipelines import policies
from credit_risk_dagster.settings import AccessSettings
from resources.postgres.approvals import NotInOrder
from resources.postgres.connection import Warehouse
from resources.postgres.policies import decide_policy, submit_policy

router = APIRouter(
    tags=["policies"], dependencies=[Depends(admit)], responses=problems.responses(401, 403, 429)
)

_Why = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=r"^[^\x00]+$"),
]
_Choice = Annotated[
    str,
    Path(
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f/]+$",
        description="id, version or name",
        examples=["2"],
    ),
]


class Submission(BaseModel):
    """A policy that should decide."""

    document: str = Field(max_length=500_000, description="the policy's file (YAML) as text")
    why: _Why = Field(examples=["fewer stretched loans"])
    evidence: dict[str, Any] | None = Field(
        None, description="figures that speak for it, as of `rebuild --compare --json`"
    )


class Reason(BaseModel):
    """Why it is approved."""

    why: _Why = Field(examples=["agreed in the committee of November"])


class Activation(Reason):
    """Why it should decide, and from when on."""

    at: AwareDatetime | None = Field(None, description="ISO 8601 with a zone; without it, now")


class Given(BaseModel):
    """What was recorded, of which policy, and who it was."""

    policy_id: int = Field(examples=[2])
    action: str = Field(examples=["submit"])
    who: str = Field(examples=["risk-desk"])


class Life(BaseModel):
    """A policy, and what was decided about it, the oldest first."""

    policy_id: int
    version: str = Field(examples=["lendingclub-v2@9b1c2d3e4f5a"])
    state: str = Field(
        description="active, scheduled, approved, submitted, retired, or used: it decided without "
        "ever being activated"
    )
    approvals: list[dict[str, Any]]
    activations: list[dict[str, Any]]


class Whole(Life):
    """The same with the document."""

    document: str


_SUBMISSION = {"one": {"summary": "A policy", "value": {"document": "name: ...", "why": "..."}}}
_REASON = {"one": {"summary": "A reason", "value": {"why": "agreed"}}}


@router.get(
    "/policies",
    summary="Policies, and who decided what about them",
    response_model=list[Life],
    responses=problems.responses(503),
)
def ls(request: Request) -> Response:
    """Every policy that was submitted or decided, the newest first."""
    with request.app.state.warehouse.session() as connection, connection.transaction():
        found = [life.told() for life in policies.lives(connection)]
    for life in found:
        del life["document"]
    return respond(found)


@router.get(
    "/policies/{policy}",
    summary="A policy: its document and its life",
    response_model=Whole,
    responses=problems.responses(404, 422, 503),
)
def show(request: Request, policy: _Choice) -> Response:
    """Its whole document, who decided what about it, and when it was active."""
    with request.app.state.warehouse.session() as connection, connection.transaction():
        return respond(_chosen(connection, policy).told())


@router.post(
    "/policies",
    status_code=201,
    summary="Submit a policy",
    response_model=Given,
    responses=problems.responses(400, 409, 413, 415, 422, 503),
    openapi_extra=bodies.documented(Submission.model_json_schema(), _SUBMISSION),
)
def submit(request: Request, body: JsonBody) -> Response:
    """Stores a policy, for somebody else to approve."""
    given = bodies.read(Submission, body)
    try:
        policy = parse_policy(given.document, "document")
    except PolicyError as error:
        raise ApiError(422, str(error)) from error
    with _writing(request, "submit") as connection:
        found = submit_policy(
            connection, policy, request.state.client, given.why, given.evidence or {}
        )
    return _given(request, found, "submit", 201, Location=f"/policies/{found}")


@router.post(
    "/policies/{policy}/approval",
    summary="Approve a policy that somebody else submitted",
    response_model=Given,
    responses=problems.responses(400, 404, 409, 413, 415, 422, 503),
    openapi_extra=bodies.documented(Reason.model_json_schema(), _REASON),
)
def approve(request: Request, policy: _Choice, body: JsonBody) -> Response:
    """Whoever submitted it cannot: 409."""
    given = bodies.read(Reason, body)
    with _writing(request, "approve") as connection:
        found = _chosen(connection, policy).stored.policy_id
        decide_policy(connection, found, "approve", request.state.client, given.why)
    return _given(request, found, "approve")


@router.post(
    "/policies/{policy}/activation",
    summary="Let an approved policy decide",
    response_model=Given,
    responses=problems.responses(400, 404, 409, 413, 415, 422, 503),
    openapi_extra=bodies.documented(Activation.model_json_schema(), _REASON),
)
def activate(request: Request, policy: _Choice, body: JsonBody) -> Response:
    """From now on, or from a later moment. Sessions that run take it up within five seconds."""
    given = bodies.read(Activation, body)
    if given.at is not None and given.at < datetime.now(UTC):
        raise ApiError(409, "that moment is over: a policy decides from a later one")
    with _writing(request, "approve") as connection:
        stored = _chosen(connection, policy).stored
        try:
            policies.loaded(stored)
        except PolicyError as error:
            raise ApiError(409, str(error)) from error
        decide_policy(
            connection, stored.policy_id, "activate", request.state.client, given.why, given.at
        )
    return _given(request, stored.policy_id, "activate")


@contextmanager
def _writing(request: Request, right: Right) -> Iterator[psycopg.Connection[Any]]:
    """A transaction for a client that has a right."""
    client = request.state.client
    if not AccessSettings().may(right, [client]):
        raise ApiError(403, f"client {client} may not {right}: CREDIT_RISK_ROLES does not name it")
    warehouse = Warehouse(request.app.state.settings.warehouse)
    try:
        with warehouse.session("policies") as connection, connection.transaction():
            # The API's role only reads by default.
            connection.execute("SET TRANSACTION READ WRITE")
            yield connection
    except NotInOrder as error:
        raise ApiError(409, str(error)) from error
    except psycopg.DataError as error:
        raise ApiError(422, "evidence: it has what Postgres cannot store as JSON") from error


def _chosen(connection: psycopg.Connection[Any], policy: str) -> policies.PolicyLife:
    try:
        return policies.chosen(connection, policy)
    except policies.NoSuchChoice as error:
        raise ApiError(404, str(error)) from error


def _given(
    request: Request, policy_id: int, action: str, status: int = 200, **headers: str
) -> Response:
    found = Given(policy_id=policy_id, action=action, who=request.state.client)
    return respond(found.model_dump(), status, **headers)
