"""Who decided what about policies, models, baselines and experiments, and which of them is active.

The table itself says what is in order: nobody approves what they submitted, and what was not
approved is not activated (migration 0022). Rows are only added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from credit_risk_dagster.errors import PlatformError

Kind = Literal["policy", "model", "baseline", "experiment"]
Action = Literal["submit", "approve", "activate", "retire"]


class NotInOrder(PlatformError):
    """The table of approvals refuses that; the message says why."""


@dataclass(frozen=True)
class Approval:
    """A row of `approvals`; see its comments."""

    approval_id: int
    kind: str
    subject_id: int
    action: str
    who: str
    decided_at: datetime
    effective_from: datetime
    why: str
    evidence: dict[str, Any] | None
    db_role: str


@dataclass(frozen=True)
class Activation:
    """When a subject was, is or will be active: until `effective_to`, None without an end. `begun`
    and `active` are by the server's clock."""

    subject_id: int
    who: str
    why: str
    effective_from: datetime
    effective_to: datetime | None
    begun: bool
    active: bool


class Approvals:
    """The decisions about one kind of subject, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any], kind: Kind) -> None:
        self._connection = connection
        self._kind = kind

    def record(
        self,
        subject_id: int,
        action: Action,
        why: str,
        *,
        effective_from: datetime | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Approval:
        """Add a decision, by the role that signed in; from now on, or from a later moment.

        Raises:
            NotInOrder: the table refuses it.
        """
        if not why.strip():
            raise NotInOrder(f"say why: {action} of {self._kind} {subject_id} needs a reason")
        with self._connection.cursor(row_factory=class_row(Approval)) as cursor:
            try:
                found = cursor.execute(
                    _RECORD,
                    {
                        "kind": self._kind,
                        "subject_id": subject_id,
                        "action": action,
                        "why": why.strip(),
                        "effective_from": effective_from,
                        "evidence": None if evidence is None else Jsonb(evidence),
                    },
                ).fetchone()
            except psycopg.errors.CheckViolation as error:
                raise NotInOrder(str(error.diag.message_primary)) from error
        assert found is not None  # noqa: S101 (inserted)
        return found

    def all(self) -> list[Approval]:
        """Every decision, the oldest first."""
        with self._connection.cursor(row_factory=class_row(Approval)) as cursor:
            return cursor.execute(_ALL, {"kind": self._kind}).fetchall()

    def activations(self) -> list[Activation]:
        """What was active when, the oldest first; the last ones may be still to come."""
        with self._connection.cursor(row_factory=class_row(Activation)) as cursor:
            return cursor.execute(_ACTIVATIONS, {"kind": self._kind}).fetchall()

    def active(self) -> int | None:
        """The active subject; None without one."""
        row = self._connection.execute(_ACTIVE, {"kind": self._kind}).fetchone()
        return int(row[0]) if row else None


def active_subjects(connection: psycopg.Connection[Any]) -> set[tuple[str, int]]:
    """Kind and id of everything that decides now, or beside: policy, model and experiments."""
    return set(connection.execute(_ALL_ACTIVE).fetchall())


_RECORD: LiteralString = """
INSERT INTO approvals (kind, subject_id, action, why, effective_from, evidence)
VALUES (%(kind)s, %(subject_id)s, %(action)s, %(why)s,
    coalesce(%(effective_from)s, clock_timestamp()), %(evidence)s)
RETURNING approval_id, kind, subject_id, action, who, decided_at, effective_from, why, evidence,
    db_role
"""
_ALL: LiteralString = """
SELECT approval_id, kind, subject_id, action, who, decided_at, effective_from, why, evidence,
    db_role
FROM approvals WHERE kind = %(kind)s ORDER BY decided_at, approval_id
"""
_ACTIVATIONS: LiteralString = """
SELECT subject_id, who, why, effective_from, effective_to,
    effective_from <= clock_timestamp() AS begun,
    effective_from <= clock_timestamp()
        AND (effective_to IS NULL OR effective_to > clock_timestamp()) AS active
FROM activations
WHERE kind = %(kind)s ORDER BY effective_from
"""
_ACTIVE: LiteralString = """
SELECT subject_id FROM activations WHERE kind = %(kind)s AND effective_from <= clock_timestamp()
    AND (effective_to IS NULL OR effective_to > clock_timestamp())
"""
_ALL_ACTIVE: LiteralString = """
SELECT kind, subject_id FROM activations
WHERE kind <> 'baseline' AND effective_from <= clock_timestamp()
    AND (effective_to IS NULL OR effective_to > clock_timestamp())
"""
