"""Experiments: candidates on live traffic, as they were submitted."""

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row

from credit_risk_dagster.errors import PlatformError
from resources.postgres.approvals import NotInOrder


class NoSuchExperiment(PlatformError):
    """There is no experiment of that id."""


@dataclass(frozen=True)
class Experiment:
    """A split, or a shadow, which has no share; see the table's comments. `candidate` is the
    challenger's version."""

    experiment_id: int
    policy_id: int | None
    model_id: int | None
    share: int | None
    salt: str | None
    candidate: str

    @property
    def words(self) -> str:
        """What it is, for a person."""
        kind = "model " if self.model_id else ""
        if self.share is None:
            return f"shadow of {kind}{self.candidate}"
        return f"split, {self.share} % to {self.candidate}, salt {self.salt}"


class Experiments:
    """The experiments, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def add(
        self,
        policy_id: int | None = None,
        model_id: int | None = None,
        share: int | None = None,
        salt: str | None = None,
    ) -> int:
        """Store an experiment; its id.

        Raises:
            NotInOrder: the share or the salt cannot be, or the salt is of another challenger.
        """
        given = {"policy_id": policy_id, "model_id": model_id, "share": share, "salt": salt}
        try:
            row = self._connection.execute(_ADD, given).fetchone()
        except psycopg.errors.CheckViolation as error:
            raise NotInOrder(str(error.diag.message_primary)) from error
        assert row is not None  # noqa: S101 (inserted)
        return int(row[0])

    def all(self) -> list[Experiment]:
        """Every experiment, the newest first."""
        with self._connection.cursor(row_factory=class_row(Experiment)) as cursor:
            return cursor.execute(f"{_EXPERIMENTS} ORDER BY experiment_id DESC").fetchall()

    def running(self) -> list[Experiment]:
        """Those that run now, the oldest first."""
        with self._connection.cursor(row_factory=class_row(Experiment)) as cursor:
            return cursor.execute(f"{_EXPERIMENTS} {_RUNNING}").fetchall()


_ADD: LiteralString = """
INSERT INTO experiments (policy_id, model_id, share, salt)
VALUES (%(policy_id)s, %(model_id)s, %(share)s, %(salt)s) RETURNING experiment_id
"""
_EXPERIMENTS: LiteralString = """
SELECT experiment_id, e.policy_id, e.model_id, share, salt,
    coalesce(p.name || '@' || left(p.content_hash, 12), m.version) AS candidate
FROM experiments e LEFT JOIN policies p USING (policy_id) LEFT JOIN models m USING (model_id)
"""
_RUNNING: LiteralString = """
WHERE experiment_id IN (
    SELECT subject_id FROM activations
    WHERE kind = 'experiment' AND effective_from <= clock_timestamp()
        AND (effective_to IS NULL OR effective_to > clock_timestamp()))
ORDER BY experiment_id
"""
