"""The policies by which applications were decided, each with its whole document."""

from typing import Any

import psycopg

from credit_risk_dagster.domain.policy import Policy


def register_policy(connection: psycopg.Connection[Any], policy: Policy) -> int:
    """The id under which the policy is stored, with its whole document."""
    connection.execute(
        "INSERT INTO policies (name, content_hash, document) VALUES (%(name)s, %(content_hash)s,"
        " %(document)s)"
        " ON CONFLICT (name, content_hash) DO NOTHING",
        {"name": policy.name, "content_hash": policy.content_hash, "document": policy.document},
    )
    row = connection.execute(
        "SELECT policy_id FROM policies WHERE name = %(name)s AND content_hash = %(content_hash)s",
        {"name": policy.name, "content_hash": policy.content_hash},
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])
