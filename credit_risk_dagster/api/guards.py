"""Who may ask, how often, and how much at once."""

import hashlib
import hmac
import math
import secrets
import time
import zlib
from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader
from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from credit_risk_dagster.api.problems import ApiError
from credit_risk_dagster.settings import AccessSettings, ApiSettings, is_loopback

HEADER = "X-API-Key"
_GZIP = ("gzip", "x-gzip")
KEY_PREFIX = "crk_"


def new_key() -> tuple[str, str]:
    """A key and its hash. A key has 256 random bits, so that a plain hash keeps it: nobody can try
    all of them, as they could with a password.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hash_key(key).hex()


def hash_key(key: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode()).digest()


def client_of(key: str, hashes: Mapping[str, bytes]) -> str | None:
    """Whose key it is. Compares all of them, each in constant time."""
    given = hash_key(key)
    owners = [client for client, known in hashes.items() if hmac.compare_digest(given, known)]
    return owners[0] if owners else None


class Admission:
    """Tells who asks by the key, and lets each client ask so often and no more.

    The count is this process's own.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._hashes = settings.hashes
        self._rate = parse(settings.rate_limit)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def admit(self, request: Request, key: str | None) -> None:
        """Raises ApiError with 401, 403 or 429."""
        client = self._client(request, key)
        address = request.client.host if request.client else ""
        asking = f"client {client}" if client else f"address {address}"
        if not await self._limiter.hit(self._rate, asking):
            window = await self._limiter.get_window_stats(self._rate, asking)
            wait = max(1, math.ceil(window.reset_time - time.time()))
            raise ApiError(
                429,
                f"more than {self._rate}: wait {wait} s",
                {"Retry-After": str(wait)},
            )
        if client is None:
            raise ApiError(
                401,
                f"the key is not one of ours; send yours in the header {HEADER}"
                if key
                else f"send your key in the header {HEADER}",
                {"WWW-Authenticate": f'ApiKey realm="credit-risk", header="{HEADER}"'},
            )
        request.state.client = client

    def _client(self, request: Request, key: str | None) -> str | None:
        if self._hashes:
            return client_of(key, self._hashes) if key else None
        # Without keys, only for this machine; nor for a web page in its browser that has been told
        # another address for its own name (DNS rebinding).
        host = request.url.hostname or ""
        if request.client is None or not is_loopback(request.client.host) or not is_loopback(host):
            raise ApiError(
                403,
                "without CREDIT_RISK_API_KEYS it answers only on and to this machine's loopback",
            )
        return "loopback"


async def admit(
    request: Request,
    key: Annotated[
        str | None,
        Security(
            APIKeyHeader(
                name=HEADER, auto_error=False, description="`credit-risk api-key new` makes one"
            )
        ),
    ],
) -> None:
    """A dependency of every operation that writes, or shows what is stored, or takes work."""
    await request.app.state.admission.admit(request, key)


async def sees(request: Request, _: Annotated[None, Depends(admit)]) -> None:
    """A dependency of every operation that shows applicants who are stored."""
    client = request.state.client
    if not AccessSettings().may("see", [client]):
        raise ApiError(
            403, f"client {client} may not see applicants: CREDIT_RISK_ROLES does not name it"
        )


async def json_body(request: Request) -> bytes:
    """The body, which says that it is JSON and is not too large; what gzip compressed is unpacked,
    and not too large then, either.

    A page of another origin cannot say so without being asked by the browser whether it may.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send application/json", {"Accept": "application/json"})
    # Several headers are one list: each of them was applied.
    encoding = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    if encoding not in ("", "identity", *_GZIP):
        raise ApiError(415, "send it plain, or by gzip", {"Accept-Encoding": "gzip, identity"})
    limit = request.app.state.settings.api.max_body_bytes
    length = request.headers.get("content-length", "")
    size, body = int(length) if length.isdecimal() else 0, bytearray()
    if size <= limit:
        async for chunk in request.stream():
            body += chunk
            if (size := len(body)) > limit:
                break
    if size > limit:
        raise ApiError(413, f"a request has at most {limit:,} bytes", {"Connection": "close"})
    return _unpacked(bytes(body), limit) if encoding in _GZIP else bytes(body)


def _unpacked(body: bytes, limit: int) -> bytes:
    """What gzip made smaller; never more than one byte above the limit is unpacked."""
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        found = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise ApiError(400, "the body is no gzip, as its Content-Encoding says") from error
    if len(found) > limit:
        raise ApiError(413, f"a request has at most {limit:,} bytes when it is unpacked")
    if not unpacking.eof:
        raise ApiError(400, "the body ends before its gzip does")
    if unpacking.unused_data:  # many small ones would keep everybody else waiting
        raise ApiError(400, "the body is more than one gzip")
    return found


JsonBody = Annotated[bytes, Depends(json_body)]
