"""What shadows said, in tables of their own. Written in the transaction of the batch, and whatever
is wrong with one of them, the batch is committed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg.rows import class_row

from credit_risk_dagster.domain.scoring import Assessment
from credit_risk_dagster.domain.shadow import Beside, Opinion, beside
from resources.kafka.reader import Fetch
from resources.postgres.columns import constant, copy_batch


def record_opinions(
    connection: psycopg.Connection[Any],
    source_id: int,
    fetch: Fetch,
    assessment: Assessment,
    opinions: Sequence[Opinion],
) -> list[str]:
    """Write what shadows said of a batch, each within a savepoint; returns what went wrong."""
    wrong = [found.error for found in opinions if found.error]
    # By experiment, as the rows of a minute are: two lanes cannot deadlock on them.
    for found in sorted(opinions, key=lambda one: one.experiment_id):
        try:
            with connection.transaction():
                _write(connection, source_id, fetch, found.experiment_id, beside(found, assessment))
        except Exception as error:  # noqa: BLE001 (it costs its own results, and not the batch)
            # Not its text, which may have the row.
            said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            name = type(error).__name__
            wrong.append(
                f"experiment {found.experiment_id}: {name}" + (f": {said}" if said else "")
            )
    return wrong


def _write(
    connection: psycopg.Connection[Any],
    source_id: int,
    fetch: Fetch,
    experiment_id: int,
    found: Beside,
) -> None:
    nothing = [None] * len(found.applications)
    connection.execute(
        _BY_MINUTE,
        {
            "experiment_id": experiment_id,
            "source_id": source_id,
            "decided": found.decided,
            "candidate": found.candidate,
            "applications": found.applications,
            "loan_amnt": found.loan_amnt,
            "decided_pd": found.decided_pd or nothing,
            "candidate_pd": found.candidate_pd or nothing,
        },
    )
    at = found.differing
    if not len(at):
        return
    columns = {
        "experiment_id": constant(experiment_id, len(at), pa.int32()),
        "source_id": constant(source_id, len(at), pa.int32()),
        "partition": pa.array(fetch.partitions[at]),
        "offset": pa.array(fetch.offsets[at]),
    }
    columns |= {name: found.rows[name] for name in found.rows.schema.names}
    copy_batch(connection, "shadow_differences", pa.RecordBatch.from_pydict(columns))


def delete_old_opinions(connection: psycopg.Connection[Any], keep_days: int) -> int:
    """Delete what is older than so many days; returns how many rows."""
    days = {"days": keep_days}
    deleted = connection.execute(_DELETE_DIFFERENCES, days).rowcount
    return deleted + connection.execute(_DELETE_MINUTES, days).rowcount


@dataclass(frozen=True)
class Cell:
    """Applications by what was decided and by what a shadow says; the PDs are sums, None without
    any."""

    decided: str
    candidate: str
    applications: int
    loan_amnt: float
    decided_pd: float | None
    candidate_pd: float | None


def matrix(connection: psycopg.Connection[Any], experiment_id: int) -> list[Cell]:
    """What a shadow said, over all the minutes that are kept."""
    with connection.cursor(row_factory=class_row(Cell)) as cursor:
        return cursor.execute(_MATRIX, {"experiment_id": experiment_id}).fetchall()


# In the order of the key, as in the ledger.
_BY_MINUTE: LiteralString = """
INSERT INTO shadow_by_minute AS total (minute, experiment_id, source_id, decided, candidate,
    applications, loan_amnt, decided_pd, candidate_pd)
SELECT date_trunc('minute', now()), %(experiment_id)s, %(source_id)s, d, c, n, amount, dp, cp
FROM unnest(%(decided)s::text[], %(candidate)s::text[], %(applications)s::bigint[],
    %(loan_amnt)s::float8[], %(decided_pd)s::float8[], %(candidate_pd)s::float8[])
    AS b (d, c, n, amount, dp, cp)
ORDER BY d, c
ON CONFLICT (minute, experiment_id, source_id, decided, candidate) DO UPDATE
SET applications = total.applications + excluded.applications,
    loan_amnt = total.loan_amnt + excluded.loan_amnt,
    decided_pd = total.decided_pd + excluded.decided_pd,
    candidate_pd = total.candidate_pd + excluded.candidate_pd
"""
_DELETE_DIFFERENCES: LiteralString = """
DELETE FROM shadow_differences WHERE decided_at < now() - make_interval(days => %(days)s)
"""
_DELETE_MINUTES: LiteralString = """
DELETE FROM shadow_by_minute WHERE minute < now() - make_interval(days => %(days)s)
"""
_MATRIX: LiteralString = """
SELECT decided, candidate, sum(applications)::bigint AS applications, sum(loan_amnt) AS loan_amnt,
    sum(decided_pd) AS decided_pd, sum(candidate_pd) AS candidate_pd
FROM shadow_by_minute WHERE experiment_id = %(experiment_id)s GROUP BY 1, 2 ORDER BY 1, 2
"""
