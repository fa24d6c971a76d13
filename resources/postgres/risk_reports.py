"""What runs computed of outcomes and models, each as a document, in Postgres."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True)
class Reported:
    """Which reports there are, and of how much another one would be.

    Attributes:
        scored, outcomes: applications and outcomes; of outcomes at most a million are counted.
        baseline, drift, benchmark, portfolio: whether there is one.
    """

    scored: int
    outcomes: int
    baseline: bool
    drift: bool
    benchmark: bool
    portfolio: bool


def reported(connection: psycopg.Connection[Any]) -> Reported:
    """Which reports there are."""
    with connection.cursor(row_factory=class_row(Reported)) as cursor:
        found = cursor.execute(_REPORTED).fetchone()
    assert found is not None  # noqa: S101 (a row of sums)
    return found


_REPORTED: LiteralString = """
SELECT (SELECT coalesce(sum(scored), 0)::bigint FROM stream_offsets) AS scored,
    (SELECT count(*) FROM (SELECT FROM loan_outcomes LIMIT 1000000) AS _) AS outcomes,
    EXISTS (SELECT FROM drift_baselines) AS baseline,
    EXISTS (SELECT FROM drift_reports) AS drift,
    EXISTS (SELECT FROM model_benchmarks) AS benchmark,
    EXISTS (SELECT FROM risk_reports WHERE kind = 'portfolio') AS portfolio
"""


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
