"""What was decided of each event, out of Postgres, as columns: no Python object for each value."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg import IsolationLevel, sql

from credit_risk_dagster.domain.lake_rows import DECISIONS, decision_rows, written_type
from resources.kafka.reader import OffsetRange
from resources.postgres.archive import moment_of

_REDRIVEN_AT_ONCE = 10_000


class Decisions:
    """The decisions of a source, over a connection of their own.

    An event has its first decision for good, whatever became of it later; one that was re-driven
    has a second one. So both can be read at any time, in any order, and none is read twice.
    """

    def __init__(self, connection: psycopg.Connection[Any], source_id: int) -> None:
        self._connection = connection
        self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
        self._source_id = source_id

    def first(self, wanted: OffsetRange) -> pa.RecordBatch:
        """The first decision of each event of a range, as `DECISIONS`, as far as Postgres has the
        row: it may be dropped or forgotten. In memory at once, so the range is a short one."""
        which = {"source_id": self._source_id, **vars(wanted)}
        with self._connection.transaction():  # a re-drive between the two would lose an event
            return _rows(self._read(_SCORED + _FIRST, which), self._read(_REJECTED, which))

    def holes(self, wanted: OffsetRange) -> int:
        """Offsets of a range that are no event, or one that was lost before it was decided."""
        row = self._connection.execute(
            _HOLES, {"source_id": self._source_id, **vars(wanted)}
        ).fetchone()
        return int(row[0]) if row else 0

    def redriven(self, after: int | None) -> tuple[pa.RecordBatch, int] | None:
        """The decisions of some events that were re-driven, the oldest first, as `DECISIONS`.

        Args:
            after: microseconds since the epoch; only what was re-driven later.

        Returns:
            Rows, and when the last of their events was re-driven; None when there is nothing more.
            Re-drives come one after the other, so none can appear that is older.
        """
        which: dict[str, Any] = {
            "source_id": self._source_id,
            "after": moment_of(after or 0),
            "limit": _REDRIVEN_AT_ONCE,
        }
        row = self._connection.execute(_REDRIVEN_UNTIL, which).fetchone()
        if row is None or row[0] is None:
            return None
        rows = _rows(self._read(_SCORED + _REDRIVEN, which | {"until": row[0]}))
        return rows, (row[0] - moment_of(0)) // timedelta(microseconds=1)

    def _read(self, query: LiteralString, parameters: Mapping[str, Any]) -> pa.Table:
        from pyarrow import csv

        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(sql.SQL(query))
        with self._connection.cursor() as cursor, cursor.copy(statement, parameters) as copy:
            content = pa.py_buffer(b"".join(copy))
        return csv.read_csv(
            pa.BufferReader(content),
            read_options=csv.ReadOptions(use_threads=False, block_size=max(content.size, 1)),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types={column.name: written_type(column) for column in DECISIONS},
                include_columns=DECISIONS.names,
                include_missing_columns=True,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )


def _rows(*written: pa.Table) -> pa.RecordBatch:
    """Of what a statement wrote, rows of `DECISIONS` in order."""
    tables = pa.concat_tables(written).combine_chunks()
    batches = tables.to_batches() or [pa.RecordBatch.from_pylist([], tables.schema)]
    return decision_rows(batches[0])


# Lists are one text, with \x1f between. A record without a time has the epoch in Postgres.
_SCORED: LiteralString = r"""
SELECT s.partition, s."offset", coalesce(e.redriven_at, s.scored_at) AS decided_at,
    nullif(s.recorded_at, 'epoch') AS recorded_at, 'scored' AS outcome, s.loan_id,
    p.name AS policy, p.content_hash AS policy_hash, m.version AS model, s.arm,
    s.risk_tier, s.recommendation, s.early_warning,
    array_to_string(s.reasons, E'\x1f') AS reasons, s.dti_band,
    s.util_band, s.rate_band, s.pd, array_to_string(s.pd_reasons, E'\x1f') AS pd_reasons,
    s.event_time, s.issue_d, s.loan_amnt, s.annual_inc, s.dti, s.int_rate, s.revol_util,
    s.delinq_2yrs, s.inq_last_6mths, s.credit_history_years, s.emp_length_yrs, s.term_months,
    s.annual_inc_primary, s.dti_primary, s.annual_inc_joint, s.dti_joint, s.purpose, s.grade,
    s.addr_state, s.home_ownership, s.loan_status, s.application_type, s.figures
FROM scored_applications s
    LEFT JOIN policies p USING (policy_id)
    LEFT JOIN models m USING (model_id)
    LEFT JOIN redriven_events e USING (source_id, partition, "offset")
WHERE s.source_id = %(source_id)s
"""
_FIRST: LiteralString = """
AND s.partition = %(partition)s AND s."offset" >= %(first)s AND s."offset" < %(next)s
    AND e.redriven_at IS NULL
"""
_REDRIVEN: LiteralString = "AND e.redriven_at > %(after)s AND e.redriven_at <= %(until)s"

_REJECTED: LiteralString = """
SELECT r.partition, r."offset", decided_at, nullif(recorded_at, 'epoch') AS recorded_at,
    'rejected' AS outcome, r.reason AS reject_reason, p.name AS policy,
    p.content_hash AS policy_hash
FROM (
    SELECT source_id, partition, "offset", rejected_at AS decided_at, recorded_at, reason, batch_id
    FROM rejected_events
    UNION ALL
    SELECT s.source_id, s.partition, s."offset", e.rejected_at, s.recorded_at, e.reason, s.batch_id
    FROM redriven_events e JOIN scored_applications s USING (source_id, partition, "offset")
) AS r
    -- Of one time partition, where it can be: the ledger's row is of the same transaction.
    LEFT JOIN policies p ON p.policy_id = (
        SELECT b.policy_id FROM batches b WHERE b.batch_id = r.batch_id
            AND b.committed_at BETWEEN r.decided_at AND r.decided_at + interval '1 day' LIMIT 1)
WHERE r.source_id = %(source_id)s AND r.partition = %(partition)s
    AND r."offset" >= %(first)s AND r."offset" < %(next)s
"""

_HOLES: LiteralString = """
SELECT coalesce(sum(least(next_offset, %(next)s) - greatest(first_offset, %(first)s)), 0)
FROM offset_gaps WHERE source_id = %(source_id)s AND partition = %(partition)s
    AND first_offset < %(next)s AND next_offset > %(first)s
"""

_REDRIVEN_UNTIL: LiteralString = """
SELECT max(redriven_at) FROM (
    SELECT redriven_at FROM redriven_events
    WHERE source_id = %(source_id)s AND redriven_at > %(after)s ORDER BY redriven_at LIMIT %(limit)s
) AS next
"""
