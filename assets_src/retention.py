"""Retention as a daily job: old months of the tables, and old runs of Dagster's history."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.retention import drop_old_months
from credit_risk_dagster.settings import RetentionSettings
from resources.configurable import WarehouseResource

_FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
_CHUNK = 100


@dg.op(description="Drop the old months whose events are archived and verified.")
def drop_months(context: dg.OpExecutionContext, warehouse: WarehouseResource) -> None:
    """Do nothing unless CREDIT_RISK_RETENTION_DAYS is set."""
    days = RetentionSettings().days
    if days is None:
        context.log.info("CREDIT_RISK_RETENTION_DAYS is not set: every month stays")
        return
    try:
        drop_old_months(warehouse.client(), days, log=context.log)
    except PlatformError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


@dg.op(description="Delete the finished runs that are older than CREDIT_RISK_RETENTION_RUN_DAYS.")
def prune_runs(context: dg.OpExecutionContext) -> int:
    """Delete runs with their events, as Dagster's UI does; returns how many."""
    days = RetentionSettings().run_days
    if days is None:
        context.log.info("CREDIT_RISK_RETENTION_RUN_DAYS is not set: every run stays")
        return 0
    deleted = delete_runs(context.instance, datetime.now(UTC) - timedelta(days=days))
    context.log.info("deleted %d runs that were older than %d days", deleted, days)
    return deleted


def delete_runs(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete the finished runs that were created before then; returns how many."""
    old = dg.RunsFilter(statuses=_FINISHED, created_before=before)
    deleted = 0
    while runs := instance.get_runs(old, limit=_CHUNK):
        for run in runs:
            instance.delete_run(run.run_id)
        deleted += len(runs)
    return deleted


@dg.job(
    description="Drop old months that are archived and verified (CREDIT_RISK_RETENTION_DAYS), and "
    "delete old runs (CREDIT_RISK_RETENTION_RUN_DAYS).",
    executor_def=dg.in_process_executor,
)
def apply_retention() -> None:
    """Two ops that do not depend on each other."""
    drop_months()
    prune_runs()


retention_schedule = dg.ScheduleDefinition(
    name="apply_retention_schedule",
    job=apply_retention,
    cron_schedule="47 4 * * *",  # after the daily verification
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Once a day, after the verification of the archive.",
)
