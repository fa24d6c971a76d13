"""Sessions are what the platform relies on, whatever the database and the role set by default."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from credit_risk_dagster.pipelines.archive_check import verify_lake
from credit_risk_dagster.pipelines.status import partition_status
from credit_risk_dagster.settings import WarehouseSettings
from infra.embedded.servers import HOST, Postgres, Server, free_port
from resources.postgres.applications import Applications
from resources.postgres.connection import Warehouse, WarehouseReader
from resources.postgres.lanes import LaneBusy, announce_run, is_awaited, lock_partitions
from resources.postgres.metrics import MetricsLedger
from resources.postgres.migrate import MigrationRefused, migrate
from resources.postgres.segments import roll_up_segments
from resources.postgres.session_settings import PooledByTransaction
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.tools import program
from tests.platform.waiting import wait_until

HOSTILE = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Pacific/Marquesas",
    "bytea_output": "escape",
    "extra_float_digits": "-10",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "search_path": "pg_catalog",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "exit_on_error": "on",
    "session_replication_role": "replica",
}
IMPATIENT = {
    "statement_timeout": "100ms",
    "lock_timeout": "10ms",
    "transaction_timeout": "100ms",
    "idle_in_transaction_session_timeout": "20ms",
    "idle_session_timeout": "200ms",  # it counts before a session is pinned, too
}
LANE = [0, 1, 2, 3]


def let_default(settings: WarehouseSettings, whose: str, defaults: dict[str, str]) -> None:
    """Set defaults of the database, or of the role in it."""
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as admin:
        names = {"db": sql.Identifier(admin.info.dbname), "role": sql.Identifier(admin.info.user)}
        for name, value in defaults.items():
            statement = sql.SQL("ALTER {} SET {} TO {}").format(
                sql.SQL(whose).format(**names),  # type: ignore[arg-type]
                sql.Identifier(name),
                sql.SQL(value) if name == "search_path" else sql.Literal(value),
            )
            admin.execute(statement)


def answers(pipeline: Pipeline, settings: WarehouseSettings) -> dict[str, Any]:
    """What the platform says of its tables."""
    with WarehouseReader(settings, 1, 60) as pool, pipeline.warehouse.session() as connection:
        applications = Applications(pool)
        snapshot = MetricsLedger(connection, pipeline.kafka.topic).read()
        return {
            "rows": pipeline.query("SELECT * FROM scored_applications ORDER BY partition, 3"),
            "rejected": pipeline.query("SELECT * FROM rejected_events ORDER BY partition, 3"),
            "batches": pipeline.query("SELECT * FROM batches ORDER BY batch_id"),
            "minutes": pipeline.query("SELECT * FROM risk_by_minute ORDER BY 1, 2, 3"),
            "objects": [vars(found) for found in pipeline.objects()],
            "archived": pipeline.rows(),
            "account": pipeline.account(),
            "unreconciled": pipeline.unreconciled(),
            "status": partition_status(pipeline.kafka, settings),
            "history": applications.history("7", limit=10),
            "watchlist": applications.watchlist(limit=5),
            "metrics": replace(snapshot, table_bytes={}),
        }


@pytest.mark.parametrize("whose", ["DATABASE {db}", "ROLE {role} IN DATABASE {db}"])
def test_defaults_of_the_server_change_no_answer(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, whose: str
) -> None:
    loans = [*map(good_event, range(10)), "Zoë 雪".encode()]
    pipeline.send_and_drain(loans)
    pipeline.archive()
    verify_lake(pipeline.warehouse, pipeline.lake, pipeline.kafka.topic)
    before = answers(pipeline, warehouse_settings)
    let_default(warehouse_settings, whose, HOSTILE | IMPATIENT)
    assert answers(pipeline, warehouse_settings) == before
    # And the work goes on.
    pipeline.send_and_drain(loans)
    pipeline.archive()
    verify_lake(pipeline.warehouse, pipeline.lake, pipeline.kafka.topic)
    assert migrate(warehouse_settings)
    with pipeline.warehouse.session() as connection:
        roll_up_segments(connection)
    stored = pipeline.stored()
    assert stored["scored_applications"] == [(0, n) for n in [*range(10), *range(11, 21)]]
    assert stored["rejected_events"] == [(0, 10), (0, 21)]
    assert pipeline.unreconciled() == 0
    assert pipeline.query("SELECT scored FROM ledger_totals") == [{"scored": 20}]
    assert pipeline.account().problems == []
    again = pipeline.query("SELECT * FROM scored_applications ORDER BY partition, 3")
    assert again[:10] == before["rows"]
    changes = {"offset", "scored_at", "batch_id", "recorded_at"}
    assert [{k: v for k, v in row.items() if k not in changes} for row in again[10:]] == [
        {k: v for k, v in row.items() if k not in changes} for row in before["rows"]
    ]


def test_a_successor_waits_longer_than_its_role_may(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    let_default(warehouse_settings, "ROLE {role} IN DATABASE {db}", IMPATIENT)
    with pipeline.warehouse.session() as working, pipeline.warehouse.session() as waiting:
        lock_partitions(working, 1, LANE, 0)
        with pytest.raises(LaneBusy, match="another run held partition 0 for more than 1 s"):
            lock_partitions(waiting, 1, LANE, 1)
        line = threading.Thread(target=lock_partitions, args=(waiting, 1, LANE, 60))
        line.start()
        wait_until(lambda: is_awaited(working, 1, LANE), 10, "the successor stands in line")
        working.close()
        line.join(10)
        assert not line.is_alive()
        announce_run(waiting, "it lives")


def test_two_schemas_of_a_database_do_not_meet(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    other = warehouse_settings.model_copy(update={"db_schema": "other"})
    migrate(other)
    with pipeline.warehouse.session() as ours, Warehouse(other).session() as theirs:
        lock_partitions(ours, 1, LANE, 1)
        lock_partitions(theirs, 1, LANE, 1)
        with pipeline.warehouse.session() as second:
            line = threading.Thread(target=lock_partitions, args=(second, 1, LANE, 60))
            line.start()
            wait_until(lambda: is_awaited(ours, 1, LANE), 10, "ours is awaited")
            assert not is_awaited(theirs, 1, LANE)
            ours.close()
            line.join(10)


# --- databases and roles that cannot hold the tables ----------------------------------------------


def test_a_database_of_another_encoding_is_refused(postgres: Postgres, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        latin = WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri("latin")))
        with pytest.raises(MigrationRefused, match=r"encoding LATIN1.*ENCODING 'UTF8' TEMPLATE"):
            migrate(latin)
    finally:
        postgres.drop_database("latin")


@pytest.fixture
def owner(database_url: str, postgres: Postgres) -> Iterator[WarehouseSettings]:
    """An empty database, and a role that may do nothing there."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("CREATE ROLE modest LOGIN")
        url = postgres.uri(admin.info.dbname, "modest")
        yield WarehouseSettings(DATABASE_URL=SecretStr(url))
        admin.execute("DROP OWNED BY modest CASCADE; DROP ROLE modest")


def test_a_role_that_owns_its_schema_needs_no_more(
    owner: WarehouseSettings, database_url: str
) -> None:
    def grant(statement: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(statement.encode())

    with pytest.raises(MigrationRefused, match="CREATE SCHEMA credit_risk AUTHORIZATION modest"):
        migrate(owner)
    grant("CREATE SCHEMA credit_risk")
    with pytest.raises(MigrationRefused, match="GRANT CREATE, USAGE ON SCHEMA"):
        migrate(owner)
    grant("ALTER SCHEMA credit_risk OWNER TO modest")
    assert migrate(owner) == migrate(owner)
    # What another role made is that role's to change.
    grant("ALTER TABLE credit_risk.alembic_version OWNER TO postgres")
    with pytest.raises(MigrationRefused, match=r"denied for table alembic_version.*owns"):
        migrate(owner)


def test_a_migration_does_not_stop_those_behind_it(database_url: str) -> None:
    """It waits for a dump, and every reader would wait behind it."""
    settings = WarehouseSettings(DATABASE_URL=SecretStr(database_url))
    migrate(settings, "0012")
    with Warehouse(settings).connect(autocommit=False) as dump:
        dump.execute("LOCK TABLE stream_offsets, batches IN ACCESS SHARE MODE")
        with pytest.raises(MigrationRefused, match=r"lock timeout; somebody used .* when that is"):
            migrate(settings)
    assert migrate(settings)


# --- a host that is lost, and a pooler between ----------------------------------------------------


@pytest.fixture(scope="module")
def tcp() -> Iterator[str]:
    """The address of a database on a server that listens; for tests with `own_servers`."""
    with TemporaryDirectory(prefix="credit-risk-") as folder, Postgres(Path(folder)) as server:
        port = free_port()
        with psycopg.connect(server.uri("postgres"), autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET listen_addresses = '{HOST}'".encode())
            admin.execute(f"ALTER SYSTEM SET port = {port}".encode())
        server.restart()
        yield f"postgresql://postgres@{HOST}:{port}/postgres"


@pytest.mark.usefixtures("own_servers")
def test_the_server_notices_a_lost_host_in_half_a_minute(tcp: str) -> None:
    settings = WarehouseSettings(DATABASE_URL=SecretStr(tcp))
    with Warehouse(settings).connect() as connection:
        shown = {
            name: connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in (
                *("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"),
                *("tcp_user_timeout", "client_connection_check_interval"),
            )
        }
    assert [value[0] for value in shown.values() if value] == ["10", "5", "3", "25000", "2s"]


Pooler = Callable[[str], str]


@pytest.fixture
def pooler(tcp: str, tmp_path: Path) -> Iterator[Pooler]:
    """Starts PgBouncer before that server in a mode, and returns its address of the database."""
    command = [program("pgbouncer", "pgbouncer")]
    command += ["-u", "nobody"] if os.geteuid() == 0 else []
    with ExitStack() as servers:

        def start(mode: str) -> str:
            port, target = free_port(), urlsplit(tcp)
            configuration = tmp_path / "pgbouncer.ini"
            configuration.write_text(
                f"[databases]\npostgres = host={HOST} port={target.port} user=postgres\n"
                f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nauth_type = any\n"
                f"pool_mode = {mode}\nunix_socket_dir =\n"
            )
            servers.enter_context(Server("PgBouncer", [*command, str(configuration)], port))
            return f"postgresql://postgres@{HOST}:{port}/postgres"

        yield start


@pytest.mark.usefixtures("own_servers")
def test_a_pooler_by_transaction_is_noticed(pooler: Pooler) -> None:
    settings = WarehouseSettings(DATABASE_URL=SecretStr(pooler("transaction")))
    with pytest.raises(PooledByTransaction, match=r"pools by transaction .* pool_mode = session"):
        Warehouse(settings).connect()
    with (
        WarehouseReader(settings, 2, 1.0) as reader,
        pytest.raises(PooledByTransaction),
        reader.session(),
    ):
        pytest.fail("sessions of nobody")


@pytest.mark.usefixtures("own_servers")
def test_a_pooler_by_session_is_fine(pooler: Pooler, tcp: str) -> None:
    migrate(WarehouseSettings(DATABASE_URL=SecretStr(tcp)))
    settings = WarehouseSettings(DATABASE_URL=SecretStr(pooler("session")))
    with Warehouse(settings).session() as one, Warehouse(settings).session() as other:
        lock_partitions(one, 1, LANE, 1)
        with pytest.raises(LaneBusy):
            lock_partitions(other, 1, LANE, 0.1)
