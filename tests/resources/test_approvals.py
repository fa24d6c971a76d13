"""The table of approvals says itself what is in order, whoever writes to it: real Postgres."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from credit_risk_dagster.settings import WarehouseSettings
from resources.postgres.connection import Warehouse, fetch_all
from tests.pipelines.approvals import approved, stored_policy

RECORD = "INSERT INTO approvals (kind, subject_id, action, why) VALUES (%s, %s, %s, 'because')"


@pytest.fixture
def owner(warehouse_settings: WarehouseSettings) -> Iterator[psycopg.Connection[Any]]:
    """A connection as whom the tables belong to, with an active policy 1 and another one, 2."""
    with Warehouse(warehouse_settings).session() as connection:
        first, second = stored_policy(connection, "first"), stored_policy(connection, "second")
        assert (first, second) == (1, 2)
        connection.execute(RECORD, ("policy", first, "activate"))
        yield connection


def decide(connection: psycopg.Connection[Any], action: str, who: str, subject: int = 2) -> None:
    connection.execute(
        "INSERT INTO approvals (kind, subject_id, action, who, why)"
        " VALUES ('policy', %s, %s, %s, 'because')",
        (subject, action, who),
    )


@contextmanager
def refused(words: str) -> Iterator[None]:
    with pytest.raises(psycopg.errors.CheckViolation, match=words):
        yield


@pytest.mark.parametrize("also", ["ada", " Ada ", "ADA@bank.example", "ada@other.example"])
def test_nobody_approves_what_they_submitted(owner: psycopg.Connection[Any], also: str) -> None:
    with refused("policy 2 was never submitted"):
        decide(owner, "approve", "bo")
    decide(owner, "submit", "ada")
    decide(owner, "submit", "cy")
    with refused("submitted policy 2 and cannot approve it: somebody else has to"):
        decide(owner, "approve", also)
    with refused("policy 2 is not approved"):
        decide(owner, "activate", "bo")
    decide(owner, "approve", "bo")
    decide(owner, "activate", "ada")


@pytest.mark.parametrize(
    ("table", "column"), [("approvals", "why"), ("policies", "document"), ("experiments", "salt")]
)
@pytest.mark.parametrize("change", ["UPDATE {0} SET {1} = ''", "DELETE FROM {0}", "TRUNCATE {0}"])
def test_what_is_recorded_stays(
    owner: psycopg.Connection[Any], table: str, column: str, change: str
) -> None:
    with refused(f"rows of {table} are never changed"):
        owner.execute(change.format(table, column).encode())


@pytest.mark.parametrize("kind", ["policy", "model", "baseline", "experiment"])
def test_a_subject_that_is_not_there(owner: psycopg.Connection[Any], kind: str) -> None:
    with refused(f"there is no {kind} 99"):
        owner.execute(RECORD, (kind, 99, "activate"))


def test_reactivating_an_old_one_keeps_both_intervals(owner: psycopg.Connection[Any]) -> None:
    approved(owner, "policy", 2)
    for subject in (2, 1, 1, 2):
        decide(owner, "activate", "bo", subject)
    rows = fetch_all(owner, "SELECT * FROM activations WHERE kind = 'policy' ORDER BY approval_id")
    assert [row["subject_id"] for row in rows] == [1, 2, 1, 1, 2]
    for before, after in pairwise(rows):
        assert before["effective_to"] == after["effective_from"]
    assert rows[-1]["effective_to"] is None


def test_who_and_when_are_not_the_writers_to_say(owner: psycopg.Connection[Any]) -> None:
    owner.execute(
        "INSERT INTO approvals (kind, subject_id, action, who, why, db_role, decided_at,"
        " effective_from) VALUES ('policy', 2, 'submit', ' ada ', 'x', 'else', '2000-01-01',"
        " '2000-01-01')"
    )
    (row,) = fetch_all(
        owner,
        "SELECT who, db_role, now() - decided_at < '1 minute' AS recent,"
        " effective_from >= decided_at AS later FROM approvals WHERE action = 'submit'",
    )
    assert row == {"who": "ada", "db_role": "postgres", "recent": True, "later": True}


def test_what_is_still_to_come_can_be_called_off(owner: psycopg.Connection[Any]) -> None:
    approved(owner, "policy", 2)
    later = (
        "INSERT INTO approvals (kind, subject_id, action, why, effective_from)"
        " VALUES ('policy', 2, 'activate', 'x', now() + interval '1 hour')"
    )
    owner.execute(later)
    with refused("policy 1 is active, and one always is: activate another"):
        decide(owner, "retire", "bo", 1)
    decide(owner, "retire", "bo", 2)
    rows = fetch_all(owner, "SELECT subject_id, effective_to FROM activations")
    assert rows == [{"subject_id": 1, "effective_to": None}]
    owner.execute(later)
    assert len(fetch_all(owner, "SELECT FROM activations")) == 2
