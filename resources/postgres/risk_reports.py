"""What runs computed of outcomes and models, each as a document, in Postgres."""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb


def add_report(
    connection: psycopg.Connection[Any],
    kind: str,
    about: str,
    document: Mapping[str, Any],
    run_id: str,
) -> int:
    """Store a report; returns its id. NaN becomes null."""
    row = connection.execute(
        "INSERT INTO risk_reports (kind, about, document, run_id)"
        " VALUES (%(kind)s, %(about)s, %(document)s, %(run_id)s) RETURNING report_id",
        {"kind": kind, "about": about, "document": Jsonb(_finite(document)), "run_id": run_id},
    ).fetchone()
    assert row is not None  # noqa: S101 (inserted)
    return int(row[0])


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, which are no JSON."""
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not -1e308 < value < 1e308:
        return None
    return value
