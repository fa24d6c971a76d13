"""The re-drive: rejected events, scored again after the code, the policy or the data was mended."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby

from credit_risk_dagster.domain.arms import assess_by_arm
from credit_risk_dagster.domain.decoding import DUPLICATE, REASONS, decode
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import Batch
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.experiments import split_beside
from credit_risk_dagster.settings import DrainSettings
from resources.postgres.connection import Warehouse
from resources.postgres.models import ModelStore
from resources.postgres.policies import register_policy
from resources.postgres.rejected import RejectedEvents


class UnknownReason(PlatformError):
    """No event can be rejected for that reason."""


@dataclass
class RedriveReport:
    """How many rejected events were looked at, and of those by reason, how many are now scored."""

    policy: str
    examined: int = 0
    moved: Counter[str] = field(default_factory=Counter)


def redrive(
    warehouse: Warehouse,
    policy: Policy,
    *,
    run_id: str,
    reason: str | None = None,
    partition: int | None = None,
    offset: int | None = None,
) -> RedriveReport:
    """Score rejected events again; those that can be scored now move to the scored ones, but for
    repeated submissions, of which the first counts.

    Each transaction moves some events of one partition, so that a re-drive which is interrupted
    has moved some of them, wholly.

    Args:
        warehouse, policy: where, and by which rules; the PD is by the active model, and by the
            active policy a split that runs has its arms.
        run_id: recorded in the audit rows.
        reason, partition, offset: only the events with these.

    Raises:
        UnknownReason: there is no such reason code, or it is that of repeated submissions.
        RedriveRaced: another re-drive is at work.
        WarehouseUnavailable, NotMigrated: as their names say.
    """
    if reason is not None and reason not in REASONS:
        raise UnknownReason(f"no event is rejected as {reason}; there are: {', '.join(REASONS)}")
    if reason == DUPLICATE:
        raise UnknownReason(f"{reason} is no mistake: another event decides the application")
    report = RedriveReport(policy.version)
    within = DrainSettings().case_within
    with warehouse.session(f"redrive {run_id}") as connection:
        rejected = RejectedEvents(connection)
        rejected.lock_redrive()
        warehouse.prepare_storage(connection)
        policy_id = register_policy(connection, policy)
        model, _ = ModelStore(connection).active_scorer()
        split = split_beside(connection, policy)
        after = (-1, -1, -1)
        while chunk := rejected.page(
            reason=reason, partition=partition, offset=offset, repeats=False, after=after
        ):
            after = chunk[-1].coordinates
            for _, group in groupby(chunk, key=lambda event: (event.source_id, event.partition)):
                events = list(group)
                values, keys = [e.value for e in events], [e.key for e in events]
                batch = Batch(decode(values, keys), model)
                assessment = assess_by_arm(batch, policy, policy_id, split)
                moved = rejected.redrive(events, assessment, policy_id, run_id, within)
                report.examined += len(events)
                report.moved.update(event.reason for event in moved)
    return report
