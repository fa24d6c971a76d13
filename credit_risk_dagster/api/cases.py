"""Cases over HTTP: the queue, a case with its history and decisions, and what reviewers do."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from credit_risk_dagster.api import bodies, problems
from credit_risk_dagster.api.answers import Decision, decision, respond
from credit_risk_dagster.api.cursors import Limit
from credit_risk_dagster.api.guards import JsonBody, admit
from credit_risk_dagster.api.problems import ApiError
from credit_risk_dagster.domain.cases import DISPOSITIONS, State
from credit_risk_dagster.settings import AccessSettings
from resources.postgres.cases import CaseChanged, CaseMissing, CaseRefused, Cases, Wanted
from resources.postgres.connection import Warehouse

router = APIRouter(
    tags=["cases"], dependencies=[Depends(admit)], responses=problems.responses(401, 403, 429)
)

_Id = Annotated[int, Path(ge=1, le=2**63 - 1, examples=[7])]
_Person = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"
    ),
]
_Note = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=r"^[^\x00]+$"),
]


class Case(BaseModel):
    """What is to be looked at of a loan, and what was found."""

    case_id: int = Field(examples=[7])
    loan_id: str | None = Field(examples=["127000001"])
    partition: int = Field(description="of the decision that opened it")
    offset: int
    opened_at: datetime
    due_at: datetime
    overdue: bool
    decided_at: datetime = Field(description="the newest Watchlist decision that joined it")
    decisions: int = Field(description="Watchlist decisions that joined it")
    loan_amnt: float
    pd: float | None
    priority: float = Field(description="USD that may be lost: the amount times the PD")
    reasons: list[str] = Field(examples=[["DTI>=30", "DELINQ_2YRS>0"]])
    state: State
    assignee: str | None
    disposition: str | None
    reason_code: str | None
    version: int = Field(description="to be sent back with what is done to it")
    changed_at: datetime
    closed_at: datetime | None
    closed_by: str | None


class Event(BaseModel):
    """What somebody did, and as what they left the case."""

    at: datetime
    who: str
    action: Literal["assign", "start", "note", "close", "reopen"]
    version: int
    state: State
    assignee: str | None
    disposition: str | None
    reason_code: str | None
    note: str | None


class Queue(BaseModel):
    """A page of cases, by priority."""

    cases: list[Case]
    next: int | None = Field(description="`after` of the next page; null on the last one")


class Whole(Case):
    """A case with all that was done to it, and the newest 50 decisions on its loan."""

    history: list[Event]
    of_loan: list[Decision]


class Changed(BaseModel):
    """The version that the case has now."""

    case_id: int
    version: int


class _Seen(BaseModel):
    version: int = Field(ge=1, le=2**31 - 1, description="of the case as it was seen")


class Start(_Seen):
    """Who asks reviews it from now on."""


class Assign(_Seen):
    """Whose it is to be."""

    assignee: _Person | None = Field(description="null takes it from everybody")


class Note(_Seen):
    """What there is to say."""

    note: _Note


class Close(_Seen):
    """What was found."""

    disposition: str = Field(json_schema_extra={"enum": list(DISPOSITIONS)})
    reason_code: str = Field(
        description="; ".join(f"{d}: {', '.join(r)}" for d, r in DISPOSITIONS.items())
    )
    note: _Note | None = None


_ACTIONS: dict[str, tuple[type[_Seen], str, dict[str, Any]]] = {
    "start": (Start, "Begin to review a case", {}),
    "assign": (Assign, "Give a case to somebody", {"assignee": "ada"}),
    "note": (Note, "Note something on a case", {"note": "called the applicant"}),
    "close": (
        Close,
        "Close a case",
        {"disposition": "false_positive", "reason_code": "income_verified"},
    ),
    "reopen": (Note, "Open a closed case again", {"note": "a new document came"}),
}


@router.get(
    "/cases",
    summary="The queue of cases",
    response_model=Queue,
    responses=problems.responses(422, 503),
)
def ls(
    request: Request,
    state: State | None = None,
    assignee: Annotated[
        str | None,
        Query(max_length=200, pattern=r"^[^\x00]*$", description='"" has those of nobody'),
    ] = None,
    overdue: bool | None = None,
    loan_id: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
    reason: Annotated[
        list[Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]+$")]] | None,
        Query(max_length=50, description="codes of rules, any of which flagged the loan"),
    ] = None,
    priority_from: Annotated[
        float | None, Query(ge=0, allow_inf_nan=False, description="USD that may be lost")
    ] = None,
    amount_from: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
    limit: Limit = 50,
    after: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Response:
    """Cases by priority, the highest first."""
    _allow(request)
    with request.app.state.warehouse.session() as connection:
        wanted = Wanted(
            state,
            assignee,
            overdue,
            loan_id=loan_id,
            reasons=tuple(reason) if reason else None,
            priority_from=priority_from,
            amount_from=amount_from,
        )
        found = Cases(connection).page(wanted, limit=limit + 1, after=after)
    more = found[limit - 1].case_id if len(found) > limit else None
    return respond({"cases": [_told(case) for case in found[:limit]], "next": more})


@router.get(
    "/cases/{case_id}",
    summary="A case: its history, and all decisions on its loan",
    response_model=Whole,
    responses=problems.responses(404, 422, 503),
)
def show(request: Request, case_id: _Id) -> Response:
    """What was decided, and who did what about it."""
    _allow(request)
    with request.app.state.warehouse.session() as connection:
        try:
            case = Cases(connection).one(case_id)
        except CaseMissing as error:
            raise ApiError(404, str(error)) from error
        history = Cases(connection).history(case_id)
    rows = []
    if case.loan_id is not None:
        rows, _ = request.app.state.applications.history(case.loan_id, limit=50)
    return respond(
        _told(case)
        | {"history": [vars(event) for event in history], "of_loan": [decision(r) for r in rows]}
    )


def _operation(action: str) -> None:
    model, summary, example = _ACTIONS[action]

    def act(request: Request, case_id: _Id, body: JsonBody) -> Response:
        client = _allow(request)
        done = bodies.read(model, body).model_dump()
        seen = done.pop("version")
        try:
            with Warehouse(request.app.state.settings.warehouse).session("cases") as connection:
                version = Cases(connection).act(case_id, seen, action, client, **done)
        except CaseMissing as error:
            raise ApiError(404, str(error)) from error
        except CaseChanged as error:
            raise ApiError(409, str(error)) from error
        except CaseRefused as error:
            raise ApiError(422, str(error)) from error
        return respond({"case_id": case_id, "version": version})

    act.__doc__ = model.__doc__
    router.post(
        f"/cases/{{case_id}}/{action}",
        name=action,
        summary=summary,
        description=f"{model.__doc__} 409 when somebody changed the case since `version`.",
        response_model=Changed,
        responses=problems.responses(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=bodies.documented(
            model.model_json_schema(),
            {"one": {"summary": summary, "value": {"version": 1} | example}},
        ),
    )(act)


for _action in _ACTIONS:
    _operation(_action)


def _allow(request: Request) -> str:
    """The client, who may review."""
    client: str = request.state.client
    if not AccessSettings().may("review", [client]):
        raise ApiError(403, f"client {client} may not review: CREDIT_RISK_ROLES does not name it")
    return client


def _told(case: Any) -> dict[str, Any]:
    found = dict(vars(case))
    del found["source_id"]
    return found
