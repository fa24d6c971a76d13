"""Forgetting an applicant in Postgres, and the record of it. What is deleted, the database does
itself (`forget_loan`), so that nothing is deleted without the record."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row

from resources.postgres.partitions import TablesBusy

Place = tuple[int, int, int]
"""(source, partition, offset) of an event."""


@dataclass(frozen=True)
class Forgetting:
    """What went with an applicant, and never who it was.

    Attributes:
        scored, rejected, reviews: rows that were deleted.
        mentions: notes on other applications of which the loan's id was blotted out.
        outcomes: rows of loan_outcomes that were deleted.
        lake_rows: rows deleted from the tables of the lake; None while that is still to be done.
    """

    forgetting_id: int
    forgotten_at: datetime
    forgotten_by: str
    why: str
    scored: int
    rejected: int
    reviews: int
    mentions: int
    outcomes: int
    lake_rows: int | None

    @property
    def rows(self) -> int:
        """Rows that were deleted or changed in Postgres."""
        return self.scored + self.rejected + self.reviews + self.mentions + self.outcomes


class Forgettings:
    """What was forgotten, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def forget(
        self,
        loan_id: str | None,
        places: Sequence[Place],
        by: str,
        why: str,
        *,
        dry_run: bool = False,
    ) -> Forgetting | None:
        """Delete a loan's scored rows, whatever has these places, and its reviews, in one
        transaction with the record of it; returns that, or None when there is nothing of it.

        Args:
            loan_id: None when only the places are known.
            dry_run: look what it would be, and leave everything.

        Raises:
            TablesBusy: the stream's tables were held for more than five seconds.
        """
        named = {"loan": loan_id, "by": by, "why": why, **_columns(places)}
        try:
            with (
                self._connection.transaction() as transaction,
                self._connection.cursor(row_factory=class_row(Forgetting)) as cursor,
            ):
                done = cursor.execute(_FORGET, named).fetchone()
                assert done is not None  # noqa: S101 (a function of one row)
                nothing = not done.rows and not self._is_of(done.forgetting_id)
                if dry_run or nothing:
                    raise psycopg.Rollback(transaction)
        except psycopg.errors.LockNotAvailable as error:
            raise TablesBusy(
                "a transaction held the stream's offsets for more than 5 s, nothing was forgotten: "
                "try again"
            ) from error
        return None if nothing else done

    def _is_of(self, forgetting_id: int) -> bool:
        """Whether any offset is forgotten by it, be it of the lake alone."""
        row = self._connection.execute(
            "SELECT EXISTS (SELECT FROM forgotten_offsets WHERE forgetting_id = %(id)s)",
            {"id": forgetting_id},
        ).fetchone()
        return bool(row and row[0])

    def pending(self) -> dict[Place, int]:
        """Places of which the lake may have rows yet, and by which forgetting they are to go."""
        rows = self._connection.execute(
            'SELECT source_id, partition, "offset", forgetting_id FROM forgotten_offsets'
            " JOIN forgettings USING (forgetting_id) WHERE lake_at IS NULL"
        )
        return {(source_id, partition, at): which for source_id, partition, at, which in rows}

    def unknown(self, places: Iterable[Place]) -> list[Place]:
        """Those of the places that are committed, and of which nothing is known to be forgotten."""
        return self._connection.execute(_UNKNOWN, _columns(places)).fetchall()

    def count_lake(self, places: Iterable[Place]) -> None:
        """Record rows that are about to be deleted from the lake, by their places."""
        self._connection.execute(
            "UPDATE forgettings f SET lake_rows = greatest(f.lake_rows, n) FROM ("
            " SELECT forgetting_id, count(*) AS n FROM forgotten_offsets"
            " JOIN unnest(%(sources)s::int[], %(partitions)s::int[], %(offsets)s::bigint[])"
            ' AS p (source_id, partition, "offset") USING (source_id, partition, "offset")'
            " GROUP BY 1) AS gone WHERE f.forgetting_id = gone.forgetting_id",
            _columns(places),
        )

    def of(self, place: Place) -> Forgetting | None:
        """The record of who was forgotten at a place; its `lake_rows` are None until it is done."""
        with self._connection.cursor(row_factory=class_row(Forgetting)) as cursor:
            return cursor.execute(
                "SELECT forgetting_id, forgotten_at, forgotten_by, why, scored, rejected, reviews,"
                " mentions, outcomes, CASE WHEN lake_at IS NOT NULL THEN lake_rows END AS lake_rows"
                " FROM forgettings JOIN forgotten_offsets USING (forgetting_id)"
                " WHERE source_id = %(source)s AND partition = %(partition)s"
                ' AND "offset" = %(offset)s',
                _named(place),
            ).fetchone()

    def lake_rows(self, forgetting_id: int) -> int | None:
        """Rows that a forgetting deleted from the lake; None while it is not done."""
        row = self._connection.execute(
            "SELECT lake_rows FROM forgettings WHERE forgetting_id = %(id)s"
            " AND lake_at IS NOT NULL",
            {"id": forgetting_id},
        ).fetchone()
        return row[0] if row else None

    def close_lake(self, forgettings: Iterable[int]) -> None:
        """Record that the lake has no byte of what these forgot."""
        self._connection.execute(
            "UPDATE forgettings SET lake_at = clock_timestamp(),"
            " lake_rows = coalesce(lake_rows, 0)"
            " WHERE forgetting_id = ANY(%(ids)s) OR lake_at IS NULL AND NOT EXISTS ("
            "SELECT FROM forgotten_offsets o WHERE o.forgetting_id = forgettings.forgetting_id)",
            {"ids": list(forgettings)},
        )

    def offsets(self) -> dict[tuple[int, int], list[int]]:
        """By source and partition, the offsets of everybody who was forgotten."""
        rows = self._connection.execute(
            'SELECT source_id, partition, array_agg("offset") FROM forgotten_offsets GROUP BY 1, 2'
        )
        return {(source_id, partition): offsets for source_id, partition, offsets in rows}

    def scored_at(self, place: Place) -> tuple[str | None] | None:
        """The loan that the row of a scored application is of, which may name none; None without
        such a row."""
        return self._connection.execute(
            "SELECT loan_id FROM scored_applications WHERE source_id = %(source)s"
            ' AND partition = %(partition)s AND "offset" = %(offset)s',
            _named(place),
        ).fetchone()


def _named(place: Place) -> dict[str, int]:
    return dict(zip(("source", "partition", "offset"), place, strict=True))


def _columns(places: Iterable[Place]) -> dict[str, list[int]]:
    columns = list(zip(*places, strict=True)) or [(), (), ()]
    return dict(zip(("sources", "partitions", "offsets"), map(list, columns), strict=True))


_UNKNOWN: LiteralString = """
SELECT p.* FROM unnest(%(sources)s::int[], %(partitions)s::int[], %(offsets)s::bigint[])
    AS p (source_id, partition, "offset")
JOIN stream_offsets o USING (source_id, partition)
WHERE p."offset" >= o.first_offset AND p."offset" < o.next_offset
AND NOT EXISTS (SELECT FROM forgotten_offsets f
    WHERE (f.source_id, f.partition, f."offset") = (p.source_id, p.partition, p."offset"))
AND NOT EXISTS (SELECT FROM offset_gaps g
    WHERE (g.source_id, g.partition) = (p.source_id, p.partition)
    AND g.first_offset <= p."offset" AND g.next_offset > p."offset")
"""

_FORGET: LiteralString = """
SELECT forgetting_id, forgotten_at, forgotten_by, why, scored, rejected, reviews, mentions,
    outcomes, lake_rows
FROM forget_loan(%(loan)s, %(sources)s::int[], %(partitions)s::int[], %(offsets)s::bigint[],
    %(by)s, %(why)s)
"""
