"""Everything that decides or is decided by: policies, models and baselines, with their lives."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row

from credit_risk_dagster.domain.policy import built_in_hashes


@dataclass(frozen=True)
class Item:
    """A policy, a model or a baseline.

    Attributes:
        owner: who submitted it; of a policy that nobody did, "built in", "file: " and the role that
            first let it decide, or "not recorded": it is older than the approvals.
        state: active, retired, approved, submitted, or recorded (it was never submitted).
        since: when it got there.
        approved_by: empty when nobody has.
    """

    kind: str
    subject_id: int
    name: str
    owner: str
    state: str
    since: datetime
    approved_by: str
    created_at: datetime


def inventory(connection: psycopg.Connection[Any]) -> list[Item]:
    """Every item, what is active first, then the newest."""
    with connection.cursor(row_factory=class_row(Item)) as cursor:
        return cursor.execute(INVENTORY, {"built_in": built_in_hashes()}).fetchall()


INVENTORY: LiteralString = """
WITH items AS (
    SELECT 'policy' AS kind, policy_id AS subject_id, name || '@' || left(content_hash, 12) AS name,
        first_used_at AS created_at, content_hash
    FROM policies
    UNION ALL SELECT 'model', model_id, version || ', ' || purpose || ', ' || outcome, created_at,
        NULL
    FROM models
    UNION ALL SELECT 'baseline', baseline_id, name, created_at, NULL FROM drift_baselines
)
SELECT i.kind, i.subject_id, i.name, CASE
        WHEN nullif(submitted.who, 'unknown') IS NOT NULL THEN submitted.who
        WHEN i.content_hash = ANY (%(built_in)s) THEN 'built in'
        WHEN first.who <> 'unknown' THEN 'file: ' || first.who
        ELSE 'not recorded' END AS owner,
    CASE WHEN active.subject_id IS NOT NULL THEN 'active'
        WHEN last.action = 'activate' THEN 'retired'
        WHEN last.action = 'retire' THEN 'retired'
        WHEN last.action = 'approve' THEN 'approved'
        WHEN last.action = 'submit' THEN 'submitted'
        ELSE 'recorded' END AS state,
    coalesce(active.effective_from, last.decided_at, i.created_at) AS since,
    coalesce(approved.who, '') AS approved_by, i.created_at
FROM items i
LEFT JOIN LATERAL (SELECT who FROM approvals a WHERE a.kind = i.kind
    AND a.subject_id = i.subject_id AND action = 'submit'
    ORDER BY decided_at, approval_id LIMIT 1) AS submitted ON true
LEFT JOIN LATERAL (SELECT who FROM approvals a WHERE a.kind = i.kind
    AND a.subject_id = i.subject_id ORDER BY decided_at, approval_id LIMIT 1) AS first ON true
LEFT JOIN LATERAL (SELECT who FROM approvals a WHERE a.kind = i.kind
    AND a.subject_id = i.subject_id AND action = 'approve'
    ORDER BY decided_at DESC, approval_id DESC LIMIT 1) AS approved ON true
LEFT JOIN LATERAL (SELECT action, decided_at FROM approvals a WHERE a.kind = i.kind
    AND a.subject_id = i.subject_id ORDER BY decided_at DESC, approval_id DESC LIMIT 1)
    AS last ON true
LEFT JOIN activations active ON active.kind = i.kind AND active.subject_id = i.subject_id
    AND active.effective_from <= clock_timestamp()
    AND (active.effective_to IS NULL OR active.effective_to > clock_timestamp())
ORDER BY active.subject_id IS NULL, i.created_at DESC, i.kind
"""
