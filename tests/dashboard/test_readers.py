"""The role that reads: what it can, and what it cannot."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from typer.testing import CliRunner

from credit_risk_dagster.cli.main import app
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings
from infra.embedded.servers import Postgres
from resources.postgres.connection import Warehouse
from resources.postgres.migrate import migrate
from resources.postgres.readers import ReaderRefused, grant_reader
from tests.dashboard.conftest import LOW, REJECTED, WATCHLIST, Commit


@pytest.fixture
def role(postgres: Postgres, warehouse_settings: WarehouseSettings) -> Iterator[str]:
    """The name of a role that does not exist, and is gone afterwards."""
    name = f"reader_{uuid.uuid4().hex}"
    yield name
    with Warehouse(warehouse_settings).connect() as owner:
        if owner.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
            owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def as_role(settings: WarehouseSettings, role: str) -> WarehouseSettings:
    url = settings.database_url.get_secret_value().replace("postgres@", f"{role}@")
    return settings.model_copy(update={"dashboard_database_url": SecretStr(url)})


@pytest.fixture
def reader(warehouse_settings: WarehouseSettings, role: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of a reader."""
    assert grant_reader(warehouse_settings, role)
    assert not grant_reader(warehouse_settings, role)  # again, without harm
    settings = as_role(warehouse_settings, role).of_dashboard()
    with Warehouse(settings).connect() as connection:
        yield connection


def tables(connection: psycopg.Connection[Any], kinds: str = "rp") -> list[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'credit_risk'::regnamespace"
        " AND relkind = ANY (%s)",
        ([*kinds],),
    )
    return [row[0] for row in rows]


def refused(connection: psycopg.Connection[Any], statement: str) -> bool:
    try:
        connection.execute(statement)  # type: ignore[call-overload]
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_a_reader_writes_nothing(
    commit: Commit, warehouse: psycopg.Connection[Any], reader: psycopg.Connection[Any]
) -> None:
    commit(LOW, REJECTED)
    found = tables(warehouse)
    assert {"scored_applications", "rejected_events", "stream_offsets", "models"} <= set(found)
    for table in found:
        column = warehouse.execute(
            "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass"
            " AND attnum > 0 AND attidentity = '' ORDER BY attnum DESC LIMIT 1",
            (table,),
        ).fetchone()
        assert column is not None
        for statement in (
            f"INSERT INTO {table} DEFAULT VALUES",
            f"UPDATE {table} SET {column[0]} = {column[0]}",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"ALTER TABLE {table} RENAME TO gone",
            f"DROP TABLE {table}",
        ):
            assert refused(reader, statement), statement
    for statement in (
        "CREATE TABLE credit_risk.mine (a int)",
        "SELECT ensure_partitions()",
        "SELECT roll_up_segments()",
        "SELECT close_segments(now())",
        "SELECT make_partitions('month')",
        "SELECT grant_reader('postgres')",
    ):
        assert refused(reader, statement), statement


def test_a_reader_reads_everything_but_bytes_of_events_and_models(
    commit: Commit, warehouse: psycopg.Connection[Any], reader: psycopg.Connection[Any]
) -> None:
    commit(LOW, REJECTED)
    partitions = {
        row[0]
        for row in warehouse.execute(
            "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
        ).fetchall()
    }
    assert {name.partition("_2")[0] for name in partitions} == {
        *("scored_applications", "rejected_events", "batches")
    }
    hidden = {"rejected_events", "models", "alembic_version"}
    readable = set(tables(warehouse, "rpv")) - partitions - hidden
    assert {"scored_applications", "application_segments", "stream_offsets"} <= readable
    for table in readable:
        reader.execute(f"SELECT * FROM {table}")  # type: ignore[call-overload]
    assert reader.execute("SELECT reason FROM rejected_events").fetchall()
    for column in ("key", "value", "*"):
        assert refused(reader, f"SELECT {column} FROM rejected_events")
    assert reader.execute("SELECT version, metrics FROM models").fetchall() == []
    assert refused(reader, "SELECT artifact FROM models")
    for table in partitions:  # the way around the columns' grants
        assert refused(reader, f"SELECT * FROM {table}")


ACT = "SELECT act_on_case(1, 1, 'start', 'Ada', NULL, NULL, NULL, NULL)"
EXPORT = "SELECT record_export('Ada', 'cases', 1)"
SUBMIT = "SELECT submit_policy('a', 'b', 'c', 'Ada', 'why', NULL)"
REVIEW = "SELECT review_application(1, 0, 0, ' Ada ', 'Income verified by phone')"


def test_who_only_reads_does_not_act(
    commit: Commit,
    reader: psycopg.Connection[Any],
    warehouse_settings: WarehouseSettings,
    role: str,
) -> None:
    commit(WATCHLIST)
    for statement in (ACT, EXPORT, SUBMIT, REVIEW):
        assert refused(reader, statement), statement
    grant_reader(warehouse_settings, role, acts=True)
    for statement in (ACT, EXPORT, SUBMIT):
        assert not refused(reader, statement), statement
    row = reader.execute("SELECT who, action, db_role FROM case_events").fetchall()
    assert row == [("Ada", "start", role)]
    assert reader.execute("SELECT who, rows, db_role FROM exports").fetchall() == [("Ada", 1, role)]
    migrate(warehouse_settings)  # leaves both as they are
    assert not refused(reader, EXPORT)
    grant_reader(warehouse_settings, role)
    for statement in (ACT, EXPORT, SUBMIT, REVIEW):
        assert refused(reader, statement), statement


def test_who_read_before_there_were_cases_acts_only_where_it_was_let(
    database_url: str, role: str
) -> None:
    settings = WarehouseSettings(DATABASE_URL=SecretStr(database_url))
    acting = f"{role}_acts"
    names = [sql.Identifier(name) for name in (role, acting)]
    migrate(settings, "0027")
    with Warehouse(settings).connect() as owner:
        for name in names:
            owner.execute(sql.SQL("CREATE ROLE {}").format(name))
        try:
            owner.execute("SELECT grant_reader(%s)", (role,))  # it submits for anybody
            migrate(settings, "0030")
            owner.execute("SELECT grant_reviewer(%s)", (acting,))
            owner.execute(
                "INSERT INTO exports (who, what, rows) VALUES ('Ada', 'cases: loan_id 12700000', 1)"
            )
            assert may(owner, role) == ["submit_policy"]
            migrate(settings)
            assert may(owner, role) == []
            assert may(owner, acting) == ["act_on_case", "record_export", "submit_policy"]
            kept = owner.execute("SELECT who, what, rows FROM exports").fetchall()
            assert kept == [("Ada", "cases: one loan", 1)]
        finally:
            for name in names:
                owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


def may(owner: psycopg.Connection[Any], role: str) -> list[str]:
    """What acts for people, and a role may execute."""
    rows = owner.execute(
        "SELECT proname::text FROM pg_proc WHERE has_function_privilege(%s, oid, 'EXECUTE')"
        " AND proname IN ('act_on_case', 'record_export', 'submit_policy') ORDER BY 1",
        (role,),
    )
    return [row[0] for row in rows]


def test_a_review_by_the_dashboard_of_the_version_before_is_in_the_history(
    commit: Commit,
    reader: psycopg.Connection[Any],
    warehouse_settings: WarehouseSettings,
    role: str,
) -> None:
    commit(WATCHLIST)
    grant_reader(warehouse_settings, role, acts=True)
    reader.execute(REVIEW)
    assert reader.execute(
        "SELECT who, action, state, assignee, note, db_role FROM case_events"
    ).fetchall() == [("Ada", "start", "in_review", "Ada", "Income verified by phone", role)]
    assert reader.execute("SELECT state, assignee, version FROM cases").fetchall() == [
        ("in_review", "Ada", 2)
    ]


def test_a_temporary_table_does_not_take_the_place_of_one(
    commit: Commit,
    warehouse: psycopg.Connection[Any],
    reader: psycopg.Connection[Any],
    warehouse_settings: WarehouseSettings,
    role: str,
) -> None:
    commit(WATCHLIST)
    grant_reader(warehouse_settings, role, acts=True)
    reader.execute("CREATE TEMPORARY TABLE case_events (event_id bigint)")
    reader.execute("SET search_path TO pg_temp, credit_risk")
    reader.execute(ACT.replace("act_on", "credit_risk.act_on"))
    assert warehouse.execute("SELECT count(*) FROM case_events").fetchone() == (1,)


def test_a_migration_grants_what_is_new(
    warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings, role: str
) -> None:
    settings = as_role(warehouse_settings, role)
    migrate(settings)  # creates the role, and grants
    warehouse.execute("CREATE TABLE later (a int)")
    with Warehouse(settings.of_dashboard()).connect() as reader:
        assert refused(reader, "SELECT * FROM later")
        migrate(warehouse_settings)
        assert not refused(reader, "SELECT * FROM later")


def test_a_password_is_kept(
    warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings, role: str
) -> None:
    grant_reader(warehouse_settings, role, "secret")
    row = warehouse.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,))
    assert str((row.fetchone() or ("",))[0]).startswith("SCRAM-SHA-256$")


def test_who_may_not_create_roles_is_told_what_to_do(
    warehouse: psycopg.Connection[Any],
    warehouse_settings: WarehouseSettings,
    role: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner = f"{role}_owner"
    warehouse.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(owner)))
    try:
        warehouse.execute(
            sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
                sql.Identifier(warehouse.info.dbname), sql.Identifier(owner)
            )
        )
        url = warehouse_settings.database_url.get_secret_value().replace("postgres@", f"{owner}@")
        theirs = WarehouseSettings(DATABASE_URL=SecretStr(url), CREDIT_RISK_SCHEMA="theirs")
        migrate(theirs)
        with pytest.raises(ReaderRefused, match=f"CREATE ROLE {role} LOGIN"):
            grant_reader(theirs, role)
        dashboard = theirs.model_copy(
            update={"dashboard_database_url": SecretStr(url.replace(owner, role))}
        )
        migrate(dashboard)  # is done all the same
        assert f"credit-risk grant-reader {role}" in caplog.text
        warehouse.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        assert not grant_reader(theirs, role)
    finally:
        warehouse.execute(
            sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(owner))
        )


def test_the_command_takes_the_role_of_the_dashboards_address(
    warehouse: psycopg.Connection[Any],
    warehouse_settings: WarehouseSettings,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DASHBOARD_DATABASE_URL", raising=False)
    nameless = CliRunner().invoke(app, ["grant-reader"])
    assert isinstance(nameless.exception, PlatformError)
    assert "DASHBOARD_DATABASE_URL" in str(nameless.exception)
    url = as_role(warehouse_settings, role).of_dashboard().database_url.get_secret_value()
    monkeypatch.setenv("DASHBOARD_DATABASE_URL", url.replace(f"{role}@", f"{role}:secret@"))
    for answer in ("is created, and", "now"):
        done = CliRunner().invoke(app, ["grant-reader"])
        assert done.output == f"role {role} {answer} reads schema credit_risk, and acts\n"
    named = CliRunner().invoke(app, ["grant-reader", role])
    assert named.exit_code == 0
