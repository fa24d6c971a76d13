"""The life of policies and of experiments as jobs of the UI. A run acts as its database's role: one
person."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets_src.common import one_line_failures, op_job
from credit_risk_dagster.pipelines import experiments, policies
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


class ExperimentConfig(dg.Config):
    """Which candidate, and how."""

    policy: str = Field(default="", description="the challenger: id, version or name")
    model: int | None = Field(default=None, description="or a model's id, as a shadow")
    share: int | None = Field(
        default=None, ge=1, le=99, description="percent that it decides; without, it is a shadow"
    )
    salt: str | None = Field(default=None, description="deals the loans; default the policy's name")
    why: str = _WHY


class StepConfig(dg.Config):
    """Which experiment."""

    experiment: int
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


@dg.op(name="retire_the_policy")
def retire(
    context: dg.OpExecutionContext, config: PolicyConfig, warehouse: dg.ResourceParam[Warehouse]
) -> None:
    """Call off what is still to come of a policy's activations."""
    with one_line_failures(), warehouse.session("policy") as connection:
        policy_id = policies.chosen(connection, config.policy).stored.policy_id
        _tell(context, policies.retire(connection, policy_id, config.why))


@dg.op(name="submit_the_experiment")
def submit_experiment(
    context: dg.OpExecutionContext, config: ExperimentConfig, warehouse: dg.ResourceParam[Warehouse]
) -> None:
    """Store an experiment, for somebody else to approve."""
    with one_line_failures(), warehouse.session("experiment") as connection:
        chosen = policies.chosen(connection, config.policy) if config.policy else None
        given = experiments.submit(
            *(connection, config.why),
            policy_id=chosen.stored.policy_id if chosen else None,
            model_id=config.model,
            share=config.share,
            salt=config.salt,
        )
        _tell(context, given)


def _step(name: str, step: Callable[..., Approval], words: str) -> dg.OpDefinition:
    @dg.op(name=name, description=words)
    def op(
        context: dg.OpExecutionContext, config: StepConfig, warehouse: dg.ResourceParam[Warehouse]
    ) -> None:
        with one_line_failures(), warehouse.session("experiment") as connection:
            _tell(context, step(connection, config.experiment, config.why))

    return op


_STEPS: dict[str, tuple[Callable[..., Approval], str]] = {
    "approve": (experiments.approve, "Approve an experiment that somebody else submitted."),
    "start": (experiments.start, "Let an approved experiment run; a split replaces another."),
    "stop": (experiments.stop, "Let an experiment run no more; its results stay."),
}


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
        "%s %d: %s by %s, from %s on",
        *(given.kind, given.subject_id, given.action, given.who),
        f"{given.effective_from:%Y-%m-%d %H:%M:%S}",
    )


defs = dg.Definitions(
    jobs=[
        op_job("submit_policy", submit, "Store a policy, for somebody else to approve."),
        op_job(
            "approve_policy",
            approve,
            "Approve a policy that somebody else submitted. Who launches it is the database's role "
            "of the run: name that in CREDIT_RISK_ROLES where Dagster knows who launches.",
        ),
        op_job(
            "activate_policy", activate, "Let an approved policy decide, now or from a moment on."
        ),
        op_job("roll_back_policy", roll_back, "Let the policy before the active one decide again."),
        op_job(
            "retire_policy", retire, "Call off what is still to come of a policy's activations."
        ),
        op_job(
            *("submit_experiment", submit_experiment),
            "Let a candidate decide a share of the live traffic, or beside: once it is approved.",
        ),
        *(
            op_job(f"{verb}_experiment", _step(f"{verb}_the_experiment", step, words), words)
            for verb, (step, words) in _STEPS.items()
        ),
    ]
)
