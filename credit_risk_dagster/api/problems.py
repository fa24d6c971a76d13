"""Errors as RFC 9457 says: `application/problem+json`, whatever went wrong and wherever."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from credit_risk_dagster.errors import PlatformError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """An error (RFC 9457). `title` is the same for each error of a kind, `detail` is about this
    one; `request_id` is in the log, too."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", description="about:blank: the status says what kind it is")
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["dti is missing (missing_required:dti)"])
    request_id: str = Field(examples=["0f6c2a1e9b7d4c55a1f3d2e4b5c6d7e8"])


class ApiError(HTTPException):
    """An error to answer with.

    Args:
        status: HTTP status.
        detail: what is wrong, and what to do.
        headers: of the answer.
        extra: more members of the problem.
    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(status, detail, headers)
        self.extra = extra


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documents the errors of an operation."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            **({"headers": {"Retry-After": _RETRY_AFTER}} if status in (429, 503) else {}),
        }
        for status in statuses
    }


_RETRY_AFTER = {"description": "Seconds to wait", "schema": {"type": "integer"}}


def install(app: FastAPI) -> None:
    """Answer every exception with a problem."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101 (registered for it)
        extra = error.extra if isinstance(error, ApiError) else {}
        headers = error.headers
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": ", ".join(_methods(request))}
        return problem(request, error.status_code, error.detail, headers, **extra)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        # Of what was sent, nothing is repeated: it may be personal.
        problems = [
            {"in": ".".join(map(str, found["loc"])), "detail": found["msg"]}
            for found in error.errors()
        ]
        detail = "; ".join(f"{found['in']}: {found['detail']}" for found in problems)
        return problem(request, 422, detail, errors=problems)

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        # The message names hosts: it is for the log.
        _log.error("a dependency failed: %s", error, extra={"kind": type(error).__name__})
        return problem(
            request,
            503,
            f"{type(error).__name__}: try again later; the log says more",
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        )

    documented = app.openapi

    def openapi() -> dict[str, Any]:
        document = documented()
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(PlatformError, unavailable)


def _methods(request: Request) -> list[str]:
    """What the path supports, by all of its routes; the framework says those of the first."""
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        for scope in [{**request.scope, "method": method}]
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]


def problem(
    request: Request,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **extra: Any,
) -> JSONResponse:
    """The answer for an error."""
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": getattr(request.state, "request_id", ""),
        **extra,
    }
    return JSONResponse(content, status, headers, MEDIA_TYPE)
