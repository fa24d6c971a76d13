"""Who works on which partitions: advisory locks, which end with their connection.

A database has one room for all advisory locks, so each is named after its schema, too.
"""

from collections.abc import Collection, Sequence
from typing import Any, LiteralString

import psycopg

from credit_risk_dagster.errors import PlatformError

# A session that is over waits this long for its successor to stand in line, so that no event waits
# for a run to start; without one it ends.
HANDOVER_SECONDS = 10.0


class LaneBusy(PlatformError):
    """Another run holds the lane's partitions and did not hand them over in time."""


def wait_for_lane(
    connection: psycopg.Connection[Any],
    source_id: int,
    partitions: Sequence[int],
    session_seconds: float,
) -> None:
    """Stand in line for the partitions, until a predecessor's session has ended in any case.

    Raises:
        LaneBusy: another run kept them for longer.
    """
    lock_partitions(connection, source_id, partitions, session_seconds + 2 * HANDOVER_SECONDS)


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
            "SELECT set_config('lock_timeout', %(timeout)s, true)",
            {"timeout": f"{round(timeout_seconds * 1000)}"},
        )
        try:
            for partition in sorted(partitions):
                connection.execute(
                    "SELECT pg_advisory_lock(hashtextextended(current_schema() || '.lane.' ||"
                    " %(source_id)s::int || '.' || %(partition)s::int, 0))",
                    {"source_id": source_id, "partition": partition},
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
        _IS_AWAITED, {"source_id": source_id, "partitions": list(partitions)}
    ).fetchone()
    return bool(row and row[0])


# A run is who holds the lock of its id, whatever its connection is called: others have names, too.


def announce_run(connection: psycopg.Connection[Any], run_id: str) -> None:
    """Hold the run's own lock, for as long as the connection lives; nobody waits for it."""
    connection.execute(
        "SELECT pg_advisory_lock_shared(hashtextextended(current_schema() || '.run.' ||"
        " %(run_id)s, 0))",
        {"run_id": run_id},
    )


def connected_runs(connection: psycopg.Connection[Any], run_ids: Collection[str]) -> dict[str, int]:
    """Those of the runs that are connected now, working or waiting for their lane, each with the
    process id of its connection on the server."""
    rows = connection.execute(_CONNECTED_RUNS, {"run_ids": list(run_ids)})
    return dict(rows.fetchall())


# A lock with one key of 64 bits has its halves in classid and objid, and 1 in objsubid.
_LOCKS_OF_KEY: LiteralString = """
pg_locks WHERE locktype = 'advisory' AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = ((key >> 32) & 4294967295)::oid AND objid = (key & 4294967295)::oid
"""

_IS_AWAITED: LiteralString = f"""
SELECT EXISTS (SELECT FROM unnest(%(partitions)s::int[]) AS asked (partition),
    LATERAL hashtextextended(
        current_schema() || '.lane.' || %(source_id)s::int || '.' || partition, 0) AS key,
    {_LOCKS_OF_KEY} AND NOT granted)
"""  # noqa: S608 (of literals)

_CONNECTED_RUNS: LiteralString = f"""
SELECT run_id, pid FROM unnest(%(run_ids)s::text[]) AS asked (run_id),
    LATERAL hashtextextended(current_schema() || '.run.' || run_id, 0) AS key,
    {_LOCKS_OF_KEY} AND granted
"""  # noqa: S608 (of literals)
