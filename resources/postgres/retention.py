"""Dropping old time partitions, in Postgres. All SQL that drops is here."""

from datetime import date
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from credit_risk_dagster.errors import PlatformError

TABLES = ("scored_applications", "rejected_events", "batches")


class TablesBusy(PlatformError):
    """Somebody uses the tables for so long that a partition could not be dropped."""


class RetentionLedger:
    """The time partitions of the big tables, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def months(self) -> list[date]:
        """First days of the months that any of the tables has a partition for."""
        rows = self._connection.execute(
            "SELECT DISTINCT to_date(right(relid::regclass::text, 7), 'YYYY_MM') AS month"
            " FROM unnest(%(TABLES)s::text[]) AS parent, pg_partition_tree(parent::regclass)"
            " WHERE isleaf ORDER BY month",
            {"TABLES": list(TABLES)},
        )
        return [row[0] for row in rows]

    def contents(self, month: date) -> list[dict[str, Any]]:
        """What a month's partitions hold, and whether the archive has it.

        Returns:
            For each source and partition: source_id, partition, scored, rejected, and safe: every
            event is archived, none was lost to the archive, and all checksums were verified.
        """
        scored, rejected, _ = (sql.Identifier(name) for name in _children(month))
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                sql.SQL(_CONTENTS).format(scored=scored, rejected=rejected)
            ).fetchall()

    def drop(self, month: date, contents: list[dict[str, Any]]) -> None:
        """Drop a month's partitions, and record how many rows they had.

        Raises:
            TablesBusy: the tables were in use for too long; nothing was dropped.
        """
        try:
            with self._connection.transaction():
                # Dropping waits for running queries, and new ones wait for it, a drain's too.
                self._connection.execute("SET LOCAL lock_timeout = '2s'")
                for row in contents:
                    self._connection.execute(
                        "INSERT INTO dropped_rows (source_id, partition, month, scored, rejected)"
                        " VALUES (%(source_id)s, %(partition)s, %(month)s, %(scored)s,"
                        " %(rejected)s)",
                        {**row, "month": month},
                    )
                self._connection.execute("SELECT drop_month(%(month)s)", {"month": month})
        except psycopg.errors.LockNotAvailable as error:
            raise TablesBusy(
                f"a query used the tables for more than 2 s, {month:%Y-%m} is not dropped: the "
                "next run tries again"
            ) from error


def _children(month: date) -> list[str]:
    return [f"{table}_{month:%Y_%m}" for table in TABLES]


_CONTENTS: LiteralString = """
WITH held AS (
    SELECT source_id, partition, "offset" AS at, 1 AS scored, 0 AS rejected FROM {scored}
    UNION ALL
    SELECT source_id, partition, "offset", 0, 1 FROM {rejected}
), ranges AS (
    SELECT source_id, partition, min(at) AS first, max(at) AS last,
        sum(scored)::bigint AS scored, sum(rejected)::bigint AS rejected
    FROM held GROUP BY source_id, partition
)
SELECT source_id, partition, scored, rejected, EXISTS (
        SELECT FROM archive_objects a
        WHERE a.source_id = r.source_id AND a.partition = r.partition
            AND a.first_offset <= r.last AND a.next_offset > r.first
        HAVING min(a.first_offset) <= r.first AND max(a.next_offset) > r.last
            AND bool_and(a.lost = 0 AND (a.key IS NULL OR a.verified_at IS NOT NULL))
            AND sum(a.next_offset - a.first_offset) = max(a.next_offset) - min(a.first_offset)
    ) AS safe
FROM ranges r ORDER BY source_id, partition
"""
