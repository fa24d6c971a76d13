"""What became of loans: a table of its own, to which rows are only added."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg import sql

from credit_risk_dagster.domain.model.observed import OBSERVED
from credit_risk_dagster.domain.model.sample import COLUMNS, TEXTS, Loans, first_decisions
from credit_risk_dagster.domain.outcomes import Observation

_CHUNK = 10_000


@dataclass(frozen=True)
class Added:
    """What became of observations: added, or known before in every value."""

    added: int
    known: int


class Outcomes:
    """Outcomes, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def add(self, observations: Iterable[Observation]) -> Added:
        """Add observations, all or none; one that is known already in every value changes nothing.
        Another value for the same loan, time and source is a correction: it counts from now on,
        and the old one stays.
        """
        added = given = 0
        with self._connection.transaction():
            # The role of the API only reads by default; this is the one thing that it writes.
            self._connection.execute("SET TRANSACTION READ WRITE")
            rows = iter(observations)
            while chunk := list(islice(rows, _CHUNK)):
                columns = {name: [getattr(o, name) for o in chunk] for name in _COLUMNS}
                added += self._connection.execute(_ADD, columns).rowcount
                given += len(chunk)
        return Added(added, given - added)

    def loans(self, limit: int) -> Loans:
        """The newest loans of which anything was observed, each by its first decision; by COPY,
        which takes seconds for a million. Within a transaction."""
        columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[2:]))
        rows = self._read(_FIRST_DECISIONS.format(columns=columns), COLUMNS, {"limit": limit})
        observed = self._read(_OBSERVED, OBSERVED.names, {})
        row = self._connection.execute(_UNOBSERVED).fetchone()
        assert row is not None  # noqa: S101 (a count)
        return first_decisions("scored", rows, observed, int(row[0]))

    def newest(self, limit: int) -> tuple[pa.Table, pa.Table]:
        """The newest applications, `PORTFOLIO`, the oldest first, and what was observed of loans
        (`OBSERVED`). Within a transaction."""
        columns = sql.SQL(", ").join(map(sql.Identifier, PORTFOLIO[2:]))
        rows = self._read(_NEWEST.format(columns=columns), PORTFOLIO, {"limit": limit})
        return rows, self._read(_OBSERVED, OBSERVED.names, {})

    def of_arms(
        self, arms: Sequence[str], since: datetime, until: datetime | None, limit: int
    ) -> tuple[pa.Table, pa.Table]:
        """The newest loans of a split's arms (`ARMS`), each by its first decision in it, and what
        was observed of loans (`OBSERVED`). Within a transaction.

        Args:
            since, until: when the split ran; `until` None while it does.
        """
        which = {"arms": list(arms), "since": since, "until": until, "limit": limit}
        return self._read(_OF_ARMS, ARMS, which), self._read(_OBSERVED, OBSERVED.names, {})

    def _read(
        self, query: sql.Composed | sql.SQL, names: Iterable[str], parameters: dict[str, Any]
    ) -> pa.Table:
        import pyarrow.csv as pc

        with self._connection.cursor() as cursor, cursor.copy(query, parameters) as copy:
            text = b"".join(copy)
        types = {name: _TYPES.get(name, pa.float64()) for name in names}
        if not text:  # which is no CSV
            return pa.schema(types).empty_table()
        return pc.read_csv(
            pa.py_buffer(text),
            read_options=pc.ReadOptions(column_names=list(types)),
            convert_options=pc.ConvertOptions(
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


_COLUMNS = ("loan_id", "observed_at", "status", "days_past_due", "balance", "recovered", "source")
# What the report of the portfolio reads of an application.
PORTFOLIO = (
    *("loan_id", "issue_d", "scored_at", "risk_tier", "addr_state", "application_type"),
    *("annual_inc_primary", "dti_primary", "annual_inc_joint", "dti_joint"),
    *COLUMNS[2:],
)
# What is compared of the arms of a split.
ARMS = ("loan_id", "issue_d", "arm", "risk_tier", "loan_amnt")
_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("risk_tier", "addr_state", "application_type", "arm"), pa.string()),
    "scored_at": pa.timestamp("us", "UTC"),
    **{field.name: field.type for field in OBSERVED},
    **dict.fromkeys(TEXTS, pa.string()),
    "issue_d": pa.date32(),
}

_ADD: LiteralString = """
INSERT INTO loan_outcomes (
    loan_id, observed_at, status, days_past_due, balance, recovered, source
)
SELECT loan_id, observed_at, status, days_past_due, balance, recovered, source
FROM unnest(
    %(loan_id)s::text[], %(observed_at)s::timestamptz[], %(status)s::text[],
    %(days_past_due)s::int[], %(balance)s::float8[], %(recovered)s::float8[], %(source)s::text[]
) WITH ORDINALITY AS given (
    loan_id, observed_at, status, days_past_due, balance, recovered, source, place
)
ORDER BY place
ON CONFLICT DO NOTHING
"""

# A row without a loan's id is a loan of its own; the view names it in the same way.
_FIRST_DECISIONS = sql.SQL("""
COPY (
    SELECT loan, decided, {columns} FROM (
        SELECT * FROM (
            SELECT DISTINCT ON (loan) loan, {columns}, scored_at, partition, "offset",
                coalesce(issue_d, (coalesce(event_time, recorded_at) AT TIME ZONE 'UTC')::date)
                    AS decided
            FROM (
                SELECT *, coalesce(loan_id, source_id || '/' || partition || '/' || "offset")
                    AS loan
                FROM scored_applications
            ) AS s
            WHERE loan IN (SELECT loan_id FROM known_outcomes)
            ORDER BY loan, scored_at, partition, "offset"
        ) AS firsts ORDER BY scored_at DESC, partition DESC, "offset" DESC LIMIT %(limit)s
    ) AS newest ORDER BY scored_at, partition, "offset"
) TO STDOUT (FORMAT csv)
""")

_NEWEST = sql.SQL("""
COPY (
    SELECT loan_id, coalesce(issue_d, (coalesce(event_time, recorded_at) AT TIME ZONE 'UTC')::date),
        {columns}
    FROM (
        SELECT * FROM scored_applications
        ORDER BY scored_at DESC, partition DESC, "offset" DESC LIMIT %(limit)s
    ) AS newest ORDER BY scored_at, partition, "offset"
) TO STDOUT (FORMAT csv)
""")

_OF_ARMS = sql.SQL("""
COPY (
    SELECT * FROM (
        SELECT DISTINCT ON (loan_id) loan_id,
            coalesce(issue_d, (coalesce(event_time, recorded_at) AT TIME ZONE 'UTC')::date),
            arm, risk_tier, loan_amnt
        FROM (
            SELECT * FROM scored_applications
            WHERE arm = ANY (%(arms)s) AND scored_at >= %(since)s
                AND scored_at < coalesce(%(until)s::timestamptz, 'infinity') + interval '5 s'
            ORDER BY scored_at DESC LIMIT %(limit)s
        ) AS newest ORDER BY loan_id, scored_at, partition, "offset"
    ) AS firsts
) TO STDOUT (FORMAT csv)
""")

_OBSERVED = sql.SQL("""
COPY (
    SELECT loan_id, to_char(observed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        status, days_past_due, balance, recovered
    FROM known_outcomes
) TO STDOUT (FORMAT csv)
""")

_UNOBSERVED: LiteralString = """
SELECT count(DISTINCT loan_id) FROM scored_applications s
WHERE NOT EXISTS (SELECT FROM known_outcomes k WHERE k.loan_id = s.loan_id)
"""
