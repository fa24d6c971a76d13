"""Who works on which partitions: advisory locks, which end with their connection."""

from collections.abc import Sequence
from typing import Any

import psycopg

from credit_risk_dagster.errors import PlatformError
from resources.postgres.connection import APPLICATION_NAME


class LaneBusy(PlatformError):
    """Another run holds the lane's partitions and did not hand them over in time."""


def lock_partitions(
    connection: psycopg.Connection[Any],
    source_id: int,
    partitions: Sequence[int],
    timeout_seconds: float,
) -> None:
    """Take the partitions for this connection; they are free again when it ends, however it
    ends. Always in ascending order, so two runs cannot wait for each other.

    Raises:
        LaneBusy: another run kept one of them for longer than the timeout.
    """
    with connection.transaction():
        connection.execute(
            "SELECT set_config('lock_timeout', %s, true)", (f"{round(timeout_seconds * 1000)}",)
        )
        try:
            for partition in sorted(partitions):
                connection.execute(
                    "SELECT pg_advisory_lock(%s::int, %s::int)", (source_id, partition)
                )
        except psycopg.errors.LockNotAvailable as error:
            raise LaneBusy(
                f"another run held partition {partition} for more than {timeout_seconds:.0f} s"
            ) from error


def is_awaited(
    connection: psycopg.Connection[Any], source_id: int, partitions: Sequence[int]
) -> bool:
    """Whether another run waits for one of these partitions."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND classid = %s::oid AND objid = ANY (%s::oid[]))",
        (source_id, list(partitions)),
    ).fetchone()
    return bool(row and row[0])


def connected_runs(connection: psycopg.Connection[Any]) -> set[str]:
    """Dagster run ids of the drains that are connected now, or wait to be."""
    rows = connection.execute(
        "SELECT substr(application_name, %s) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE %s",
        (len(APPLICATION_NAME) + 2, f"{APPLICATION_NAME} %"),
    )
    return {row[0] for row in rows}
