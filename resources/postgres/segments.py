"""The rollup by segment (purpose, grade, state, ...) and hour that the dashboard reads."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg


@dataclass(frozen=True)
class RolledUp:
    """How many applications the rollup by segment got, up to when it is complete, and how many
    segments there are."""

    applications: int
    rolled_up_to: datetime
    segments: int


def roll_up_segments(connection: psycopg.Connection[Any]) -> RolledUp:
    """Add what was scored since the last time to `segments_by_hour`. Two at once take turns."""
    added = connection.execute("SELECT roll_up_segments()").fetchone()
    row = connection.execute(
        "SELECT rolled_up_to, (SELECT count(*) FROM segments) FROM segments_progress"
    ).fetchone()
    assert added is not None and row is not None  # noqa: S101, PT018
    return RolledUp(added[0], row[0], row[1])
