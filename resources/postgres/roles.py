"""What the roles of infra/postgres/roles.sql may do with the tables: what their code does, and no
more. The dashboard's role is `resources.postgres.readers`'.

Given by `migrate`, so that a table which nobody named here is nobody's but its owner's.
"""

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql

APP, API = "credit_risk_app", "credit_risk_api"

_STATE: LiteralString = "SELECT, INSERT, UPDATE"  # what is now
_RECORD: LiteralString = "SELECT, INSERT"  # what was: never changed
_READ: LiteralString = "SELECT"

RIGHTS: dict[str, dict[str, LiteralString]] = {
    APP: {
        "abandoned_offsets": _RECORD,
        "activations": _READ,
        "alembic_version": _READ,
        "application_reviews": _READ,
        "application_segments": _READ,
        # Who it was, and when, is not the writer's to say.
        "approvals": "SELECT, INSERT (kind, subject_id, action, effective_from, why, evidence)",
        # A mirror; UPDATE, and the plans, are of the version before, as archive_folder below.
        "archive_objects": "SELECT, INSERT, UPDATE (verified_at), DELETE",
        "archive_plans": "SELECT, INSERT, UPDATE (rows, bytes, sha256), DELETE",
        "batches": _RECORD,
        "case_events": _READ,
        "case_totals": _READ,
        # Opened and joined by the drain; everything else is act_on_case's.
        "cases": "SELECT, INSERT,"
        " UPDATE (decided_at, decisions, loan_amnt, pd, priority, policy_id, reasons)",
        "closed_by_day": _READ,
        "dropped_rows": _READ,
        "drift_baseline_features": _RECORD,
        "drift_baselines": "SELECT, INSERT, UPDATE (stream_columns)",
        "drift_features": "SELECT, INSERT, DELETE",  # of a report that is made again
        "drift_reports": _STATE,
        "experiments": _RECORD,
        "exports": _READ,
        "forgettings": "SELECT, UPDATE (lake_rows, lake_at)",
        "forgotten_offsets": _READ,
        "idempotency_keys": "SELECT, DELETE",
        "known_outcomes": _READ,
        "lake_progress": _STATE,  # a mirror
        "lake_verifications": "SELECT, INSERT, UPDATE, DELETE",
        "ledger_totals": _READ,
        "loan_outcomes": _RECORD,
        "lost_acknowledgements": _RECORD,
        "lost_events": _READ,
        "model_benchmarks": _RECORD,
        "model_curves": _RECORD,
        "models": _RECORD,
        "offset_gaps": _RECORD,
        "policies": _RECORD,
        "reconciled_offsets": _STATE,
        "reconciliation_findings": "SELECT, INSERT,"
        " UPDATE (cleared_at, cleared_by, cleared_why, still_wrong)",
        "reconciliations": _STATE,  # of the version before
        "redriven_events": _RECORD,
        "reject_totals": _READ,
        "rejected_events": "SELECT, INSERT, DELETE",  # what is scored after all
        "risk_reports": _RECORD,
        "risk_by_hour": _READ,
        "risk_by_minute": _STATE,
        "scored_applications": _RECORD,
        "seen_events": "SELECT, INSERT, DELETE",
        "segments": _RECORD,
        "segments_by_hour": "SELECT, INSERT, UPDATE, DELETE",
        "segments_progress": "SELECT, UPDATE",
        "segments_total": _READ,
        "shadow_by_minute": "SELECT, INSERT, UPDATE, DELETE",
        "shadow_differences": "SELECT, INSERT, DELETE",
        "sources": "SELECT, INSERT, UPDATE (archive_folder, epoch)",
        "stream_offsets": _STATE,
        "time_partitions": _READ,
    },
    API: {
        "activations": _READ,
        "alembic_version": _READ,
        "approvals": _READ,
        "archive_objects": _READ,
        "batches": _READ,
        "case_events": _READ,
        "case_totals": _READ,
        "cases": _READ,
        "closed_by_day": _READ,
        "drift_features": _READ,
        "drift_reports": _READ,
        "experiments": _READ,
        "forgettings": _READ,
        "idempotency_keys": _STATE,
        "lake_progress": _READ,
        "ledger_totals": _READ,
        "loan_outcomes": "INSERT",
        "lost_events": _READ,
        "model_benchmarks": _READ,
        "models": _READ,
        "policies": _READ,
        "reconciled_offsets": _READ,
        "reconciliation_findings": _READ,
        "redriven_events": _READ,
        "reject_totals": _READ,
        "rejected_events": _READ,
        "risk_reports": _READ,
        "scored_applications": _READ,
        "sources": _READ,
        "stream_offsets": _READ,
    },
}

WITHHELD = {API: {"models": ["artifact"], "rejected_events": ["value"]}}
"""Columns that a role may not read, of tables that it may: bytes of events, files of models."""

ROUTINES: dict[str, tuple[LiteralString, ...]] = {
    APP: (
        *("ensure_partitions", "make_partitions", "drop_period", "drop_month"),
        *("forget_loan", "delete_old_reviews", "delete_old_cases", "delete_old_outcomes"),
        *("roll_up_segments", "roll_up_segments_until", "first_writer", "close_segments"),
        "open_earlier_cases",
    ),
    API: ("submit_policy", "decide_policy", "act_on_case"),
}
_SEQUENCES: dict[str, tuple[LiteralString, ...]] = {
    APP: ("batches_batch_id_seq", "model_benchmark_ids"),
    API: (),
}


def grant_roles(connection: psycopg.Connection[Any], schema: str) -> None:
    """Give each of the two roles, where it exists, its rights in the schema, and take all others,
    in one transaction. Nothing is done to the role that the tables belong to.
    """
    with connection.transaction():
        connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '.migrations', 0))"
        )
        found = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY (%(roles)s) AND rolname <>"
            " (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'batches'::regclass)",
            {"roles": list(RIGHTS)},
        )
        for (role,) in found.fetchall():
            _grant(connection, sql.Identifier(schema), role)


def _grant(connection: psycopg.Connection[Any], schema: sql.Identifier, role: str) -> None:
    name = sql.Identifier(role)
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        connection.execute(
            sql.SQL("REVOKE ALL ON ALL {} IN SCHEMA {} FROM {}").format(sql.SQL(kind), schema, name)
        )
    given = [sql.SQL("USAGE ON SCHEMA {}").format(schema)]
    for table, rights in RIGHTS[role].items():
        right: sql.Composable = sql.SQL(rights)
        if withheld := WITHHELD.get(role, {}).get(table):
            right = sql.SQL("{} ({})").format(right, _columns(connection, table, withheld))
        given.append(sql.SQL("{} ON {}").format(right, sql.Identifier(table)))
    for routine in ROUTINES[role]:
        given.append(sql.SQL("EXECUTE ON FUNCTION {}").format(sql.Identifier(routine)))
    for sequence in _SEQUENCES[role]:
        given.append(sql.SQL("USAGE ON SEQUENCE {}").format(sql.Identifier(sequence)))
    for what in given:
        connection.execute(sql.SQL("GRANT {} TO {}").format(what, name))


def _columns(
    connection: psycopg.Connection[Any], table: str, withheld: Sequence[str]
) -> sql.Composed:
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attnum > 0"
        " AND NOT attisdropped AND attname <> ALL (%(withheld)s) ORDER BY attnum",
        {"table": table, "withheld": list(withheld)},
    )
    return sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows)
