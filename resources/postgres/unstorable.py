"""Rows that Postgres refuses, found one by one, so that they hold back no others.

Cleaning lets nothing through that the tables refuse, as they are made. Somebody may add a
constraint or a trigger to them, and cleaning may have a hole: then it is the record that leaves,
and not the lane that stops.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pyarrow as pa

from credit_risk_dagster.domain.events import UNSTORABLE
from credit_risk_dagster.errors import PlatformError
from resources.postgres.columns import copy_batch

_log = logging.getLogger(__name__)
_LOGGED = 10

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
    transaction. Found by bisection; nothing is written.

    Args:
        rows: makes some of the `count` rows.

    Raises:
        BatchRefused: the table refuses for a reason that is no row's.
    """
    found: dict[int, Refusal] = {}

    def attempt(first: int, end: int) -> None:
        try:
            with connection.transaction():  # a savepoint: the rows before stay
                copy_batch(connection, table, rows(slice(first, end)))
        except REFUSALS as error:
            refusal = refusal_of(error)
            if end - first == 1:
                found[first] = refusal
                return
            middle = (first + end) // 2
            attempt(first, middle)
            attempt(middle, end)

    if count:
        with connection.transaction(force_rollback=True):
            attempt(0, count)
    return found


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
