"""Experiments: candidates on live traffic. A split lets a challenger decide a share of the loans; a
shadow decides beside, and changes nothing. Submitted, approved by somebody else, started, stopped:
rows of `approvals`, as of policies.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from credit_risk_dagster.domain.arms import Split
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.shadow import Shadow
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.policies import approve as approve_subject
from credit_risk_dagster.pipelines.policies import loaded, require
from resources.postgres.approvals import Activation, Approval, Approvals, NotInOrder
from resources.postgres.experiments import Experiment, Experiments, NoSuchExperiment
from resources.postgres.models import ModelStore
from resources.postgres.policies import Policies

SALT = r"[A-Za-z0-9._-]{1,64}"


class ExperimentBroken(PlatformError):
    """What runs beside the active policy cannot be loaded."""


@dataclass(frozen=True)
class Running:
    """The experiments that run.

    Attributes:
        words: what each is.
        problems: why some do not, although they were started.
    """

    split: Split | None = None
    shadows: tuple[Shadow, ...] = ()
    words: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def running(connection: psycopg.Connection[Any]) -> Running:
    """What runs now, ready to decide. One whose candidate cannot be loaded does not, and costs
    nothing but itself."""
    split, shadows, words, problems = None, [], [], []
    try:
        experiments = Experiments(connection).running()
    except psycopg.ProgrammingError as error:  # no table, no column, no privilege
        return Running(problems=(f"the experiments cannot be read: {error.diag.message_primary}",))
    for found in experiments:
        try:
            candidate = _candidate(connection, found)
        except PlatformError as error:
            problems.append(f"experiment {found.experiment_id} does not run: {error}")
            continue
        words.append(f"experiment {found.experiment_id} ({found.words})")
        if isinstance(candidate, Split):
            split = candidate
        else:
            shadows.append(candidate)
    return Running(split, tuple(shadows), tuple(words), tuple(problems))


def split_beside(connection: psycopg.Connection[Any], policy: Policy) -> Split | None:
    """The split that runs, where this policy is its champion: the active one.

    Raises:
        ExperimentBroken: something runs that cannot be loaded, so that arms might be lost.
    """
    own = Policies(connection).find(policy)
    active = Approvals(connection, "policy").active()
    if own is None or own != active:
        return None
    found = running(connection)
    if found.problems:
        raise ExperimentBroken("; ".join(found.problems))
    return found.split


def _candidate(connection: psycopg.Connection[Any], found: Experiment) -> Split | Shadow:
    if found.policy_id is None:
        model = ModelStore(connection).scorer(found.model_id)
        assert model is not None  # noqa: S101 (of an id)
        return Shadow(found.experiment_id, model)
    policy = loaded(Policies(connection).get(found.policy_id))
    if found.share is None or found.salt is None:
        return Shadow(found.experiment_id, policy)
    return Split(policy, found.policy_id, found.salt, found.share)


# --- its life -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExperimentLife:
    """An experiment, and all that was decided about it, the oldest first.

    Attributes:
        state: running, approved, submitted, or stopped.
    """

    experiment: Experiment
    state: str
    approvals: list[Approval] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """All of it by name, for a program."""
        return {
            **vars(self.experiment),
            "state": self.state,
            "approvals": [vars(approval) for approval in self.approvals],
            "activations": [vars(activation) for activation in self.activations],
        }


def lives(connection: psycopg.Connection[Any]) -> list[ExperimentLife]:
    """Every experiment, the newest first."""
    approvals = Approvals(connection, "experiment")
    decided, activations = approvals.all(), approvals.activations()
    found = []
    for experiment in Experiments(connection).all():
        own = [a for a in decided if a.subject_id == experiment.experiment_id]
        active = [a for a in activations if a.subject_id == experiment.experiment_id]
        found.append(ExperimentLife(experiment, _state(own, active), own, active))
    return found


def _state(approvals: Sequence[Approval], activations: Sequence[Activation]) -> str:
    if any(activation.active for activation in activations):
        return "running"
    if activations:
        return "stopped"
    return "approved" if any(a.action == "approve" for a in approvals) else "submitted"


def life(connection: psycopg.Connection[Any], experiment_id: int) -> ExperimentLife:
    """An experiment. Raises NoSuchExperiment."""
    for found in lives(connection):
        if found.experiment.experiment_id == experiment_id:
            return found
    raise NoSuchExperiment(
        f"there is no experiment {experiment_id}: see `credit-risk experiment ls`"
    )


def submit(
    connection: psycopg.Connection[Any],
    why: str,
    *,
    policy_id: int | None = None,
    model_id: int | None = None,
    share: int | None = None,
    salt: str | None = None,
) -> Approval:
    """Ask for the approval of an experiment: a split with a share, else a shadow.

    Args:
        policy_id, model_id: the candidate, one of the two.
        share: percent of the loans, 1 to 99.
        salt: deals them; by default the policy's name, so that another share of the same policy
            keeps the loans that are dealt already.

    Raises:
        NotPermitted, NotInOrder, NoSuchPolicy, ModelMissing, ModelUnreadable, PolicyError: as their
            names say; a candidate has to be one that can decide.
    """
    require(connection, "submit")
    if (policy_id is None) == (model_id is None):
        raise NotInOrder("give either a policy or a model, the challenger")
    if (share is None and salt is not None) or (model_id is not None and share is not None):
        raise NotInOrder("a shadow decides no share: a share and a salt are a policy's in a split")
    if policy_id is None:
        ModelStore(connection).scorer(model_id)
    else:
        policy = loaded(Policies(connection).get(policy_id))
        salt = None if share is None else salt or policy.name
    if salt is not None and not re.fullmatch(SALT, salt):
        raise NotInOrder(
            f"{salt!r} is no salt: give --salt letters, digits, '.', '_' and '-', 64 at most"
        )
    with connection.transaction():
        found = Experiments(connection).add(policy_id, model_id, share, salt)
        return Approvals(connection, "experiment").record(found, "submit", why)


def approve(connection: psycopg.Connection[Any], experiment_id: int, why: str) -> Approval:
    """Approve an experiment that somebody else submitted.

    Raises:
        NotPermitted, NotInOrder: as their names say.
    """
    return approve_subject(connection, "experiment", experiment_id, why)


def start(connection: psycopg.Connection[Any], experiment_id: int, why: str) -> Approval:
    """Let an approved experiment run from now on. A split takes the place of the one that runs;
    its challenger has to be an approved policy.

    Raises:
        NotPermitted, NotInOrder: as their names say.
    """
    require(connection, "approve")
    return Approvals(connection, "experiment").record(experiment_id, "activate", why)


def stop(connection: psycopg.Connection[Any], experiment_id: int, why: str) -> Approval:
    """Let an experiment run no more.

    Raises:
        NotPermitted, NotInOrder: as their names say.
    """
    require(connection, "approve")
    return Approvals(connection, "experiment").record(experiment_id, "retire", why)
