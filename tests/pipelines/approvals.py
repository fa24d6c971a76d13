"""Policies for the tests of their life, and approvals by somebody else than the tests' role."""

from typing import Any

import psycopg

from credit_risk_dagster.domain.policy import Policy, load_policy
from credit_risk_dagster.pipelines import experiments
from credit_risk_dagster.settings import DEFAULT_POLICY
from resources.postgres.policies import register_policy

DEFAULT = load_policy(DEFAULT_POLICY)


def named(name: str) -> Policy:
    """The default policy under another name, which decides the same."""
    return DEFAULT.model_copy(update={"name": name})


def stored_policy(connection: psycopg.Connection[Any], name: str) -> int:
    """The id of that policy, stored and nothing else."""
    return register_policy(connection, named(name))


def approved(connection: psycopg.Connection[Any], kind: str, subject_id: int) -> int:
    """Let Ada submit it, if nobody did, and Bo approve it; its id."""
    parameters = {"kind": kind, "id": subject_id}
    connection.execute(
        "INSERT INTO approvals (kind, subject_id, action, who, why)"
        " SELECT %(kind)s, %(id)s, 'submit', 'Ada', 'a test' WHERE NOT EXISTS (SELECT FROM"
        " approvals WHERE kind = %(kind)s AND subject_id = %(id)s AND action = 'submit')",
        parameters,
    )
    connection.execute(
        "INSERT INTO approvals (kind, subject_id, action, who, why)"
        " VALUES (%(kind)s, %(id)s, 'approve', 'Bo', 'a test')",
        parameters,
    )
    return subject_id


def started(connection: psycopg.Connection[Any], **given: Any) -> int:
    """An experiment that the tests' role submitted and Bo approved, and that runs; its id."""
    found = experiments.submit(connection, "a test", **given).subject_id
    experiments.start(connection, approved(connection, "experiment", found), "a test")
    return found
