"""What every request goes through: an id, a line in the log, and an answer whatever happens."""

import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from credit_risk_dagster.api.problems import problem

# Asked every few seconds by machines.
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_GONE = 499  # nobody waits for an answer any more; a usual code for it in logs
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_log = logging.getLogger(__name__)


class RequestLog:
    """Gives each request the id that it came with, or a new one, and logs it when it is answered.

    The log has the route, not the path, which names a loan.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.state.request_id = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        started = time.perf_counter()
        with bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = _GONE
            except Exception:
                _log.exception("a request failed")
                if status:
                    raise  # too late for another answer
                answer = problem(request, 500, "an error of ours: the log has it by the request id")
                await answer(scope, receive, send_with_id)
            finally:
                _log_request(scope, status, time.perf_counter() - started)


def _log_request(scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path_format", "")
    _log.log(
        logging.DEBUG if route in _QUIET and status < 400 else logging.INFO,
        "%s %s %d",
        *(scope["method"], route or "(no route)", status),
        extra={
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "client": scope.get("state", {}).get("client", ""),
        },
    )
