"""The policies that were submitted or decided, each with its whole document."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.errors import PlatformError
from resources.postgres.approvals import NotInOrder


class NoSuchPolicy(PlatformError):
    """No policy is stored under that id or name."""


@dataclass(frozen=True)
class StoredPolicy:
    """A stored policy; its document is not known to be one that can be loaded."""

    policy_id: int
    name: str
    content_hash: str
    document: str
    first_used_at: datetime

    @property
    def version(self) -> str:
        """Name and short hash, as everywhere."""
        return f"{self.name}@{self.content_hash[:12]}"

    @property
    def origin(self) -> str:
        """Where the document comes from, for messages."""
        return f"{self.policy_id} ({self.version})"


_STORED = "SELECT policy_id, name, content_hash, document, first_used_at FROM policies"


class Policies:
    """The stored policies, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def all(self) -> list[StoredPolicy]:
        """Every policy, the oldest first."""
        with self._connection.cursor(row_factory=class_row(StoredPolicy)) as cursor:
            return cursor.execute(f"{_STORED} ORDER BY policy_id").fetchall()

    def get(self, policy_id: int) -> StoredPolicy:
        """A policy. Raises NoSuchPolicy."""
        with self._connection.cursor(row_factory=class_row(StoredPolicy)) as cursor:
            found = cursor.execute(
                f"{_STORED} WHERE policy_id = %(policy_id)s", {"policy_id": policy_id}
            ).fetchone()
        if found is None:
            raise NoSuchPolicy(f"there is no policy {policy_id}: see `credit-risk policy ls`")
        return found

    def find(self, policy: Policy) -> int | None:
        """The id under which exactly this policy is stored."""
        row = self._connection.execute(
            "SELECT policy_id FROM policies"
            " WHERE name = %(name)s AND content_hash = %(content_hash)s",
            {"name": policy.name, "content_hash": policy.content_hash},
        ).fetchone()
        return int(row[0]) if row else None


def register_policy(connection: psycopg.Connection[Any], policy: Policy) -> int:
    """The id under which the policy is stored, with its whole document."""
    connection.execute(
        "INSERT INTO policies (name, content_hash, document) VALUES (%(name)s, %(content_hash)s,"
        " %(document)s)"
        " ON CONFLICT (name, content_hash) DO NOTHING",
        {"name": policy.name, "content_hash": policy.content_hash, "document": policy.document},
    )
    found = Policies(connection).find(policy)
    assert found is not None  # noqa: S101
    return found


def submit_policy(
    connection: psycopg.Connection[Any],
    policy: Policy,
    person: str | None,
    why: str,
    evidence: Mapping[str, Any],
) -> int:
    """Submit for somebody whom the dashboard signed in, or the API knows by a key; its id."""
    row = connection.execute(
        "SELECT submit_policy(%(name)s, %(hash)s, %(document)s, %(person)s, %(why)s, %(evidence)s)",
        {
            "name": policy.name,
            "hash": policy.content_hash,
            "document": policy.document,
            "person": person,
            "why": why,
            "evidence": Jsonb(evidence),
        },
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


def decide_policy(
    connection: psycopg.Connection[Any],
    policy_id: int,
    action: Literal["approve", "activate"],
    person: str,
    why: str,
    at: datetime | None = None,
) -> None:
    """Decide for somebody whom the API knows by a key, from now on or from a later moment.

    Raises:
        NotInOrder: the table refuses it.
    """
    try:
        connection.execute(
            "SELECT decide_policy(%(policy_id)s, %(action)s, %(person)s, %(why)s, %(at)s)",
            {"policy_id": policy_id, "action": action, "person": person, "why": why, "at": at},
        )
    except psycopg.errors.CheckViolation as error:
        raise NotInOrder(str(error.diag.message_primary)) from error
