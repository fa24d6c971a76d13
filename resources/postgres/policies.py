"""The policies by which applications were decided, each with its whole document."""

from typing import Any

import psycopg

from credit_risk_dagster.domain.policy import Policy


def register_policy(connection: psycopg.Connection[Any], policy: Policy) -> int:
    """The id under which the policy is stored, with its whole document."""
    connection.execute(
        "INSERT INTO policies (name, content_hash, document) VALUES (%s, %s, %s)"
        " ON CONFLICT (name, content_hash) DO NOTHING",
        (policy.name, policy.content_hash, policy.document),
    )
    row = connection.execute(
        "SELECT policy_id FROM policies WHERE name = %s AND content_hash = %s",
        (policy.name, policy.content_hash),
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])
