"""What business systems use: submit and score applications, read decisions and the watchlist."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from credit_risk_dagster.api import bodies, cursors, problems
from credit_risk_dagster.api.answers import (
    Accepted,
    Assessment,
    History,
    Watchlist,
    decision,
    respond,
)
from credit_risk_dagster.api.cursors import Cursor, Limit
from credit_risk_dagster.api.guards import JsonBody, admit, sees
from credit_risk_dagster.api.idempotency import IdempotencyKey, Submission
from credit_risk_dagster.api.problems import RETRY_AFTER_SECONDS, ApiError
from credit_risk_dagster.api.question import Unanswered
from credit_risk_dagster.domain.arms import Split, answers_by_arm
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import Policy
from resources.kafka.publisher import Published, PublisherBusy

# A LendingClub row with all its 151 columns has 4 KB.
MAX_APPLICATION_BYTES = 64 * 2**10

router = APIRouter(
    tags=["decisions"], dependencies=[Depends(admit)], responses=problems.responses(401, 403, 429)
)


@router.post(
    "/score",
    summary="Score applications; nothing is stored",
    response_model=Assessment | list[Assessment],
    responses=problems.responses(400, 413, 415, 422),
    openapi_extra=bodies.documented(
        {"oneOf": [bodies.ANY_APPLICATION, bodies.LIST]}, bodies.ONE | bodies.SEVERAL
    ),
)
def score(request: Request, body: JsonBody) -> Response:
    """What the stream would decide of an application, or of each in a list: the same code and the
    same answer as `credit-risk score`. One that cannot be scored is answered with the reason."""
    state = request.app.state
    values = bodies.applications(body)
    if values is None:
        return respond(answers_by_arm([body], *_deciders(request))[0])
    most = state.settings.api.max_events
    if len(values) > most:
        raise ApiError(413, f"{len(values):,} applications; one request has at most {most:,}")
    return respond(answers_by_arm(values, *_deciders(request)))


@router.post(
    "/applications",
    status_code=202,
    summary="Submit an application",
    response_model=Accepted,
    responses=problems.responses(400, 409, 413, 415, 422, 503),
    openapi_extra=bodies.documented(bodies.APPLICATION, bodies.ONE),
)
async def submit(request: Request, body: JsonBody, key: IdempotencyKey = None) -> Response:
    """Checks that it can be scored, sends it to the stream under its `id`, and answers when the
    broker has it. `event_time` is added when it is missing.

    A 503 that is not for too many requests at once leaves open whether the broker has it. Send it
    again with the same `Idempotency-Key`: then it is decided once, however often it is sent. The
    same key with another body is a 422, and a 409 while the first request is under way.
    """
    if len(body) > MAX_APPLICATION_BYTES:
        raise ApiError(413, f"an application has at most {MAX_APPLICATION_BYTES:,} bytes")
    event = _event(body)
    policy, _, split = await run_in_threadpool(_deciders, request)
    (found,) = answers_by_arm([event], policy, None, split)
    if found["outcome"] == "rejected":
        raise ApiError(
            422,
            f"it cannot be scored: {found['reject_reason']}",
            reject_reason=found["reject_reason"],
        )
    loan_id = found["loan_id"]
    if loan_id is None:
        raise ApiError(422, "it has no id", reject_reason="missing_required:id")
    stored = await _published(request, loan_id.encode(), event, body, key)
    accepted = {
        "loan_id": loan_id,
        "topic": stored.topic,
        "partition": stored.partition,
        "offset": stored.offset,
    }
    return respond(accepted, 202, Location=f"/applications/{quote(loan_id, safe='')}")


async def _published(
    request: Request, loan: bytes, event: bytes, body: bytes, key: str | None
) -> Published:
    """Where the event is, after sending it; or where it was sent to before, by the same key."""
    state = request.app.state
    if key is None:
        return await _publish(request, loan, event, ())
    client = request.state.client
    submission = Submission(state.settings, client, key, body)
    before = await run_in_threadpool(submission.begin)
    if before:
        return before
    stored = None
    try:
        stored = await _publish(request, loan, event, submission.headers)
    finally:
        await run_in_threadpool(submission.end, stored)
    return stored


async def _publish(
    request: Request, loan: bytes, event: bytes, headers: Sequence[tuple[str, bytes]]
) -> Published:
    try:
        found: Published = await request.app.state.publisher.publish(loan, event, headers)
    except PublisherBusy as error:
        raise ApiError(
            503, "too many at once: nothing was sent", {"Retry-After": str(RETRY_AFTER_SECONDS)}
        ) from error
    return found


@router.get(
    "/applications/{loan_id:path}",
    dependencies=[Depends(sees)],
    summary="What was decided of a loan",
    response_model=History,
    responses=problems.responses(404, 422, 503),
)
def history(
    request: Request,
    loan_id: Annotated[
        # Printable, as ids are (no control characters, which Postgres refuses in part).
        str,
        Path(max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["127000001"]),
    ],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Every decision of this loan, newest first: each time it applied, the policy that decided,
    and the run, the batch and the offset that it came from."""
    rows, last = request.app.state.applications.history(
        loan_id, limit=limit, after=cursors.decode(cursor)
    )
    if not rows and cursor is None:
        raise ApiError(
            404, "nothing was decided of this loan; one that was just submitted takes a moment"
        )
    return respond({"decisions": [decision(row) for row in rows], "next": cursors.encode(last)})


@router.get(
    "/watchlist",
    dependencies=[Depends(sees)],
    summary="Applications on the watchlist",
    response_model=Watchlist,
    responses=problems.responses(422, 503),
)
def watchlist(request: Request, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Applications with an early warning, newest first."""
    rows, last = request.app.state.applications.watchlist(limit=limit, after=cursors.decode(cursor))
    return respond({"applications": [decision(row) for row in rows], "next": cursors.encode(last)})


def _deciders(request: Request) -> tuple[Policy, PdModel | None, Split | None]:
    """The active policy and model, and a split that runs; the configured policy alone when Postgres
    does not tell."""
    state = request.app.state
    with suppress(Unanswered):
        found: tuple[Policy, PdModel | None, Split | None] = state.deciders.ask()()
        return found
    return state.policy, None, None


def _event(body: bytes) -> bytes:
    """The event as it came, with the time when there is none."""
    fields = bodies.fields(body)
    if fields.get("event_time", _NULL) == _NULL:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        return msgspec.json.encode(fields | {"event_time": now})
    return body


_NULL = msgspec.Raw(b"null")
