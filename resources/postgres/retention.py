"""Dropping old time partitions, in Postgres. What may be dropped, the database decides itself."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from resources.postgres.partitions import TablesBusy


@dataclass(frozen=True, order=True)
class Period:
    """What a time partition covers: from starts up to and without ends, in UTC."""

    starts: datetime
    ends: datetime

    def __str__(self) -> str:
        whole = self.starts.day == 1 and self.ends - self.starts > timedelta(days=27)
        return f"{self.starts:%Y-%m}" if whole else f"{self.starts:%Y-%m-%d}"


class RetentionLedger:
    """The time partitions of the big tables, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def periods(self) -> list[Period]:
        """The periods that any of the tables has a partition for, the oldest first."""
        with self._connection.cursor(row_factory=class_row(Period)) as cursor:
            return cursor.execute(
                "SELECT DISTINCT starts, ends FROM time_partitions ORDER BY starts"
            ).fetchall()

    def drop(self, period: Period) -> list[dict[str, Any]]:
        """Drop a period's partitions and record how many rows they had, if the lake has it all;
        a period is dropped from all tables or from none.

        Returns:
            What it holds: for each source and partition source_id, partition, scored, rejected, and
            safe: both tables of the lake have all of its events, as far as nobody gave them up.
            It was dropped if all are.

        Raises:
            TablesBusy: the tables were in use for too long; nothing was dropped.
        """
        try:
            with self._connection.cursor(row_factory=dict_row) as cursor:
                return cursor.execute(
                    "SELECT * FROM drop_period(%(starts)s, %(ends)s)", vars(period)
                ).fetchall()
        except psycopg.errors.LockNotAvailable as error:
            raise TablesBusy(
                f"a query used the tables for more than 2 s, {period} is not dropped: the next run "
                "tries again"
            ) from error

    def delete_reviews(self, keep_days: int) -> int:
        """Delete reviews that are older than so many days, at least one, and cases that were closed
        before; returns how many."""
        row = self._connection.execute(
            "SELECT delete_old_reviews(%(days)s) + delete_old_cases(%(days)s)", {"days": keep_days}
        ).fetchone()
        return int(row[0]) if row else 0

    def delete_outcomes(self, keep_days: int) -> int:
        """Delete the outcomes that were received more than so many days ago, at least one; returns
        how many."""
        row = self._connection.execute(
            "SELECT delete_old_outcomes(%(days)s)", {"days": keep_days}
        ).fetchone()
        return int(row[0]) if row else 0
