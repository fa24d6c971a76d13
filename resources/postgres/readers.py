"""Roles that may read the warehouse; and those that also act for the people at the dashboard."""

import logging
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings
from resources.postgres.connection import Warehouse

_logger = logging.getLogger(__name__)


class ReaderRefused(PlatformError):
    """A role could not be made a reader."""


def grant_reader(
    settings: WarehouseSettings, role: str, password: str | None = None, *, acts: bool = False
) -> bool:
    """Let a role read the schema; returns whether the role was created.

    It is created, with the password, when it is missing and the user of `DATABASE_URL` may do that.

    Args:
        acts: the role may also do what people at the dashboard do: work on cases, submit policies.

    Raises:
        ReaderRefused: it is missing and has to be created by somebody else, or it owns the tables.
        WarehouseUnavailable, NotMigrated: as their names say.
    """
    warehouse = Warehouse(settings)
    with warehouse.session("grant-reader") as connection:
        try:
            created = _ensure_role(connection, role, password)
            query: LiteralString = "SELECT grant_reader(%(role)s)"
            if acts:
                query = "SELECT grant_reviewer(%(role)s)"
            connection.execute(query, {"role": role})
        except psycopg.errors.InsufficientPrivilege as error:
            raise ReaderRefused(
                f"role {role} is not a reader of {warehouse.location}: "
                f"{error.diag.message_primary}. Have an administrator run `CREATE ROLE {role} "
                f"LOGIN PASSWORD '...'`, then run `credit-risk grant-reader {role}` as the owner "
                f"of schema {settings.db_schema}"
            ) from error
    return created


def grant_readers_again(settings: WarehouseSettings) -> None:
    """Give those who were readers before a migration what the migration made, and let the role of
    `DASHBOARD_DATABASE_URL` act, too. When it cannot be one of them, a warning says what to do: the
    migration itself is done.
    """
    with Warehouse(settings).session("grant-reader") as connection:
        connection.execute(
            "SELECT CASE WHEN has_function_privilege(grantee, 'act_on_case'::regproc, 'EXECUTE')"
            " THEN grant_reviewer(pg_get_userbyid(grantee))"
            " ELSE grant_reader(pg_get_userbyid(grantee)) END FROM pg_proc, aclexplode(proacl)"
            " WHERE oid = 'review_application'::regproc AND grantee <> proowner AND grantee <> 0"
        )
        owner = connection.info.user
    role, password = dashboard_user(settings)
    if role and role != owner:
        try:
            grant_reader(settings, role, password, acts=True)
        except ReaderRefused as refused:
            _logger.warning("%s", refused)


def dashboard_user(settings: WarehouseSettings) -> tuple[str | None, str | None]:
    """User and password in `DASHBOARD_DATABASE_URL`; None for what it does not say."""
    if settings.dashboard_database_url is None:
        return None, None
    # A URL that is none is reported where it is used.
    try:
        parts = psycopg.conninfo.conninfo_to_dict(
            settings.dashboard_database_url.get_secret_value()
        )
    except psycopg.Error:
        return None, None
    user, password = parts.get("user"), parts.get("password")
    return str(user) if user else None, str(password) if password else None


def _ensure_role(connection: psycopg.Connection[Any], role: str, password: str | None) -> bool:
    known = connection.execute(
        "SELECT 1 FROM pg_roles WHERE rolname = %(role)s", {"role": role}
    ).fetchone()
    if known:
        return False
    statement = sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role))
    if password:
        # Encrypted here, so that no log of the server has the password.
        secret = connection.pgconn.encrypt_password(
            password.encode(), role.encode(), b"scram-sha-256"
        )
        statement += sql.SQL(" PASSWORD {}").format(sql.Literal(secret.decode()))
    try:
        connection.execute(statement)
    except psycopg.errors.DuplicateObject:  # another process was faster
        return False
    return True
