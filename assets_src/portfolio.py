"""The report of the portfolio: expected loss, stress, fair lending, and the model's performance."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from assets_src.common import (
    OWNERS,
    asset_job,
    check_result,
    kept_fresh,
    one_line_failures,
    scheduled,
    table,
)
from assets_src.source_code import code_version, linked
from credit_risk_dagster.domain.model.outcome import load_outcome
from credit_risk_dagster.settings import Settings
from resources.postgres.connection import Warehouse

_CRON = "15 6 * * *"
IMPACT = dg.AssetCheckSpec(
    "adverse_impact",
    asset="portfolio_report",
    description="No group of applicants (application type, home, state, grade, age of credit) of "
    "100 or more is kept off the Watchlist less than 0.90 times as often as the group that is most "
    "often. If it fails, open the dashboard's Portfolio page, and have the policy's owner and "
    "compliance look at the group: it finds where to look, and proves nothing.",
)


@dg.asset(
    group_name="model",
    deps=["scored_applications", "loan_outcomes", "risk_model"],
    description="The newest applications by the active model's PD (or the newest model's): "
    "expected loss, stress, fair lending, estimated and realised performance, PD by tier: table "
    "`risk_reports`.",
    kinds={"python", "postgres"},
    owners=OWNERS,
    code_version=code_version(
        "credit_risk_dagster.pipelines.portfolio",
        "credit_risk_dagster.domain.portfolio",
        "credit_risk_dagster.domain.fairness",
        "credit_risk_dagster.domain.model",
    ),
    freshness_policy=kept_fresh(_CRON),
    output_required=False,
    check_specs=[IMPACT],
)
def portfolio_report(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Compute it, and say whom the policy flags more often."""
    from credit_risk_dagster.pipelines.classes import read_classes
    from credit_risk_dagster.pipelines.policies import current_policy
    from credit_risk_dagster.pipelines.portfolio import report_portfolio

    with one_line_failures():
        file = settings.model.classes_file
        found = report_portfolio(
            warehouse,
            current_policy(warehouse, settings.policy),
            load_outcome(settings.model.outcome),
            run_id=context.run.run_id,
            classes=read_classes(file) if file else None,
        )
    if found is None:
        yield check_result(IMPACT, True, "nothing is scored yet")
        return
    yield dg.MaterializeResult(metadata=_metadata(found))
    yield _impact(found)


def _metadata(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dagster/row_count": found["applications"],
        "with a known outcome": found["known"],
        "policy": found["policy"],
        "model": f"{found['model']}{'' if found['active'] else ' (not active)'}",
        "loss given default": found["lgd"],
        "protected classes": found["classes"] or "no file: CREDIT_RISK_MODEL_CLASSES_FILE",
        "stress": table(
            {name: "" if value is None else value for name, value in row.items()}
            for row in found["stress"]
        ),
        "not used by the model": " ".join(found["unmoved"]) or "none of what the stress changes",
    }


def _impact(found: Mapping[str, Any]) -> dg.AssetCheckResult:
    low = [s for s in found["segments"] if s["verdict"] in ("warning", "alarm")]
    said = ", ".join(
        f"{s['attribute']} {s['value']}: {s['ratio']['value']:.3f} of {s['reference']} "
        f"(n {s['rows']:,})"
        for s in low
    )
    severity = (
        dg.AssetCheckSeverity.ERROR
        if any(s["verdict"] == "alarm" for s in low)
        else dg.AssetCheckSeverity.WARN
    )
    return check_result(IMPACT, not low, said or "no group is below 0.90", severity=severity)


report_job = asset_job(
    "report_portfolio",
    selection=dg.AssetSelection.assets(portfolio_report),
    description="Report expected loss, stress, fair lending and performance of the newest "
    "applications. Launch it at any time.",
    tags={"dagster/max_runtime": str(3600)},
)
report_schedule = scheduled(
    job=report_job, cron_schedule=_CRON, description="Once a day, after the models."
)

defs = dg.Definitions(
    assets=linked(portfolio_report), jobs=[report_job], schedules=[report_schedule]
)
