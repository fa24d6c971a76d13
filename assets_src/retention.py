"""Time partitions: made ahead by an hourly job; the daily one of retention drops old ones, old
reviews, outcomes and what shadows said, and old runs of Dagster's history."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg

from assets_src.common import one_line_failures, op_job, scheduled
from credit_risk_dagster.pipelines.retention import drop_old_periods
from credit_risk_dagster.settings import Settings
from resources.dagster_storage import DagsterStorage
from resources.postgres.connection import Warehouse
from resources.postgres.retention import RetentionLedger
from resources.postgres.session_settings import open_session
from resources.postgres.shadow import delete_old_opinions

_FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
_CHUNK = 100


@dg.op(description="Drop the old time partitions whose events both tables of the lake have.")
def drop_periods(
    context: dg.OpExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> None:
    """Do nothing unless CREDIT_RISK_RETENTION_DAYS is set."""
    with one_line_failures():
        days = settings.retention.days
        if days is None:
            context.log.info("CREDIT_RISK_RETENTION_DAYS is not set: every row stays")
            return
        report = drop_old_periods(warehouse, days, log=context.log)
    context.add_output_metadata(
        {
            "dropped": {str(period): rows for period, rows in report.dropped.items()},
            "kept": {str(period): why for period, why in report.kept.items()},
            "rows dropped": sum(report.dropped.values()),
        }
    )


def _deleting(name: str, delete: Callable[[psycopg.Connection[Any], int], int]) -> dg.OpDefinition:
    """An op that deletes what is older than `RetentionSettings.<name>_days`, and gives how many."""
    setting = f"CREDIT_RISK_RETENTION_{name.upper()}_DAYS"

    @dg.op(name=f"delete_{name}s", description=f"Delete {name}s that are older than {setting}.")
    def op(
        context: dg.OpExecutionContext,
        settings: dg.ResourceParam[Settings],
        warehouse: dg.ResourceParam[Warehouse],
    ) -> int:
        with one_line_failures():
            days = getattr(settings.retention, f"{name}_days")
            if days is None:
                context.log.info("%s is not set: every %s stays", setting, name)
                return 0
            with warehouse.session("retention") as connection:
                deleted = delete(connection, days)
        context.log.info("deleted %d %ss that were older than %d days", deleted, name, days)
        context.add_output_metadata({"deleted": deleted, "kept for (days)": days})
        return deleted

    return op


@dg.op(description="Delete the finished runs that are older than CREDIT_RISK_RETENTION_RUN_DAYS.")
def prune_runs(context: dg.OpExecutionContext, settings: dg.ResourceParam[Settings]) -> int:
    """Delete runs with their events, as Dagster's UI does, and what belongs to none, or would stay
    without its run; returns how many runs."""
    with one_line_failures():
        days = settings.retention.run_days
    if days == 0:
        context.log.info("CREDIT_RISK_RETENTION_RUN_DAYS is 0: every run stays")
        return 0
    deleted, others = delete_history(context.instance, datetime.now(UTC) - timedelta(days=days))
    context.log.info("deleted %d runs that were older than %d days", deleted, days)
    context.log.info("deleted %d observations of the topic and outcomes of checks", others)
    return deleted


def delete_history(instance: dg.DagsterInstance, before: datetime) -> tuple[int, int]:
    """Delete what Dagster remembers of before then: finished runs with their events, and what it
    would keep for ever (observations of no run, outcomes of checks); returns how many of each."""
    deleted, others = delete_runs(instance, before), 0
    if url := getattr(instance.run_storage, "postgres_url", None):
        with open_session(url, "retention") as connection:
            storage = DagsterStorage(connection)
            others = storage.delete_observations(before) + storage.delete_checks(before)
    return deleted, others


def delete_runs(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete the finished runs that were created before then; returns how many."""
    old = dg.RunsFilter(statuses=_FINISHED, created_before=before)
    deleted = 0
    while runs := instance.get_runs(old, limit=_CHUNK):
        for run in runs:
            instance.delete_run(run.run_id)
        deleted += len(runs)
    return deleted


delete_reviews = _deleting("review", lambda c, days: RetentionLedger(c).delete_reviews(days))
delete_outcomes = _deleting("outcome", lambda c, days: RetentionLedger(c).delete_outcomes(days))
delete_shadows = _deleting("shadow", delete_old_opinions)


@dg.job(
    description="Drop old time partitions that both tables of the lake have "
    "(CREDIT_RISK_RETENTION_DAYS), and delete old reviews (CREDIT_RISK_RETENTION_REVIEW_DAYS), "
    "outcomes (CREDIT_RISK_RETENTION_OUTCOME_DAYS), what shadows said "
    "(CREDIT_RISK_RETENTION_SHADOW_DAYS) and runs (CREDIT_RISK_RETENTION_RUN_DAYS).",
    executor_def=dg.in_process_executor,
)
def apply_retention() -> None:
    """Ops that do not depend on each other."""
    drop_periods()
    delete_reviews()
    delete_outcomes()
    delete_shadows()
    prune_runs()


retention_schedule = scheduled(
    job=apply_retention, cron_schedule="47 4 * * *", description="Once a day."
)


@dg.op(description="Make the tables' time partitions of the next week or month.")
def make_partitions(context: dg.OpExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> None:
    """A run that scores makes one itself only where this job did not."""
    with one_line_failures(), warehouse.session("partitions") as connection:
        made = warehouse.make_partitions(connection)
    context.log.info("%d time partitions made", made)


prepare_partitions = op_job(
    "prepare_partitions",
    make_partitions,
    "Make the tables' time partitions ahead, a month or a day each (CREDIT_RISK_PARTITION_SPAN). "
    "Nobody who reads or writes waits for it.",
)
partitions_schedule = scheduled(
    job=prepare_partitions,
    cron_schedule="23 * * * *",
    description="Every hour; there is something to do once a day or a month.",
)

defs = dg.Definitions(
    jobs=[apply_retention, prepare_partitions], schedules=[retention_schedule, partitions_schedule]
)
