"""The life of policies as jobs of the UI. A run acts as its database's role: one person."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets_src.common import one_line_failures
from credit_risk_dagster.pipelines import policies
from resources.postgres.approvals import Approval, NotInOrder
from resources.postgres.connection import Warehouse

_WHY = Field(min_length=1, description="it is kept for ever")


class SubmitConfig(dg.Config):
    """Which policy."""

    file: str = Field(description="credit policy (YAML), a path on the machine of the run")
    why: str = _WHY


class PolicyConfig(dg.Config):
    """Which stored policy."""

    policy: str = Field(description="id, version or name")
    why: str = _WHY


class ActivateConfig(PolicyConfig):
    """Which stored policy, and from when on."""

    at: str = Field(default="", description="e.g. 2026-12-01T00:00 (UTC); empty is now")


class RollBackConfig(dg.Config):
    """Why."""

    why: str = _WHY


@dg.op(name="submit_the_policy")
def submit(
    context: dg.OpExecutionContext, config: SubmitConfig, warehouse: dg.ResourceParam[Warehouse]
) -> None:
    """Store a policy, for somebody else to approve."""
    from credit_risk_dagster.domain.policy import load_policy

    with one_line_failures(), warehouse.session("policy") as connection:
        _tell(context, policies.submit(connection, load_policy(Path(config.file)), config.why))


@dg.op(name="approve_the_policy")
def approve(
    context: dg.OpExecutionContext, config: PolicyConfig, warehouse: dg.ResourceParam[Warehouse]
) -> None:
    """Approve a policy that somebody else submitted."""
    with one_line_failures(), warehouse.session("policy") as connection:
        policy_id = policies.chosen(connection, config.policy).stored.policy_id
        _tell(context, policies.approve(connection, "policy", policy_id, config.why))


@dg.op(name="activate_the_policy")
def activate(
    context: dg.OpExecutionContext, config: ActivateConfig, warehouse: dg.ResourceParam[Warehouse]
) -> None:
    """Let an approved policy decide."""
    with one_line_failures(), warehouse.session("policy") as connection:
        policy_id = policies.chosen(connection, config.policy).stored.policy_id
        moment = _moment(config.at)
        _tell(context, policies.activate(connection, policy_id, config.why, moment))


@dg.op(name="roll_back_the_policy")
def roll_back(
    context: dg.OpExecutionContext, config: RollBackConfig, warehouse: dg.ResourceParam[Warehouse]
) -> None:
    """Let the policy decide again that did before the active one."""
    with one_line_failures(), warehouse.session("policy") as connection:
        _tell(context, policies.roll_back(connection, config.why))


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise NotInOrder(f"at: {text!r} is no moment, write one like 2026-12-01T00:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _tell(context: dg.OpExecutionContext, given: Approval) -> None:
    context.log.info(
        "policy %d: %s by %s, from %s on",
        *(given.subject_id, given.action, given.who, f"{given.effective_from:%Y-%m-%d %H:%M:%S}"),
    )


def _job(name: str, op: dg.OpDefinition, description: str) -> dg.JobDefinition:
    graph = dg.GraphDefinition(name, node_defs=[op])
    return graph.to_job(description=description, executor_def=dg.in_process_executor)


defs = dg.Definitions(
    jobs=[
        _job("submit_policy", submit, "Store a policy, for somebody else to approve."),
        _job(
            "approve_policy",
            approve,
            "Approve a policy that somebody else submitted. Who launches it is the database's role "
            "of the run: name that in CREDIT_RISK_ROLES where Dagster knows who launches.",
        ),
        _job(
            "activate_policy", activate, "Let an approved policy decide, now or from a moment on."
        ),
        _job("roll_back_policy", roll_back, "Let the policy before the active one decide again."),
    ]
)
