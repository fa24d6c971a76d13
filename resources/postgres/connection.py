"""The way to the warehouse (Postgres): connections whose errors are the platform's.

The schema is on the connection's search_path. The SQL is in the other modules of this folder,
a file for each family of tables; each takes a connection.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, LiteralString, Self

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings
from resources.postgres.client_options import CLIENT_OPTIONS
from resources.postgres.migrations import SCHEMA_VERSION
from resources.postgres.partitions import ensure_partitions, make_partitions
from resources.postgres.session_settings import application_name, open_session, pin

# What goes wrong arrives as an exception; the pool also logs it, with each of its attempts.
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)

_SOON_SECONDS = 0.5


class WarehouseUnavailable(PlatformError):
    """Postgres does not answer, or refuses the client."""


class NotMigrated(PlatformError):
    """The schema has no tables, or older ones than this code needs."""


class Warehouse:
    """The platform's schema in a Postgres database."""

    def __init__(self, settings: WarehouseSettings) -> None:
        self._settings = settings

    def connect(self, name: str = "", *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Open a connection with the schema on its search_path (see `session`).

        Raises:
            WarehouseUnavailable: the message names host and database, never the password.
            PooledByTransaction: a pooler is between, and not in session mode.
        """
        location = self.location
        url, schema = self._settings.database_url.get_secret_value(), self._settings.db_schema
        try:
            return open_session(url, name, schema=schema, autocommit=autocommit)
        except psycopg.Error as error:
            raise WarehouseUnavailable(f"Postgres at {location} {_reason(error)}") from error

    def prepare_storage(self, connection: psycopg.Connection[Any]) -> None:
        """See that the tables take rows for as long as a session may last.

        Raises:
            TablesBusy: there is no time partition for now, and none can be made.
        """
        ensure_partitions(connection, self._settings.partition_span)

    def make_partitions(self, connection: psycopg.Connection[Any]) -> int:
        """Make the time partitions of the next week or month; returns how many.

        Raises:
            TablesBusy: somebody changes the tables for more than two seconds.
        """
        return make_partitions(connection, self._settings.partition_span)

    @property
    def location(self) -> str:
        """Host, port and database, without user and password.

        Raises:
            WarehouseUnavailable: DATABASE_URL is no address. Nothing of it is repeated: a password
                with a special character in it is taken for another part.
        """
        url = self._settings.database_url.get_secret_value()
        with suppress(psycopg.Error):
            parts = psycopg.conninfo.conninfo_to_dict(url)
            host, port = parts.get("host") or "the local socket", parts.get("port") or "5432"
            database = parts.get("dbname") or ""
            if re.fullmatch(r"[0-9,]+", str(port)) and "@" not in f"{host}{database}":
                return f"{host}:{port}/{database}"
        raise WarehouseUnavailable(
            "DATABASE_URL is not like postgresql://user:password@host:port/database (in user and "
            "password, write % @ / : as %25 %40 %2F %3A)"
        )

    def _check_version(self, connection: psycopg.Connection[Any]) -> None:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return  # a reader, which can do no harm
        version = str(row[0]) if row else "0000"
        if version < SCHEMA_VERSION:
            raise NotMigrated(
                f"schema {self._settings.db_schema} in Postgres at {self.location} is at version "
                f"{version} and this code needs {SCHEMA_VERSION}: run `credit-risk migrate`"
            )

    @contextmanager
    def session(self, name: str = "") -> Iterator[psycopg.Connection[Any]]:
        """Open a connection whose errors are the platform's.

        Raises:
            WarehouseUnavailable: Postgres does not answer, or went away.
            NotMigrated: the tables are missing, or older than this code. Newer ones are fine: every
                version of the schema serves the code of the version before.
        """
        connection = self.connect(name)
        try:
            with self.errors():
                self._check_version(connection)
                yield connection
        finally:
            connection.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the driver's errors into WarehouseUnavailable and NotMigrated."""
        try:
            yield
        except (
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.UndefinedFunction,
        ) as error:
            raise NotMigrated(
                f"schema {self._settings.db_schema} in Postgres at {self.location} is not "
                "migrated: run `credit-risk migrate`"
            ) from error
        except (
            psycopg.errors.InsufficientPrivilege,
            psycopg.errors.ReadOnlySqlTransaction,  # a standby, or default_transaction_read_only
        ) as error:
            raise WarehouseUnavailable(
                f"Postgres at {self.location} refuses that to the role of DATABASE_URL: "
                f"{' '.join(str(error).split())}"
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise WarehouseUnavailable(f"Postgres at {self.location} {_reason(error)}") from error


class WarehouseReader:
    """A pool of connections that only read, for a process that answers many short questions.

    All queries of a `transaction()` see the same rows.

    Args:
        settings: where Postgres is.
        size: most connections.
        patience_seconds: how long to wait for one, and how long a query may take.
    """

    def __init__(self, settings: WarehouseSettings, size: int, patience_seconds: float) -> None:
        self._warehouse = Warehouse(settings)
        self._pool = ConnectionPool(
            settings.database_url.get_secret_value(),
            kwargs=CLIENT_OPTIONS
            | {"autocommit": True, "application_name": application_name("reader")},
            min_size=1,
            max_size=size,
            open=False,
            check=ConnectionPool.check_connection,  # one may have ended with a restarted server
            configure=partial(_configure_reader, settings.db_schema, patience_seconds),
            timeout=patience_seconds,
            reconnect_timeout=10,  # it tries less and less often, up to this
            name="warehouse",
        )

    def __enter__(self) -> Self:
        """Start to connect; Postgres need not be there yet."""
        self._pool.open(wait=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """Borrow a connection whose errors are the platform's.

        Raises:
            WarehouseUnavailable: Postgres does not answer, or went away, or is too slow.
            NotMigrated: the tables are missing.
        """
        with self._warehouse.errors(), self._borrow() as connection:
            yield connection

    @contextmanager
    def _borrow(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            connection = self._pool.getconn(_SOON_SECONDS)
        except PoolTimeout:
            # Of a server that is not there, this says so at once, and why; the pool only waits.
            self._warehouse.connect("reader").close()
            connection = self._pool.getconn()
        try:
            with connection:
                yield connection
        finally:
            self._pool.putconn(connection)


def fetch_all(
    connection: psycopg.Connection[Any],
    query: LiteralString,
    parameters: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The rows of a query, as dictionaries."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, parameters).fetchall()


def only_read(connection: psycopg.Connection[Any], timeout: float) -> None:
    """Let a connection only read, and no statement take longer than these seconds."""
    connection.execute(
        "SELECT set_config('default_transaction_read_only', 'on', false),"
        " set_config('statement_timeout', %(milliseconds)s, false),"
        " set_config('jit', 'off', false)",  # compiling costs more than short queries
        {"milliseconds": f"{round(timeout * 1000)}"},
    )


def _configure_reader(
    schema: str, patience_seconds: float, connection: psycopg.Connection[Any]
) -> None:
    pin(connection, schema)
    only_read(connection, patience_seconds)
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ


def _reason(error: psycopg.Error) -> str:
    return "does not answer: " + " ".join(str(error).split())
