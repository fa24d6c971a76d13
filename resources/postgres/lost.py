"""Lost events: what the broker removed before it was read, and who knows of it.

They cannot be brought back. They count until somebody acknowledges them by name.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True)
class LostRange:
    """Consecutive offsets whose events are lost; acknowledged_* are None until somebody did."""

    source_id: int
    topic: str
    epoch: int
    partition: int
    first_offset: int
    next_offset: int
    events: int
    found_at: datetime
    reason: str
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    note: str | None


class LostEvents:
    """The lost events of every source, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def ranges(self) -> list[LostRange]:
        """All of them, the newest first."""
        with self._connection.cursor(row_factory=class_row(LostRange)) as cursor:
            return cursor.execute(
                _RANGES + " FROM lost_events ORDER BY found_at DESC, partition, first_offset"
            ).fetchall()

    def unacknowledged(self, source_id: int | None = None) -> int:
        """How many events, of a source or of all, are lost that nobody acknowledged."""
        row = self._connection.execute(
            "SELECT coalesce(sum(events), 0)::bigint FROM lost_events"
            " WHERE (%(source_id)s::int IS NULL OR source_id = %(source_id)s)"
            " AND acknowledged_at IS NULL",
            {"source_id": source_id},
        ).fetchone()
        return int(row[0]) if row else 0

    def acknowledge(self, by: str, note: str | None) -> list[LostRange]:
        """Record that somebody knows of all that nobody acknowledged yet; returns those."""
        with self._connection.cursor(row_factory=class_row(LostRange)) as cursor:
            return cursor.execute(_ACKNOWLEDGE, {"by": by, "note": note}).fetchall()


_RANGES: LiteralString = (
    "SELECT source_id, topic, epoch, partition, first_offset, next_offset, events, found_at,"
    " reason, acknowledged_at, acknowledged_by, note"
)

# A view that is read in the statement which inserts does not see the new rows yet.
_ACKNOWLEDGE: LiteralString = """
WITH new AS (
    INSERT INTO lost_acknowledgements
        (source_id, partition, first_offset, acknowledged_by, note)
    SELECT source_id, partition, first_offset, %(by)s, %(note)s
    FROM lost_events WHERE acknowledged_at IS NULL
    ON CONFLICT DO NOTHING
    RETURNING source_id, partition, first_offset, acknowledged_at, acknowledged_by, note
)
SELECT source_id, topic, epoch, partition, first_offset, next_offset, events, found_at, reason,
    new.acknowledged_at, new.acknowledged_by, new.note
FROM new JOIN (
    SELECT source_id, topic, epoch, partition, first_offset, next_offset, events, found_at, reason
    FROM lost_events
) AS known USING (source_id, partition, first_offset)
ORDER BY found_at DESC, partition, first_offset
"""
