"""`Idempotency-Key`, as draft-ietf-httpapi-idempotency-key-header has it: what a client sends again
under the same key gets the same answer, and is decided once.

The answer is remembered in Postgres. While that is away, a submission goes through all the same:
the key goes with the event, and the drain keeps the first.
"""

import hashlib
import logging
import re
from datetime import timedelta
from typing import Annotated

import psycopg
from fastapi import Depends, Header

from credit_risk_dagster.api.problems import ApiError
from credit_risk_dagster.domain.repeats import CLIENT_HEADER, KEY_HEADER
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import Settings
from resources.kafka.publisher import Published
from resources.postgres.connection import Warehouse
from resources.postgres.idempotency import Busy, IdempotencyKeys, OtherBody

_VISIBLE = r"[!#-\[\]-~]{1,255}"  # ASCII, but no quote or backslash
_KEY = re.compile(_VISIBLE)

log = logging.getLogger(__name__)


def idempotency_key(
    given: Annotated[
        str | None,
        Header(
            alias=KEY_HEADER,
            description="names the request, so that it can be sent again: a UUID, in quotes or not",
            json_schema_extra={"pattern": f'^({_VISIBLE}|"{_VISIBLE}")$'},
        ),
    ] = None,
) -> str | None:
    """The key of a request; None without one."""
    if given is None:
        return None
    key = given.strip()
    key = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not _KEY.fullmatch(key):
        raise ApiError(400, f"{KEY_HEADER} is 1 to 255 visible ASCII characters, such as a UUID")
    return key


IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]


class Submission:
    """A request that has a key, from before it is sent until it is answered."""

    def __init__(self, settings: Settings, client: str, key: str, body: bytes) -> None:
        self._warehouse = Warehouse(settings.warehouse)
        self._window = timedelta(days=settings.drain.deduplicate_days)
        # Nothing is heard of it when this process ends before its answer.
        self._patience = timedelta(milliseconds=2 * settings.kafka.timeout_ms)
        self._of = (client, hashlib.sha256(key.encode()).digest())
        self._body = hashlib.sha256(body).digest()
        self.headers = ((KEY_HEADER, key.encode()), (CLIENT_HEADER, client.encode()))

    def begin(self) -> Published | None:
        """Take the key; where it was sent to before, if it was.

        Raises:
            ApiError: 409, a request with it is under way; 422, it was used for another body.
        """
        try:
            with self._warehouse.session("submission") as connection:
                place = IdempotencyKeys(connection).begin(
                    *self._of, self._body, self._window, self._patience
                )
        except Busy as error:
            raise ApiError(
                409, f"a request with this {KEY_HEADER} is under way", {"Retry-After": "1"}
            ) from error
        except OtherBody as error:
            raise ApiError(
                422, f"this {KEY_HEADER} was used for another body: choose a new one"
            ) from error
        except (PlatformError, psycopg.Error) as error:
            log.warning("a key is not remembered, the drain will know it: %s", error)
            return None
        return Published(*place) if place else None

    def end(self, stored: Published | None) -> None:
        """Remember where it was sent to; or, where that is not known, that it may come again."""
        place = (stored.topic, stored.partition, stored.offset) if stored else None
        try:
            with self._warehouse.session("submission") as connection:
                IdempotencyKeys(connection).end(*self._of, place)
        except (PlatformError, psycopg.Error) as error:
            log.warning("an answer is not remembered, the drain will know its key: %s", error)
