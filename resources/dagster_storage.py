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
        checks: of each asset check that was evaluated within eight days, the last outcome: asset,
            name, passed, severity (ERROR or WARN), at. An older one may be of a check that no
            longer is.
    """

    runs: list[Row]
    oldest_waiting_seconds: float
    heartbeats: dict[str, float]
    ticks: list[Row]
    checks: list[Row]


class DagsterStorage:
    """Dagster's Postgres storage, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def read(self) -> DagsterState:
        """The newest state."""
        with self._connection.pipeline(), self._connection.transaction():
            runs, waiting, heartbeats, ticks, checks = (
                self._connection.cursor(row_factory=dict_row).execute(query)
                for query in (_RUNS, _WAITING, _HEARTBEATS, _TICKS, _CHECKS)
            )
            return DagsterState(
                runs.fetchall(),
                (waiting.fetchone() or {"seconds": 0.0})["seconds"],
                {row["daemon"]: row["at"] for row in heartbeats.fetchall()},
                ticks.fetchall(),
                checks.fetchall(),
            )

    def delete_observations(self, before: datetime) -> int:
        """Delete the observations that sensors made before then, which belong to no run and would
        stay for ever; returns how many."""
        return self._connection.execute(_DELETE_OBSERVATIONS, (before,)).rowcount

    def delete_checks(self, before: datetime) -> int:
        """Delete the outcomes of checks of before then, which Dagster keeps when it deletes their
        run; but not the newest of each. Returns how many."""
        return self._connection.execute(_DELETE_CHECKS, (before,)).rowcount


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

# Each check by one look into the index; what a run under way has planned says nothing.
_CHECKS: LiteralString = """
WITH RECURSIVE keys AS (
    (SELECT asset_key, check_name FROM asset_check_executions ORDER BY 1, 2 LIMIT 1)
    UNION ALL
    SELECT following.* FROM keys, LATERAL (
        SELECT e.asset_key, e.check_name FROM asset_check_executions e
        WHERE (e.asset_key, e.check_name) > (keys.asset_key, keys.check_name)
        ORDER BY 1, 2 LIMIT 1
    ) AS following
)
SELECT array_to_string(ARRAY(SELECT jsonb_array_elements_text(asset_key::jsonb)), '/') AS asset,
    check_name AS name, last.passed, last.at,
    split_part(last.event #>> '{dagster_event,event_specific_data,severity,__enum__}', '.', 2)
        AS severity
FROM keys, LATERAL (
    SELECT execution_status = 'SUCCEEDED' AS passed, evaluation_event::jsonb AS event,
        extract(epoch FROM evaluation_event_timestamp)::float8 AS at
    FROM asset_check_executions e
    WHERE e.asset_key = keys.asset_key AND e.check_name = keys.check_name
        AND execution_status IN ('SUCCEEDED', 'FAILED')
    ORDER BY id DESC LIMIT 1
) AS last
WHERE last.at > extract(epoch FROM now() - interval '8 days')
"""

_DELETE_OBSERVATIONS: LiteralString = """
DELETE FROM event_logs WHERE dagster_event_type = 'ASSET_OBSERVATION' AND run_id = ''
    AND "timestamp" < %s AT TIME ZONE 'UTC'
"""

_DELETE_CHECKS: LiteralString = """
DELETE FROM asset_check_executions
WHERE create_timestamp < %s AT TIME ZONE 'UTC' AND id NOT IN (
    SELECT max(id) FROM asset_check_executions
    WHERE execution_status IN ('SUCCEEDED', 'FAILED') GROUP BY asset_key, check_name, partition
)
"""
