"""What every session with Postgres has in common, whatever the defaults of its database and role.

Values are read and written as text in places, rows are counted in time zones, and a run waits for
its lane for longer than an administrator lets a query take: so a session says itself what it relies
on. Not in the startup options, which connection poolers refuse.
"""

from functools import cache
from typing import Any, LiteralString

import psycopg

from credit_risk_dagster.errors import PlatformError
from resources.postgres.client_options import (
    CLIENT_OPTIONS,
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    UNACKNOWLEDGED_MS,
)

_APPLICATION_NAME = "credit-risk"  # for people who look at the server; nothing reads it

_SETTINGS = {
    # how values are written and read
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    # what a transaction sees, and what an error ends
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "exit_on_error": "off",
    "session_replication_role": "origin",  # triggers keep the totals
    # A run waits in line for its lane, and says itself for how long.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # the server's side of the lost host
    "tcp_keepalives_idle": f"{KEEPALIVE_IDLE}",
    "tcp_keepalives_interval": f"{KEEPALIVE_INTERVAL}",
    "tcp_keepalives_count": f"{KEEPALIVE_COUNT}",
    "tcp_user_timeout": f"{UNACKNOWLEDGED_MS}",
    "client_connection_check_interval": "2s",
}

# Older servers lack some of them, only Linux can look whether a waiting client is still there, and
# who may not set a replication role may not touch it where it is right.
_PIN: LiteralString = """
SELECT set_config(name, value, false), pg_backend_pid()
FROM unnest(%(names)s::text[], %(values)s::text[]) AS wanted (name, value)
WHERE current_setting(name, true) IS NOT NULL
    AND (name <> 'client_connection_check_interval' OR version() LIKE '%%linux%%')
    AND (name <> 'session_replication_role' OR current_setting(name) <> value)
"""


class PooledByTransaction(PlatformError):
    """A connection pooler gives each transaction another session of the server."""


def open_session(
    url: str, name: str = "", *, schema: str | None = None, autocommit: bool = True
) -> psycopg.Connection[Any]:
    """Connect, and pin what a session relies on.

    Args:
        url: of the database.
        name: who it is, for people who look at the server.
        schema: its search_path; without, what the role has.

    Raises:
        psycopg.Error: the server does not answer, or refuses.
        PooledByTransaction: as its name says.
    """
    connection = psycopg.connect(
        url, autocommit=autocommit, application_name=application_name(name), **CLIENT_OPTIONS
    )
    try:
        pin(connection, schema)
        if not autocommit:
            connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def application_name(name: str) -> str:
    """What the server calls a session of that name."""
    return f"{_APPLICATION_NAME} {name}".strip()


def pin(connection: psycopg.Connection[Any], schema: str | None) -> None:
    """Set what a session relies on, and that it is one.

    Raises:
        PooledByTransaction: as its name says.
    """
    settings = _SETTINGS | ({} if schema is None else {"search_path": schema})
    row = connection.execute(
        _PIN, {"names": list(settings), "values": list(settings.values())}
    ).fetchone()
    # A pooler tells the client a process id of its own making.
    if row is not None and row[1] != connection.info.backend_pid:
        _refuse_pooling_by_transaction(connection.info.dsn, connection.info.password)


@cache  # a process asks once
def _refuse_pooling_by_transaction(dsn: str, password: str) -> None:
    """Ask two connections in turn which process of the server serves them: in session mode each
    has one, and has it alone."""
    options = {**CLIENT_OPTIONS, "password": password or None}
    with (
        psycopg.connect(dsn, autocommit=True, **options) as one,
        psycopg.connect(dsn, autocommit=True, **options) as other,
    ):
        pooler = f"{one.info.host}:{one.info.port}"
        seen: dict[int, set[int]] = {0: set(), 1: set()}

        def ask(turn: int) -> None:
            row = (one, other)[turn].execute("SELECT pg_backend_pid()", prepare=False).fetchone()
            assert row is not None  # noqa: S101
            seen[turn].add(row[0])

        # Often, because others who open connections at the moment shuffle a pool's processes.
        for turn in (0, 1, 0, 0, 1, 1) * 4:
            ask(turn)
        # Those may do it in step. The process of the transaction that ended last is the next one's.
        for _ in range(0 if len(seen[0]) > 1 else 4):
            for turn in seen:
                (one, other)[turn].execute("BEGIN", prepare=False)
                ask(turn)
            for turn in seen:
                (one, other)[turn].execute("COMMIT", prepare=False)
    if len(seen[0]) > 1 or seen[0] == seen[1]:
        raise PooledByTransaction(
            f"the connection pooler at {pooler} pools by transaction or statement, so locks and "
            "settings of a session are lost: give this platform a pool in session mode (PgBouncer: "
            "pool_mode = session), or let DATABASE_URL name the server itself"
        )
