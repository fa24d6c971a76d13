"""Dagster's tables: what the metrics tell of runs, daemons and ticks, and what it never deletes.

Read straight from the tables of Dagster's Postgres storage, in a few milliseconds: Dagster's own
API loads and deserialises every run to count them. What is read here is held against that API by a
test, so that an upgrade that changes the tables is noticed.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]


@dataclass(frozen=True)
class DagsterState:
    """Dagster at one moment; times are Unix times.

    Attributes:
        runs: job, status and how many: those that are not finished, and those that finished
            within the last hour.
        oldest_waiting_seconds: how long the oldest run has waited that has not begun to work; 0
            without one.
        heartbeats: the last of each daemon.
        ticks: of each sensor and schedule that is not stopped, the last one: name, kind, at,
            failed.
    """

    runs: list[Row]
    oldest_waiting_seconds: float
    heartbeats: dict[str, float]
    ticks: list[Row]


class DagsterStorage:
    """Dagster's Postgres storage, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def read(self) -> DagsterState:
        """The newest state."""
        with self._connection.pipeline(), self._connection.transaction():
            runs, waiting, heartbeats, ticks = (
                self._connection.cursor(row_factory=dict_row).execute(query)
                for query in (_RUNS, _WAITING, _HEARTBEATS, _TICKS)
            )
            return DagsterState(
                runs.fetchall(),
                (waiting.fetchone() or {"seconds": 0.0})["seconds"],
                {row["daemon"]: row["at"] for row in heartbeats.fetchall()},
                ticks.fetchall(),
            )

    def delete_observations(self, before: datetime) -> int:
        """Delete the observations that sensors made before then, which belong to no run and would
        stay for ever; returns how many."""
        return self._connection.execute(_DELETE_OBSERVATIONS, (before,)).rowcount


# Dagster's timestamps have no time zone; they are in UTC.
_RUNS: LiteralString = """
SELECT job, status, sum(n)::bigint AS runs FROM (
    SELECT pipeline_name AS job, status, count(*) AS n FROM runs
    WHERE status IN ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED', 'CANCELING')
    GROUP BY 1, 2
    UNION ALL
    SELECT pipeline_name, status, count(*) FROM runs
    WHERE status IN ('SUCCESS', 'FAILURE', 'CANCELED')
        AND update_timestamp > now() AT TIME ZONE 'UTC' - interval '1 hour'
    GROUP BY 1, 2
) AS counted GROUP BY job, status ORDER BY job, status
"""

_WAITING: LiteralString = """
SELECT coalesce(extract(epoch FROM
    clock_timestamp() AT TIME ZONE 'UTC' - min(create_timestamp)), 0)::float8 AS seconds
FROM runs WHERE status IN ('QUEUED', 'NOT_STARTED', 'STARTING')
"""

_HEARTBEATS: LiteralString = """
SELECT daemon_type AS daemon, extract(epoch FROM "timestamp")::float8 AS at FROM daemon_heartbeats
"""

_TICKS: LiteralString = """
SELECT instigator_body::jsonb #>> '{origin,job_name}' AS name,
    lower(instigator_type) AS kind, extract(epoch FROM tick.at)::float8 AS at,
    tick.status = 'FAILURE' AS failed
FROM instigators i, LATERAL (
    SELECT t."timestamp" AS at, t.status FROM job_ticks t
    WHERE t.selector_id = i.selector_id ORDER BY t."timestamp" DESC LIMIT 1
) AS tick
WHERE i.status <> 'STOPPED'
"""

_DELETE_OBSERVATIONS: LiteralString = """
DELETE FROM event_logs WHERE dagster_event_type = 'ASSET_OBSERVATION' AND run_id = ''
    AND "timestamp" < %s AT TIME ZONE 'UTC'
"""
