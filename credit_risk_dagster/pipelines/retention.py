"""Retention: old time partitions leave Postgres when S3 has them."""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from resources.postgres.connection import Warehouse
from resources.postgres.rejected import RejectedEvents
from resources.postgres.retention import Period, RetentionLedger


@dataclass
class RetentionReport:
    """What was dropped.

    Attributes:
        dropped: period to the rows of scored_applications and rejected_events that it had.
        kept: periods that are old enough, and why they stay.
    """

    dropped: dict[Period, int] = field(default_factory=dict)
    kept: dict[Period, str] = field(default_factory=dict)


def drop_old_periods(
    warehouse: Warehouse, keep_days: int, *, now: datetime | None = None, log: logging.Logger
) -> RetentionReport:
    """Drop the time partitions that ended more than so many days ago, when both
    tables of the lake have their events.

    Args:
        warehouse: where.
        keep_days: how old the last day of a partition may be.
        now: the time, for tests.
        log: progress.

    Raises:
        TablesBusy, RedriveRaced, WarehouseUnavailable, NotMigrated: as their names say.
    """
    report = RetentionReport()
    newest = (now or datetime.now(UTC)) - timedelta(days=keep_days)
    with warehouse.session("retention") as connection:
        RejectedEvents(connection).lock_redrive()  # nothing else changes an old period
        ledger = RetentionLedger(connection)
        for period in ledger.periods():
            if period.ends > newest:
                continue
            contents = ledger.drop(period)
            if unsafe := [row for row in contents if not row["safe"]]:
                report.kept[period] = "not in both tables of the lake: " + ", ".join(
                    f"source {row['source_id']} partition {row['partition']}" for row in unsafe
                )
                log.warning("%s stays, it is %s", period, report.kept[period])
                continue
            report.dropped[period] = sum(row["scored"] + row["rejected"] for row in contents)
            log.info("dropped %s: %d rows", period, report.dropped[period])
    return report
