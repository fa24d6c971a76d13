"""When each file of the lake was last read back and was what had been stored. Nothing depends on
it: a check only says what it found."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import psycopg


class Verifications:
    """What was read back, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def times(self) -> dict[str, datetime]:
        """When each file was last verified, by key."""
        rows = self._connection.execute("SELECT key, verified_at FROM lake_verifications")
        return dict(rows.fetchall())

    def bytes_today(self) -> int:
        """Bytes of the files that were verified since midnight (UTC)."""
        row = self._connection.execute(
            "SELECT coalesce(sum(bytes), 0)::bigint FROM lake_verifications"
            " WHERE verified_at >= date_trunc('day', now())"
        ).fetchone()
        return int(row[0]) if row else 0

    def mark(self, key: str, size: int) -> None:
        """Record that a file was read and is what was stored."""
        self._connection.execute(
            "INSERT INTO lake_verifications (key, bytes) VALUES (%(key)s, %(bytes)s)"
            " ON CONFLICT (key) DO UPDATE"
            " SET bytes = excluded.bytes, verified_at = clock_timestamp()",
            {"key": key, "bytes": size},
        )

    def keep(self, prefix: str, keys: Collection[str]) -> None:
        """Forget the files of a table that it has no more."""
        self._connection.execute(
            "DELETE FROM lake_verifications"
            " WHERE starts_with(key, %(prefix)s) AND key <> ALL (%(keys)s)",
            {"prefix": prefix, "keys": list(keys)},
        )
