"""Who decides the batches of a session: the policy, the model, the arms of a split, and shadows
beside them, as they are activated. The drain looks once a second."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from credit_risk_dagster.domain.arms import assess_by_arm
from credit_risk_dagster.domain.decoding import DecodedEvents
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import Assessment, Batch
from credit_risk_dagster.domain.shadow import Opinion, opinion
from credit_risk_dagster.pipelines.experiments import Running, running
from credit_risk_dagster.pipelines.policies import deciding
from resources.postgres.approvals import Approvals, NotInOrder, active_subjects
from resources.postgres.models import ModelStore
from resources.postgres.policies import register_policy

LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Decided:
    """What is decided of a batch, the id of the policy (in a split, the champion's), what shadows
    say of it, and what was wrong."""

    policy_id: int
    assessment: Assessment
    opinions: tuple[Opinion, ...]
    problem: str | None


class Deciders:
    """What decides, over one connection.

    Args:
        configured: of CREDIT_RISK_POLICY_FILE; it becomes the first policy of an empty database.
    """

    policy: Policy
    policy_id: int
    model: PdModel | None
    experiments: Running
    note: str
    model_error: str | None

    def __init__(self, connection: psycopg.Connection[Any], configured: Policy) -> None:
        self._connection = connection
        self._configured = configured
        self._policies = Approvals(connection, "policy")
        if not self._policies.activations():
            first = register_policy(connection, configured)
            with suppress(NotInOrder):  # another run was first
                self._policies.record(first, "activate", "The first policy of an empty database")
        self._active = self._now_active()
        self._load()

    def look_again(self) -> bool:
        """Whether others were activated since, which decide from now on; asks once a second."""
        if time.monotonic() - self._looked < LOOK_AGAIN_SECONDS:
            return False
        before, self._active = self._active, self._now_active()
        if before == self._active:
            return False
        self._load()
        return True

    def decide(self, events: DecodedEvents) -> Decided:
        """Decide a batch. Nothing that is wrong with a challenger or a shadow costs the batch: the
        champion decides it alone then, and of no arm."""
        batch = Batch(events, self.model)
        split, problem = self.experiments.split, None
        try:
            assessment = assess_by_arm(batch, self.policy, self.policy_id, split)
        except Exception as error:
            if split is None:
                raise
            what = f"the split's challenger {split.policy.version}"
            problem = f"{what} cannot decide: {type(error).__name__}"
            assessment = batch.assess(self.policy)
        shadows = self.experiments.shadows
        said = tuple(opinion(shadow, batch, assessment) for shadow in shadows)
        return Decided(self.policy_id, assessment, said, problem)

    @property
    def words(self) -> str:
        """What decides, for the log of a run."""
        model = self.model.version if self.model else "none"
        return ", ".join(
            [f"policy {self.policy.version}", f"model {model}", *self.experiments.words]
        )

    def _now_active(self) -> set[tuple[str, int]]:
        self._looked = time.monotonic()
        return active_subjects(self._connection)

    def _load(self) -> None:
        found = deciding(self._connection, self._configured)
        self.policy = found.policy
        self.policy_id = found.policy_id or register_policy(self._connection, found.policy)
        self.model, self.model_error = ModelStore(self._connection).active_scorer()
        self.experiments = running(self._connection)
        self.note = "; ".join(filter(None, (found.note, *self.experiments.problems)))
