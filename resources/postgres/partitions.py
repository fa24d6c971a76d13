"""Time partitions of the big tables: made ahead by a job, looked at by a run."""

from typing import Any, Literal

import psycopg

from credit_risk_dagster.errors import PlatformError

Span = Literal["day", "month"]


class TablesBusy(PlatformError):
    """Somebody uses the tables for so long that a partition could not be made or dropped."""


def make_partitions(connection: psycopg.Connection[Any], span: Span) -> int:
    """Make partitions for the next week (of days) or month (of months); returns how many.

    Raises:
        TablesBusy: somebody changes the tables for more than two seconds.
    """
    try:
        row = connection.execute("SELECT make_partitions(%(span)s)", {"span": span}).fetchone()
    except psycopg.errors.LockNotAvailable as error:
        raise TablesBusy(
            "a change of the tables (an index, ANALYZE) held them for more than 2 s, so no time "
            "partition was made: end it, or try again"
        ) from error
    return int(row[0]) if row else 0


def ensure_partitions(connection: psycopg.Connection[Any], span: Span) -> None:
    """See that the tables take rows for a day from now; only when they do not, make partitions.

    Raises:
        TablesBusy: there is none for now, and none can be made.
    """
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE starts <= now() AND now() < ends) = 3,"
        " count(*) FILTER (WHERE starts <= later AND later < ends) = 3"
        " FROM time_partitions, LATERAL (SELECT now() + interval '1 day') AS _ (later)"
    ).fetchone()
    assert row is not None  # noqa: S101
    for_now, for_later = row
    if for_now and for_later:
        return
    try:
        make_partitions(connection, span)
    except TablesBusy:
        if not for_now:
            raise
