"""Time partitions: made ahead, by month or day, without stopping who reads or writes."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from credit_risk_dagster.definitions import defs
from credit_risk_dagster.settings import Settings, WarehouseSettings
from resources.configurable import resources
from resources.postgres.connection import Warehouse
from resources.postgres.migrate import migrate
from resources.postgres.partitions import TablesBusy, ensure_partitions, make_partitions
from tests.platform.pipeline import Pipeline, good_event

TABLES = ("scored_applications", "rejected_events", "batches")


@pytest.fixture
def connection(warehouse_settings: WarehouseSettings) -> Any:
    with Warehouse(warehouse_settings).session() as connection:
        yield connection


def spans(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """What the partitions cover, the same of each table."""
    found = connection.execute(
        "SELECT parent, to_char(starts, 'YYYY-MM-DD'), to_char(ends, 'YYYY-MM-DD')"
        " FROM time_partitions ORDER BY starts"
    ).fetchall()
    by_table = [[row[1:] for row in found if row[0] == table] for table in TABLES]
    assert by_table[0] == by_table[1] == by_table[2]
    return by_table[0]


def empty(connection: psycopg.Connection[Any]) -> None:
    for (name,) in connection.execute("SELECT name FROM time_partitions").fetchall():
        connection.execute(f"DROP TABLE {name}".encode())


def make(connection: psycopg.Connection[Any], span: str, moment: str) -> int:
    row = connection.execute("SELECT make_partitions(%s, %s)", (span, moment)).fetchone()
    return int(row[0]) if row else -1


def test_a_partition_freezes_what_is_written_once(connection: psycopg.Connection[Any]) -> None:
    assert make(connection, "day", "2030-01-01 12:00Z") > 0
    ((parameters, partitions),) = connection.execute(
        "SELECT array_agg(DISTINCT reloptions::text), count(*)"
        " FROM time_partitions JOIN pg_class ON oid = name::regclass"
    ).fetchall()
    assert parameters == ["{autovacuum_freeze_min_age=0}"]
    assert partitions > 3


def test_months_and_days_follow_each_other(connection: psycopg.Connection[Any]) -> None:
    empty(connection)
    assert make(connection, "month", "2026-11-30 23:59:59.9Z") == 3 * 3
    months = [("2026-10-01", "2026-11-01"), ("2026-11-01", "2026-12-01")]
    months += [("2026-12-01", "2027-01-01")]
    assert spans(connection) == months
    assert make(connection, "month", "2026-11-30 23:59:59.9Z") == 0
    # At midnight the next one is long there.
    assert make(connection, "month", "2026-12-01 00:00:00Z") == 3
    assert spans(connection)[3:] == [("2027-01-01", "2027-02-01")]
    # Days from the end of the last month on, and the month again from the end of the last day on.
    assert make(connection, "day", "2027-01-20 12:00Z") == 0
    assert make(connection, "day", "2027-01-25 00:00Z") == 3
    assert spans(connection)[4:] == [("2027-02-01", "2027-02-02")]
    assert make(connection, "day", "2027-01-27 12:00Z") == 3 * 2
    assert make(connection, "month", "2027-02-03 00:00Z") == 3 * 2
    assert spans(connection)[6:] == [
        ("2027-02-03", "2027-02-04"),
        ("2027-02-04", "2027-03-01"),
        ("2027-03-01", "2027-04-01"),
    ]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not of a year"):
        make(connection, "year", "2027-01-01Z")


def test_after_a_pause_only_what_is_missing_is_made(connection: psycopg.Connection[Any]) -> None:
    empty(connection)
    make(connection, "day", "2026-11-01 00:00Z")
    first = spans(connection)
    assert (first[0], first[-1]) == (("2026-10-31", "2026-11-01"), ("2026-11-08", "2026-11-09"))
    # Nothing is made of days that nobody wrote in; of a month, what is left of it.
    make(connection, "day", "2026-11-20 12:00Z")
    assert spans(connection)[9] == ("2026-11-20", "2026-11-21")
    make(connection, "month", "2027-01-10 00:00Z")
    assert ("2027-01-01", "2027-02-01") in spans(connection)


def test_a_partition_is_as_its_table(connection: psycopg.Connection[Any]) -> None:
    empty(connection)
    make_partitions(connection, "day")
    connection.execute(
        "CREATE TABLE today PARTITION OF batches FOR VALUES FROM ('2000-01-01Z') TO ('2000-01-02Z')"
    )
    shape = (
        "SELECT attname, atttypid, attnotnull, attidentity, attstorage,"
        " pg_get_expr(adbin, adrelid) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid"
        " AND adnum = attnum WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    )
    name = f"batches_{datetime.now(UTC):%Y_%m_%d}"
    assert connection.execute(shape, (name,)).fetchall() == (
        connection.execute(shape, ("today",)).fetchall()
    )
    for query in (
        "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass",
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = %s::regclass",
    ):
        assert connection.execute(query, (name,)).fetchall() == (
            connection.execute(query, ("today",)).fetchall()
        )


def test_a_dump_stops_nobody(pipeline: Pipeline, warehouse_settings: WarehouseSettings) -> None:
    """It reads the tables for hours; the month ends meanwhile."""
    with (
        pipeline.warehouse.connect(autocommit=False) as dump,
        pipeline.warehouse.connect() as reader,
    ):
        empty(reader)
        for table in TABLES:
            dump.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE".encode())
        reader.execute("SET statement_timeout = '10s'")
        pipeline.send([good_event(n) for n in range(10)])
        draining = threading.Thread(target=pipeline.drain)
        draining.start()
        while draining.is_alive():
            reader.execute("SELECT count(*) FROM scored_applications")
            draining.join(0.05)
        assert pipeline.stored()["scored_applications"] == [(0, n) for n in range(10)]
        assert migrate(warehouse_settings)


def test_a_run_only_looks_where_there_is_something(connection: psycopg.Connection[Any]) -> None:
    ensure_partitions(connection, "month")
    with connection.transaction():
        ensure_partitions(connection, "month")
        locks = connection.execute(
            "SELECT DISTINCT mode FROM pg_locks JOIN pg_class c ON c.oid = relation"
            " WHERE pid = pg_backend_pid() AND relname = ANY (%s)",
            ([*TABLES],),
        ).fetchall()
    assert {mode for (mode,) in locks} <= {"AccessShareLock"}


def test_a_change_of_the_tables_is_not_waited_for(
    pipeline: Pipeline, connection: psycopg.Connection[Any]
) -> None:
    later = "SELECT name FROM time_partitions WHERE starts > now()"
    for (name,) in connection.execute(later).fetchall():
        connection.execute(f"DROP TABLE {name}".encode())
    with pipeline.warehouse.connect(autocommit=False) as administrator:
        administrator.execute("LOCK TABLE batches IN SHARE ROW EXCLUSIVE MODE")
        # What is there is used; what is not, cannot be made.
        ensure_partitions(connection, "day")
        administrator.commit()
        empty(connection)
        administrator.execute("LOCK TABLE batches IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(TablesBusy, match="no time partition was made: end it, or try again"):
            ensure_partitions(connection, "day")


def test_the_job_makes_days_where_days_are_configured(
    warehouse_settings: WarehouseSettings, connection: psycopg.Connection[Any]
) -> None:
    empty(connection)
    daily = warehouse_settings.model_copy(update={"partition_span": "day"})
    job = defs.resolve_job_def("prepare_partitions")
    for _ in range(2):
        job.execute_in_process(resources=resources(lambda: Settings(warehouse=daily)))
    today = datetime.now(UTC).date()
    assert spans(connection) == [
        (f"{today + timedelta(days=n)}", f"{today + timedelta(days=n + 1)}") for n in range(-1, 8)
    ]


@pytest.mark.parametrize("span", ["day", "month"])
def test_a_new_database_has_the_configured_ones(database_url: str, span: Any) -> None:
    settings = WarehouseSettings(DATABASE_URL=database_url, CREDIT_RISK_PARTITION_SPAN=span)
    migrate(settings)
    with Warehouse(settings).session() as connection:
        assert len(spans(connection)) == {"day": 9, "month": 3}[span]
