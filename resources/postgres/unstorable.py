"""Rows that Postgres refuses, found one by one, so that they hold back no others.

Cleaning lets nothing through that the tables refuse, as they are made. Somebody may add a
constraint or a trigger to them, and cleaning may have a hole: then it is the record that leaves,
and not the lane that stops.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pyarrow as pa

from credit_risk_dagster.domain.decoding import UNSTORABLE
from credit_risk_dagster.errors import PlatformError
from resources.postgres.columns import copy_batch

_log = logging.getLogger(__name__)
_LOGGED = 10
# Of "COPY scored_applications, line 7, column dti", in whichever language.
_LINE = re.compile(r"^COPY [^,]+, [^\d,]*(\d+)", re.MULTILINE)

# What a row can be at fault for: by Postgres (class 22, class 23, 54000, a trigger's RAISE), or
# before it is sent.
REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.RaiseException,
    pa.ArrowInvalid,
    OverflowError,
    UnicodeError,
)
_DATA, _CONSTRAINT, _LIMIT, _ENCODING = UNSTORABLE


class BatchRefused(PlatformError):
    """Postgres refuses a batch, and no record of it is at fault."""


@dataclass(frozen=True)
class Refusal:
    """Why a row is refused: a reason of `REASONS`, and what Postgres names, without any value."""

    reason: str
    names: str


def refused_rows(
    connection: psycopg.Connection[Any],
    table: LiteralString,
    count: int,
    rows: Callable[[slice], pa.RecordBatch],
) -> dict[int, Refusal]:
    """Which of the rows the table refuses, by position; those beside it, it takes in one
    transaction. Nothing is written.

    Postgres names the row that it stumbles over, so each costs one statement, or two where those
    before it are many.

    Args:
        rows: makes some of the `count` rows.

    Raises:
        BatchRefused: the table refuses for a reason that is no row's.
    """
    found: dict[int, Refusal] = {}
    at, size = 0, count
    part = _parts(rows, count)
    with connection.transaction(force_rollback=True):
        connection.execute("SAVEPOINT taken")
        while at < count:
            size = min(size, count - at)
            try:
                copy_batch(connection, table, part(at, size))
            except REFUSALS as error:
                refusal = refusal_of(error)
                connection.execute("ROLLBACK TO SAVEPOINT taken")
                if before := _taken_before(error, size):
                    size = before
                    continue
                found[at] = refusal
                at, size = at + 1, max(size // 2, 1)
            else:
                connection.execute("RELEASE SAVEPOINT taken; SAVEPOINT taken")
                at, size = at + size, 2 * size
    return found


def _parts(
    rows: Callable[[slice], pa.RecordBatch], count: int
) -> Callable[[int, int], pa.RecordBatch]:
    """What gives so many rows from a position on; all of them are made once, where they can be."""
    try:
        whole = rows(slice(0, count))
    except REFUSALS:
        return lambda at, size: rows(slice(at, at + size))
    return whole.slice


def _taken_before(error: Exception, size: int) -> int:
    """How many of the rows of a COPY were taken before the one that was refused; half of them,
    where nobody says."""
    context = error.diag.context if isinstance(error, psycopg.Error) else None
    line = _LINE.search(context or "")
    return min(int(line[1]), size) - 1 if line else size // 2


def refusal_of(error: Exception) -> Refusal:
    """What an error of `REFUSALS` says of the rows.

    Raises:
        BatchRefused: it says something of the table: it lacks the partition for today, say.
    """
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        return Refusal(_ENCODING, type(error).__name__)
    said = error.diag
    parts = (said.table_name, said.column_name, said.constraint_name)
    names = " ".join((error.sqlstate, type(error).__name__, *(part for part in parts if part)))
    if isinstance(error, psycopg.errors.CheckViolation) and not said.constraint_name:
        raise BatchRefused(f"Postgres refuses the batch: {said.message_primary}") from error
    if isinstance(error, psycopg.DataError):
        return Refusal(_DATA, names)
    limit = isinstance(error, psycopg.errors.ProgramLimitExceeded)
    return Refusal(_LIMIT if limit else _CONSTRAINT, names)


def tell(refusals: Mapping[tuple[int, int], Refusal]) -> None:
    """Log which records, by (partition, offset), are refused, and why."""
    for (partition, offset), refusal in list(refusals.items())[:_LOGGED]:
        _log.warning(
            "record cannot be stored",
            extra={"partition": partition, "offset": offset, **vars(refusal)},
        )
    if len(refusals) > _LOGGED:
        _log.warning("more records cannot be stored", extra={"more": len(refusals) - _LOGGED})
