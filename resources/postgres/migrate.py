"""Bringing the schema to the version that this code needs."""

from typing import Any

import psycopg

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings
from resources.postgres.connection import Warehouse
from resources.postgres.migrations import SCHEMA_VERSION, SCRIPTS
from resources.postgres.readers import grant_readers_again
from resources.postgres.roles import grant_roles

_OLDEST = 14  # range_agg, multiranges

_REFUSALS: dict[str | None, str] = {
    psycopg.errors.InsufficientPrivilege.sqlstate: "run it as the role that owns the tables",
    psycopg.errors.LockNotAvailable.sqlstate: "somebody used the tables for more than 10 s (a dump?"
    "): run it when that is over",
}


class MigrationRefused(PlatformError):
    """The database cannot hold the tables, or the role may not make them; it says what to do."""


def migrate(settings: WarehouseSettings, version: str = "head") -> str:
    """Bring the schema to the newest version, or to that one if it is older, and return the
    version. Safe to run at any time, by any number of processes. Readers (see
    `resources.postgres.readers`) are granted what is new, and the roles of
    `resources.postgres.roles` what they may do.

    Raises:
        MigrationRefused: as its name says.
        WarehouseUnavailable: Postgres does not answer.
    """
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["schema"] = settings.db_schema
    warehouse = Warehouse(settings)
    with warehouse.connect("migrate") as connection:
        _check_database(connection, settings.db_schema, warehouse.location)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: warehouse.connect("migrate", autocommit=False)
    )
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, version)
    except (psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
        cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
        why = _REFUSALS.get(getattr(cause, "sqlstate", None))
        if why is None:
            raise
        raise MigrationRefused(
            f"schema {settings.db_schema} in Postgres at {warehouse.location} is not migrated: "
            f"{' '.join(str(cause).splitlines()[:1])}; {why}"
        ) from error
    finally:
        engine.dispose()
    if version != "head":
        return version  # of the past, when there may have been no readers
    grant_readers_again(settings)
    with warehouse.session("migrate") as connection:
        grant_roles(connection, settings.db_schema)
        warehouse.make_partitions(connection)
    return SCHEMA_VERSION


def _check_database(connection: psycopg.Connection[Any], schema: str, location: str) -> None:
    """Refuse what would fail later, or on some texts only."""
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),"
        " current_setting('server_encoding'), current_database(), current_user,"
        " oid IS NOT NULL, has_database_privilege(current_database(), 'CREATE'),"
        " has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')"
        " FROM to_regnamespace(%(schema)s) AS oid",  # a name that needs no quotes, see settings
        {"schema": schema},
    ).fetchone()
    assert row is not None  # noqa: S101
    number, version, encoding, database, role, exists, may_create, may_use = row
    if number < 10_000 * _OLDEST:
        raise MigrationRefused(
            f"Postgres at {location} is version {version}, and this code needs {_OLDEST} or newer"
        )
    if encoding != "UTF8":
        raise MigrationRefused(
            f"database {database} in Postgres at {location} has the encoding {encoding}, which "
            f"cannot hold every application: create it with CREATE DATABASE {database} ENCODING "
            "'UTF8' TEMPLATE template0, and point DATABASE_URL at it"
        )
    if exists and not may_use:
        raise MigrationRefused(
            f"role {role} may not create tables in schema {schema} of Postgres at {location}: "
            f"GRANT CREATE, USAGE ON SCHEMA {schema} TO {role}"
        )
    if not exists and not may_create:
        raise MigrationRefused(
            f"role {role} may not create schema {schema} in Postgres at {location}: "
            f"CREATE SCHEMA {schema} AUTHORIZATION {role}, or GRANT CREATE ON DATABASE {database} "
            f"TO {role}"
        )
