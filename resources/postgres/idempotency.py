"""Keys by which clients of the API name their submissions, and what they were answered."""

from datetime import timedelta
from typing import Any, LiteralString

import psycopg

Place = tuple[str, int, int]
"""Topic, partition and offset of an event."""


class Busy(Exception):
    """A request with the key is under way."""


class OtherBody(Exception):
    """The key was used for another body."""


class IdempotencyKeys:
    """The keys, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def begin(
        self,
        client: str,
        key_digest: bytes,
        body_digest: bytes,
        window: timedelta,
        patience: timedelta,
    ) -> Place | None:
        """Take a key for a request that is about to be sent; where it was sent to, if it was.

        Args:
            window: for how long a key is remembered.
            patience: for how long a request of which nothing is heard counts as under way.

        Raises:
            Busy, OtherBody: as their names say.
        """
        named = {
            "client": client,
            "key": key_digest,
            "body": body_digest,
            "window": window,
            "patience": patience,
        }
        with self._connection.transaction():
            # The API's role reads only, unless a transaction says otherwise.
            self._connection.execute("SET TRANSACTION READ WRITE")
            if self._connection.execute(_TAKE, named).fetchone():
                return None
            row = self._connection.execute(_FOUND, named).fetchone()
        if row is None:  # it expired this moment
            return None
        same, topic, partition, offset = row
        if not same:
            raise OtherBody
        if offset is None:
            raise Busy
        return topic, partition, offset

    def end(self, client: str, key_digest: bytes, place: Place | None) -> None:
        """Remember where a request was sent to; None frees the key for the same body again."""
        topic, partition, offset = place or (None, None, None)
        named = {
            "client": client,
            "key": key_digest,
            "topic": topic,
            "partition": partition,
            "offset": offset,
        }
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION READ WRITE")
            self._connection.execute(_END, named)


def forget_keys(connection: psycopg.Connection[Any], window: timedelta) -> None:
    """Delete the keys that are older."""
    connection.execute(
        "DELETE FROM idempotency_keys WHERE first_at < clock_timestamp() - %(window)s",
        {"window": window},
    )


# One that expired is new; one of which no answer is known may be sent again with the same body.
_TAKE: LiteralString = """
INSERT INTO idempotency_keys AS k (client, key_digest, body_digest, busy_until)
VALUES (%(client)s, %(key)s, %(body)s, clock_timestamp() + %(patience)s)
ON CONFLICT (client, key_digest) DO UPDATE
SET body_digest = excluded.body_digest, busy_until = excluded.busy_until,
    first_at = CASE WHEN k.first_at < clock_timestamp() - %(window)s THEN excluded.first_at
               ELSE k.first_at END,
    topic = NULL, partition = NULL, "offset" = NULL
WHERE k.first_at < clock_timestamp() - %(window)s
    OR k.body_digest = excluded.body_digest AND k."offset" IS NULL
        AND coalesce(k.busy_until, '-infinity') < clock_timestamp()
RETURNING 1
"""

_FOUND: LiteralString = """
SELECT body_digest = %(body)s, topic, partition, "offset" FROM idempotency_keys
WHERE client = %(client)s AND key_digest = %(key)s
"""

_END: LiteralString = """
UPDATE idempotency_keys
SET topic = %(topic)s, partition = %(partition)s, "offset" = %(offset)s, busy_until = NULL
WHERE client = %(client)s AND key_digest = %(key)s
"""
