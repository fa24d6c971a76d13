"""What became of loans: a table of its own, to which rows are only added."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from credit_risk_dagster.domain.lake_rows import SourceKey
from credit_risk_dagster.domain.model.observed import OBSERVED
from credit_risk_dagster.domain.model.sample import COLUMNS, TEXTS, Loans, first_decisions
from credit_risk_dagster.domain.outcomes import Observation

_CHUNK = 10_000


@dataclass(frozen=True)
class Added:
    """What became of observations: added, or known before in every value."""

    added: int
    known: int


@dataclass(frozen=True)
class Dropped:
    """A source of which retention dropped what was decided before a time."""

    topic: str
    key: SourceKey
    until: datetime


@dataclass(frozen=True)
class Earlier:
    """First decisions that are no longer here.

    Attributes:
        rows: `COLUMNS` of each loan's first decision, the oldest first.
        observed: `OBSERVED`, what those applications carried.
    """

    rows: pa.Table
    observed: pa.Table


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

    def dropped(self) -> list[Dropped]:
        """The sources whose first decisions may be no longer here."""
        rows = self._connection.execute(_DROPPED).fetchall()
        return [Dropped(topic, SourceKey(*key), until) for topic, *key, until in rows]

    def undecided(self) -> pa.Array:
        """The loans with outcomes of which no decision is here. Within a transaction."""
        return self._read(_UNDECIDED, ["loan_id"], {})["loan_id"].combine_chunks()

    def loans(self, limit: int, earlier: Earlier | None = None) -> Loans:
        """The newest loans of which anything was observed, each by its first decision; by COPY,
        which takes seconds for a million. Within a transaction.

        Args:
            earlier: first decisions that are no longer here.
        """
        columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[2:]))
        rows = self._read(_FIRST_DECISIONS.format(columns=columns), COLUMNS, {"limit": limit})
        observed = self.observed()
        row = self._connection.execute(_UNOBSERVED).fetchone()
        assert row is not None  # noqa: S101 (a count)
        undecided = self.undecided()
        if earlier is not None:
            before = earlier.rows["loan_id"].combine_chunks()
            undecided = undecided.filter(pc.invert(pc.is_in(undecided, value_set=before)))
            rows = rows.filter(pc.invert(pc.is_in(rows["loan_id"], value_set=before)))
            kept = earlier.rows.slice(max(0, len(before) + len(rows) - limit)).cast(rows.schema)
            rows = pa.concat_tables([kept, rows])
            observed = pa.concat_tables([earlier.observed.cast(OBSERVED), observed])
        return first_decisions("scored", rows, observed, int(row[0]), len(undecided))

    def observed(self) -> pa.Table:
        """What was observed of loans, `OBSERVED`. Within a transaction."""
        return self._read(_OBSERVED, OBSERVED.names, {})

    def newest(self, limit: int) -> tuple[pa.Table, pa.Table]:
        """The newest applications, `PORTFOLIO`, the oldest first, and what was observed of loans
        (`OBSERVED`). Within a transaction."""
        columns = sql.SQL(", ").join(map(sql.Identifier, PORTFOLIO[2:]))
        rows = self._read(_NEWEST.format(columns=columns), PORTFOLIO, {"limit": limit})
        return rows, self.observed()

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
        import pyarrow.csv as csv

        with self._connection.cursor() as cursor, cursor.copy(query, parameters) as copy:
            text = b"".join(copy)
        types = {name: _TYPES.get(name, pa.float64()) for name in names}
        if not text:  # which is no CSV
            return pa.schema(types).empty_table()
        return csv.read_csv(
            pa.py_buffer(text),
            read_options=csv.ReadOptions(column_names=list(types)),
            convert_options=csv.ConvertOptions(
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
ARMS = ("loan_id", "issue_d", "arm", "policy_id", "risk_tier")
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
            arm, policy_id, risk_tier
        FROM (
            SELECT * FROM scored_applications
            WHERE arm = ANY (%(arms)s) AND scored_at >= %(since)s
                AND scored_at < coalesce(%(until)s::timestamptz, 'infinity') + interval '5 s'
            ORDER BY scored_at LIMIT %(limit)s
        ) AS earliest ORDER BY loan_id, scored_at, partition, "offset"
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

_UNDECIDED = sql.SQL("""
COPY (
    SELECT DISTINCT loan_id FROM loan_outcomes o
    WHERE NOT EXISTS (SELECT FROM scored_applications s WHERE s.loan_id = o.loan_id)
) TO STDOUT (FORMAT csv)
""")

_DROPPED: LiteralString = """
SELECT topic, cluster_id, topic_id, epoch, max(coalesce(ends, month + interval '1 month'))
FROM dropped_rows d JOIN sources s ON s.source_id = d.source_id
WHERE scored > 0 GROUP BY s.source_id ORDER BY s.source_id
"""

_UNOBSERVED: LiteralString = """
SELECT count(DISTINCT loan_id) FROM scored_applications s
WHERE NOT EXISTS (SELECT FROM known_outcomes k WHERE k.loan_id = s.loan_id)
"""
