"""Forgetting an applicant, as a job of the UI."""

import dagster as dg
from pydantic import Field

from assets_src.common import one_line_failures, op_job
from credit_risk_dagster.pipelines.forget import forget_at
from resources.lake import Lake
from resources.postgres.connection import Warehouse


class ForgetConfig(dg.Config):
    """Any one application of the applicant: Dagster keeps what a run was asked, so it is asked
    without the loan's id. The dashboard's Watchlist and `GET /applications/...` have the three."""

    source_id: int = Field(ge=1, description="source of the application")
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)
    by: str = Field(description="who does it")
    why: str = Field(description="the request, by a name of its own: never the loan's id")


@dg.op(description="Delete what is stored of the applicant whose application that is.")
def forget_application(
    context: dg.OpExecutionContext,
    config: ForgetConfig,
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> None:
    """Forget, and say how many rows went."""
    with one_line_failures():
        forget_at(
            warehouse,
            lake,
            (config.source_id, config.partition, config.offset),
            by=config.by,
            why=config.why,
            log=context.log,
        )


forget_applicant = op_job(
    "forget_applicant",
    forget_application,
    "Delete what is stored of an applicant, who is named by the place of one of their "
    "applications. Safe to launch again; `credit-risk forget` does it by the loan's id.",
)


defs = dg.Definitions(jobs=[forget_applicant])
