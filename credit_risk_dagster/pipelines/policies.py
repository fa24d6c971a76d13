"""The life cycle of policies, and which of them decides.

Submitted, approved by somebody else, activated from a moment on: each a row that stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import psycopg

from credit_risk_dagster.domain.policy import Policy, PolicyError, load_policy, parse_policy
from credit_risk_dagster.domain.rights import Right
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DEFAULT_POLICY, AccessSettings, Settings
from resources.postgres.approvals import Activation, Approval, Approvals, Kind, NotInOrder
from resources.postgres.connection import Warehouse
from resources.postgres.policies import Policies, StoredPolicy, register_policy


class NoSuchChoice(PlatformError):
    """No policy, or several, are called so."""


class NotPermitted(PlatformError):
    """Who asks has not the right to it."""


# --- which policy decides -------------------------------------------------------------------------


@dataclass(frozen=True)
class Deciding:
    """The policy that decides.

    Attributes:
        policy_id: None where it was never stored.
        note: what is to be said of it; empty of an active policy that was loaded.
    """

    policy: Policy
    policy_id: int | None
    note: str = ""


def deciding(connection: psycopg.Connection[Any], configured: Policy) -> Deciding:
    """The active policy. The one of CREDIT_RISK_POLICY_FILE decides before any was activated, and
    where it is one that never was, for development; the built-in one never goes before others.

    One that cannot be loaded activates nothing: the one before it goes on.

    Raises:
        PolicyError: none of those that ever were active can be loaded.
    """
    begun = _begun(connection)
    policies = Policies(connection)
    own = policies.find(configured)
    if not begun:
        return Deciding(configured, own, "no policy is active yet: this is the first one")
    stored = policies.get(begun[-1].subject_id)
    if own not in {activation.subject_id for activation in begun} and not _is_built_in(configured):
        note = f"CREDIT_RISK_POLICY_FILE ({configured.version}) decides, and was never activated: "
        return Deciding(configured, own, f"{note}the active policy is {stored.origin}")
    problems: list[str] = []
    for activation in reversed(begun):
        stored = policies.get(activation.subject_id)
        try:
            return Deciding(loaded(stored), stored.policy_id, "; ".join(dict.fromkeys(problems)))
        except PolicyError as error:
            problems.append(f"the active policy cannot be loaded, the one before goes on: {error}")
    raise PolicyError(problems[0])


def current_policy(warehouse: Warehouse, configured: Policy) -> Policy:
    """The policy that decides; see `deciding`.

    Raises:
        PolicyError, WarehouseUnavailable, NotMigrated: as their names say.
    """
    with warehouse.session("policy") as connection:
        return deciding(connection, configured).policy


def policy_status(connection: psycopg.Connection[Any], settings: Settings) -> dict[str, Any]:
    """Which policy decides (`deciding`), which is `active`, and a `note` where they differ, or
    where there is none; a version each, None without one."""
    active = [a for a in _begun(connection) if a.active]
    told: dict[str, Any] = {
        "deciding": None,
        "active": Policies(connection).get(active[0].subject_id).version if active else None,
    }
    try:
        found = deciding(connection, settings.policy)
    except PolicyError as error:
        return told | {"note": str(error)}
    return told | {"deciding": found.policy.version, "note": found.note}


def _begun(connection: psycopg.Connection[Any]) -> list[Activation]:
    activations = Approvals(connection, "policy").activations()
    return [activation for activation in activations if activation.begun]


def _is_built_in(policy: Policy) -> bool:
    return policy.content_hash == load_policy(DEFAULT_POLICY).content_hash


@lru_cache(maxsize=16)
def loaded(stored: StoredPolicy) -> Policy:
    """A stored policy, ready to decide.

    Raises:
        PolicyError: it cannot be loaded.
    """
    return parse_policy(stored.document, stored.origin)


# --- its life -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyLife:
    """A stored policy, and all that was decided about it, the oldest first.

    Attributes:
        state: active, scheduled, approved, submitted, retired (was active once), or used (decided
            without ever being activated: an override).
    """

    stored: StoredPolicy
    state: str
    approvals: list[Approval]
    activations: list[Activation]

    def told(self) -> dict[str, Any]:
        """All of it by name, for a program."""
        return {
            "policy_id": self.stored.policy_id,
            "version": self.stored.version,
            "state": self.state,
            "document": self.stored.document,
            "approvals": [vars(approval) for approval in self.approvals],
            "activations": [vars(activation) for activation in self.activations],
        }


def lives(connection: psycopg.Connection[Any]) -> list[PolicyLife]:
    """Every policy, the newest first."""
    approvals = Approvals(connection, "policy")
    decided, activations = approvals.all(), approvals.activations()
    found = []
    for stored in reversed(Policies(connection).all()):
        own = [approval for approval in decided if approval.subject_id == stored.policy_id]
        active = [each for each in activations if each.subject_id == stored.policy_id]
        found.append(PolicyLife(stored, _state(own, active), own, active))
    return found


def _state(approvals: Sequence[Approval], activations: Sequence[Activation]) -> str:
    if any(activation.active for activation in activations):
        return "active"
    if any(not activation.begun for activation in activations):
        return "scheduled"
    if activations:
        return "retired"
    actions = {approval.action for approval in approvals}
    if "approve" in actions:
        return "approved"
    return "submitted" if "submit" in actions else "used"


def chosen(connection: psycopg.Connection[Any], choice: str) -> PolicyLife:
    """A policy by its id, its version (name and short hash), or its name where that is one alone.

    Raises:
        NoSuchChoice: there is none, or there are several.
    """
    every = lives(connection)
    found = [life for life in every if choice == str(life.stored.policy_id)]
    found = found or [life for life in every if choice == life.stored.version]
    found = found or [life for life in every if choice == life.stored.name]
    if len(found) != 1:
        several = ", ".join(life.stored.origin for life in found)
        raise NoSuchChoice(
            f"policy {choice!r} may be {several}: give the id"
            if found
            else f"there is no policy {choice!r}: see `credit-risk policy ls`"
        )
    return found[0]


def submit(
    connection: psycopg.Connection[Any],
    policy: Policy,
    why: str,
    evidence: Mapping[str, Any] | None = None,
) -> Approval:
    """Store a policy and ask for its approval.

    Args:
        evidence: figures that speak for it.

    Raises:
        NotPermitted, NotInOrder: as their names say.
    """
    require(connection, "submit")
    with connection.transaction():
        policy_id = register_policy(connection, policy)
        return Approvals(connection, "policy").record(policy_id, "submit", why, evidence=evidence)


def approve(connection: psycopg.Connection[Any], kind: Kind, subject_id: int, why: str) -> Approval:
    """Approve what somebody else submitted.

    Raises:
        NotPermitted, NotInOrder: as their names say.
    """
    require(connection, "approve")
    return Approvals(connection, kind).record(subject_id, "approve", why)


def activate(
    connection: psycopg.Connection[Any], policy_id: int, why: str, at: datetime | None = None
) -> Approval:
    """Let a policy decide from now on, or from a later moment.

    Raises:
        NotPermitted, NotInOrder: as their names say; a moment that is over is not in order.
        PolicyError: its document cannot be loaded.
    """
    require(connection, "approve")
    if at is not None and at < datetime.now(UTC):
        raise NotInOrder(f"{at:%Y-%m-%d %H:%M:%S %Z} is over: a policy decides from a later moment")
    loaded(Policies(connection).get(policy_id))
    return Approvals(connection, "policy").record(policy_id, "activate", why, effective_from=at)


def roll_back(connection: psycopg.Connection[Any], why: str) -> Approval:
    """Let the policy decide again that did before the active one.

    Raises:
        NotInOrder: there was none before.
        NotPermitted, PolicyError: as of `activate`.
    """
    begun = _begun(connection)
    before = [a.subject_id for a in begun if a.subject_id != begun[-1].subject_id]
    if not before:
        raise NotInOrder("no other policy was active before: there is nothing to go back to")
    return activate(connection, before[-1], why)


def retire(connection: psycopg.Connection[Any], policy_id: int, why: str) -> Approval:
    """Call off what is still to come of a policy's activations.

    Raises:
        NotPermitted, NotInOrder: as their names say.
    """
    require(connection, "approve")
    return Approvals(connection, "policy").record(policy_id, "retire", why)


def require(connection: psycopg.Connection[Any], right: Right) -> None:
    """See that the database's role, or one that it belongs to, has a right of CREDIT_RISK_ROLES.

    Raises:
        NotPermitted: it has not.
    """
    rows = connection.execute(
        "SELECT rolname FROM pg_roles WHERE pg_has_role(session_user, oid, 'member')"
        " ORDER BY rolname <> session_user"
    ).fetchall()
    names = [str(name) for (name,) in rows]
    if not AccessSettings().may(right, names):
        raise NotPermitted(f"role {names[0]} may not {right}: CREDIT_RISK_ROLES does not name it")
