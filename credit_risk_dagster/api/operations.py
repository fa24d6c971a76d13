"""What operators and machines ask: is it alive, is it ready, its metrics. Needs no key."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel

from credit_risk_dagster.api import problems
from credit_risk_dagster.api.health import Capability, Readiness
from credit_risk_dagster.api.problems import ApiError

router = APIRouter(tags=["operations"])


def _port_of_operators(request: Request) -> None:
    port = request.app.state.settings.api.operations_port
    if port and request.scope["server"][1] != port:
        raise ApiError(404, "it is served on the port CREDIT_RISK_API_OPERATIONS_PORT alone")


_OPERATORS = [Depends(_port_of_operators)]


class Alive(BaseModel):
    """The process serves requests."""

    status: Literal["alive"] = "alive"


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """Who opens the address in a browser finds the documentation."""
    return RedirectResponse("docs")


@router.get("/health", summary="Is the process alive?")
async def health() -> Alive:
    """Asks no other server: a restart of this process would not mend those."""
    return Alive()


@router.get(
    "/ready",
    dependencies=_OPERATORS,
    summary="What can it do now?",
    responses={
        **problems.responses(422),
        503: {"model": Readiness, "description": "What was asked for does not work"},
    },
)
def ready(
    request: Request,
    response: Response,
    wanted: Annotated[
        Capability | None, Query(alias="for", description="503 when it cannot do that")
    ] = None,
) -> Readiness:
    """The state and latency of the broker, the warehouse (Postgres), the lake (S3) and Dagster's
    storage, and what works without those that are down. An outage of one of them is no reason to
    take this process away: it always scores. Who sends it only submissions, or only reads, asks
    `?for=submit` or `?for=read`."""
    found: Readiness = request.app.state.health.readiness(wanted)
    if found.status == "unavailable":
        response.status_code = 503
    return found


@router.get(
    "/metrics",
    dependencies=_OPERATORS,
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    """In the format that the Accept header asks for: OpenMetrics or Prometheus' text."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.registry), media_type=content_type)
