"""Failed runs are told to a webhook, when one is configured."""

from typing import Any

import dagster as dg

from credit_risk_dagster.alerts import post
from credit_risk_dagster.settings import AlertSettings


@dg.run_failure_sensor(
    name="run_failures",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts each failed run to CREDIT_RISK_ALERT_WEBHOOK_URL. When the webhook does not "
    "take it, this tick fails, and nothing else.",
)
def run_failures(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Tell of one failed run."""
    if not post(AlertSettings(), run_failure(context)):
        return dg.SkipReason(
            f"run {context.dagster_run.run_id[:8]} of {context.dagster_run.job_name} failed; "
            "CREDIT_RISK_ALERT_WEBHOOK_URL is not set, so nobody is told"
        )
    return None


def run_failure(context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """The message about a failed run."""
    run = context.dagster_run
    errors = [_why(event) for event in context.get_step_failure_events()]
    error = "; ".join(errors) or " ".join((context.failure_event.message or "").split())
    return {
        "text": f"Dagster run {run.run_id[:8]} of {run.job_name} failed: {error}",
        "kind": "run_failure",
        "job": run.job_name,
        "run_id": run.run_id,
        "error": error,
        "tags": {
            name: value for name, value in run.tags.items() if name.startswith("credit_risk/")
        },
    }


def _why(event: dg.DagsterEvent) -> str:
    """Why a step failed. An error that is not of the platform's own words may repeat a value of an
    application, so only its kind is told."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error and error.cause:
        error = error.cause
    kind = (error and error.cls_name) or "an error"
    return f"{kind} in {event.step_key}; the run's page says more"
