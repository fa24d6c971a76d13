"""The report of reviews: once a week as a page on S3, and to the webhook."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from assets_src.common import OWNERS, asset_job, kept_fresh, one_line_failures, scheduled
from assets_src.source_code import code_version, linked
from credit_risk_dagster.domain.model.outcome import load_outcome
from credit_risk_dagster.settings import DrainSettings, Settings
from resources.lake import Lake
from resources.postgres.connection import Warehouse
from resources.postgres.risk_reports import add_report

_CRON = DrainSettings.at_load().review_cron


class ReviewConfig(dg.Config):
    """Of which days."""

    days: int = Field(default=7, ge=1, le=366, description="of the work by day")
    closed_days: int = Field(
        default=90, ge=1, le=3_660, description="of closed cases, for precision and overrides"
    )


@dg.asset(
    group_name="reports",
    deps=["scored_applications", "loan_outcomes"],
    description="What became of the Watchlist's cases: precision by rule, what waits, work by day, "
    "overrides and how they turned out. A page on S3, and a line to the webhook.",
    kinds={"postgres", "s3", "python"},
    owners=OWNERS,
    code_version=code_version(
        "credit_risk_dagster.pipelines.reviews",
        "credit_risk_dagster.pipelines.review_report",
        "credit_risk_dagster.domain.cases",
    ),
    freshness_policy=kept_fresh(_CRON),
)
def review_report(
    context: dg.AssetExecutionContext,
    config: ReviewConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> dg.MaterializeResult:
    """Count, put the page, and tell. What does not take the page or the message is noted: the
    other one is done all the same."""
    from credit_risk_dagster.pipelines.html_reports import put_and_tell
    from credit_risk_dagster.pipelines.review_report import page, summary
    from credit_risk_dagster.pipelines.reviews import review_figures, turned_out

    until = datetime.now(UTC)
    with one_line_failures():
        outcome = load_outcome(settings.model.outcome)
        with warehouse.session("reviews") as connection, connection.transaction():
            found = review_figures(
                connection,
                since=until - timedelta(days=config.days),
                closed_since=until.date() - timedelta(days=config.closed_days),
            )
            loans = turned_out(connection, outcome)
            add_report(connection, "reviews", outcome.version, loans.document(), context.run.run_id)
    html = page(found, loans, until, config.days, config.closed_days, outcome.version)
    line = summary(found, config.days)
    noted = put_and_tell(
        *(lake, settings.alert, "review_report", "reviews", until, html, line), context.log
    )
    return dg.MaterializeResult(
        metadata={"summary": line, "open": found.open, "overdue": found.overdue, **noted}
    )


report_job = asset_job(
    "report_reviews",
    selection=dg.AssetSelection.assets(review_report),
    description="Report what became of the Watchlist's cases. Launch it at any time.",
    tags={"dagster/max_runtime": "3600"},
)
report_schedule = scheduled(
    job=report_job,
    cron_schedule=_CRON,
    description="Reports reviews of the last week (CREDIT_RISK_REVIEW_CRON).",
)

defs = dg.Definitions(assets=linked(review_report), jobs=[report_job], schedules=[report_schedule])
