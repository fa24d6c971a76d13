"""What the assets share: owners, when they are late, and how they say what they found."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import islice, pairwise
from typing import Any

import dagster as dg

from credit_risk_dagster.errors import PlatformError, full_disk_named
from resources.dagster_internals import cron_string_iterator

OWNERS = ["team:credit-risk"]

asset_job = partial(dg.define_asset_job, executor_def=dg.in_process_executor)
"""A job whose steps are in the run's own process, which begins a second sooner."""

scheduled = partial(dg.ScheduleDefinition, default_status=dg.DefaultScheduleStatus.RUNNING)
"""A schedule that nobody needs to start; its name is its job's and `_schedule`."""

# Dagster says on the stderr of each process which of its functions are beta.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def kept_fresh(cron: str | None = None) -> dg.FreshnessPolicy:
    """When an asset is late that a schedule, or without one the stream itself, keeps up to date.

    A round that finds nothing new leaves no materialization, so a quiet hour is a warning and a
    quiet day a failure; for a slower schedule, two rounds and three.
    """
    every = timedelta(0)
    if cron:
        ticks = islice(cron_string_iterator(0.0, cron, "UTC"), 9)
        every = max(following - tick for tick, following in pairwise(ticks))
    return dg.FreshnessPolicy.time_window(
        fail_window=max(timedelta(days=1), 3 * every),
        warn_window=max(timedelta(hours=1), 2 * every),
    )


def op_job(name: str, op: dg.OpDefinition, description: str) -> dg.JobDefinition:
    """A job of one op, which is named in its run config."""
    graph = dg.GraphDefinition(name, node_defs=[op])
    return graph.to_job(description=description, executor_def=dg.in_process_executor)


@contextmanager
def one_line_failures() -> Iterator[None]:
    """An error in the platform's own words is the run's failure in that one line. It is not tried
    again: the schedule or sensor starts the next run when that can help, and a launch by hand is
    answered at once.
    """
    try:
        with full_disk_named():
            yield
    except PlatformError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def table(rows: Iterable[Mapping[str, Any]], *columns: str) -> dg.TableMetadataValue:
    """Rows as a table in an event's metadata; of none, one of these columns, as Dagster asks for a
    schema then."""
    records = [dg.TableRecord(dict(row)) for row in rows]
    if records:
        return dg.MetadataValue.table(records)
    none = dg.TableSchema([dg.TableColumn(name) for name in columns or ("nothing",)])
    return dg.MetadataValue.table([], schema=none)


def check_result(
    spec: dg.AssetCheckSpec,
    passed: bool,
    description: str,
    metadata: Mapping[str, Any] | None = None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """What a check of an asset's own found."""
    return dg.AssetCheckResult(
        check_name=spec.name,
        asset_key=spec.asset_key,
        passed=passed,
        severity=severity,
        description=description,
        metadata=metadata or {},
    )
