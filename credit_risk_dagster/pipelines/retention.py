"""Retention: old months leave Postgres when S3 has them, and old runs leave Dagster."""

import logging
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from resources.postgres.connection import Warehouse
from resources.postgres.rejected import RejectedEvents
from resources.postgres.retention import RetentionLedger


@dataclass
class RetentionReport:
    """What was dropped.

    Attributes:
        dropped: month to the rows of scored_applications and rejected_events that it had.
        kept: months that are old enough, and why they stay.
    """

    dropped: dict[date, int] = field(default_factory=dict)
    kept: dict[date, str] = field(default_factory=dict)


def drop_old_months(
    warehouse: Warehouse, keep_days: int, *, now: datetime | None = None, log: logging.Logger
) -> RetentionReport:
    """Drop the months that ended more than so many days ago, when their events are archived and
    verified. A month is dropped from all tables or from none.

    Args:
        warehouse: where.
        keep_days: how old a month's last day may be.
        now: the time, for tests.
        log: progress.

    Raises:
        TablesBusy, RedriveRaced, WarehouseUnavailable, NotMigrated: as their names say.
    """
    report = RetentionReport()
    newest = ((now or datetime.now(UTC)) - timedelta(days=keep_days)).date()
    with warehouse.session("retention") as connection:
        RejectedEvents(connection).lock_redrive()  # nothing else changes an old month
        ledger = RetentionLedger(connection)
        for month in ledger.months():
            if (month + timedelta(days=32)).replace(day=1) > newest:
                continue
            contents = ledger.contents(month)
            unsafe = [row for row in contents if not row["safe"]]
            if unsafe:
                report.kept[month] = "not archived and verified: " + ", ".join(
                    f"source {row['source_id']} partition {row['partition']}" for row in unsafe
                )
                log.warning("%s stays, it is %s", f"{month:%Y-%m}", report.kept[month])
                continue
            ledger.drop(month, contents)
            report.dropped[month] = sum(row["scored"] + row["rejected"] for row in contents)
            log.info("dropped %s: %d rows", f"{month:%Y-%m}", report.dropped[month])
    return report
