"""The sensor of the population: when it has drifted, the models and the rules are measured anew."""

import dagster as dg

from assets_src.drift import PSI_SIGNIFICANT
from assets_src.model import benchmark_models

DRIFTED, STABLE = "drifted", "stable"


@dg.sensor(
    job=benchmark_models,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a benchmark when the check psi_significant of drift_report begins to "
    "fail: once for each drift, however many reports say so.",
)
def population_drifted(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """One tick: a run request at the edge from stable to drifted, which the cursor remembers."""
    found = context.instance.get_latest_asset_check_evaluation_record(PSI_SIGNIFICANT.key)
    evaluation = found and found.event and found.event.asset_check_evaluation
    if not (found and evaluation):
        return dg.SkipReason("no run made a drift report yet")
    if evaluation.passed:
        return dg.SensorResult(skip_reason="the population has not drifted", cursor=STABLE)
    if context.cursor == DRIFTED:
        return dg.SkipReason(f"still drifted, benchmarked when it began: {evaluation.description}")
    context.log.info("the population has drifted: %s", evaluation.description)
    return dg.SensorResult(
        run_requests=[dg.RunRequest(tags={"credit_risk/why": "the population has drifted"})],
        cursor=DRIFTED,
    )


defs = dg.Definitions(sensors=[population_drifted])
