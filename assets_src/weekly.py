"""The report of the week: what the first page tells, as a page on S3, and to the webhook."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from assets_src.common import OWNERS, asset_job, kept_fresh, one_line_failures, scheduled
from assets_src.source_code import code_version, linked
from credit_risk_dagster.domain.limits import load_limits
from credit_risk_dagster.settings import Settings
from resources.lake import Lake
from resources.postgres.connection import Warehouse

_CRON = "30 6 * * 1"  # after the portfolio's report


class WeeklyConfig(dg.Config):
    """Of how many days."""

    days: int = Field(default=7, ge=1, le=366, description="up to now")


@dg.asset(
    group_name="reports",
    deps=["scored_applications", "portfolio_report", "drift_report", "loan_vintages"],
    description="What a manager reads once a week: whether anything is wrong, what came, limits, "
    "expected loss and bad rates by tier, vintages, drift, and who changed what decides. A page on "
    "S3, and a line to the webhook.",
    kinds={"postgres", "s3", "python"},
    owners=OWNERS,
    code_version=code_version("dashboard.parts.report", "dashboard.parts.signals"),
    freshness_policy=kept_fresh(_CRON),
)
def weekly_report(
    context: dg.AssetExecutionContext,
    config: WeeklyConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> dg.MaterializeResult:
    """Gather, put the page, and tell."""
    from credit_risk_dagster.pipelines.html_reports import put_and_tell
    from dashboard.parts.report import gather, page, summary

    until = datetime.now(UTC)
    with one_line_failures():
        limits = load_limits(settings.drain.limits_file)
        with warehouse.session("weekly report") as connection, connection.transaction():
            stretch, within = timedelta(days=config.days), settings.drain.case_sla_hours
            facts = gather(connection, until, stretch, limits, within)
    line = summary(facts)
    noted = put_and_tell(
        *(lake, settings.alert, "weekly_report", "weekly", until, page(facts), line), context.log
    )
    return dg.MaterializeResult(metadata={"summary": line, **noted})


report_job = asset_job(
    "report_week",
    selection=dg.AssetSelection.assets(weekly_report),
    description="Report the last seven days, or so many. Launch it at any time.",
    tags={"dagster/max_runtime": "3600"},
)
report_schedule = scheduled(
    job=report_job,
    cron_schedule=_CRON,
    description="Each Monday, after the report of the portfolio.",
)

defs = dg.Definitions(assets=linked(weekly_report), jobs=[report_job], schedules=[report_schedule])
