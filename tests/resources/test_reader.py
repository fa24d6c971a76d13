"""The pool of connections that only read, on a real server."""

import time

import pytest
from pydantic import SecretStr

from credit_risk_dagster.settings import WarehouseSettings
from infra.embedded.servers import HOST, free_port
from resources.postgres.connection import Warehouse, WarehouseReader, WarehouseUnavailable

COUNT = "SELECT count(*) FROM sources"
ADD = "INSERT INTO sources (cluster_id, topic) VALUES ('cluster', 'topic')"


def test_a_transaction_sees_one_moment(warehouse_settings: WarehouseSettings) -> None:
    with (
        Warehouse(warehouse_settings).session() as writer,
        WarehouseReader(warehouse_settings, 1, 10.0) as pool,
        pool.session() as reader,
    ):
        with reader.transaction():
            assert reader.execute(COUNT).fetchone() == (0,)
            writer.execute(ADD)
            assert reader.execute(COUNT).fetchone() == (0,)
        assert reader.execute(COUNT).fetchone() == (1,)


def test_it_only_reads_and_not_for_long(warehouse_settings: WarehouseSettings) -> None:
    with WarehouseReader(warehouse_settings, 1, 2.0) as pool:
        refused = pytest.raises(WarehouseUnavailable, match="INSERT in a read-only transaction")
        with refused, pool.session() as reader:
            reader.execute(ADD)
        late = pytest.raises(WarehouseUnavailable, match="statement timeout")
        with late, pool.session() as reader:
            reader.execute("SELECT pg_sleep(60)")


def test_where_no_connection_is_free_the_wait_ends(warehouse_settings: WarehouseSettings) -> None:
    busy = pytest.raises(WarehouseUnavailable, match="couldn't get a connection")
    with WarehouseReader(warehouse_settings, 1, 2.0) as pool, pool.session(), busy, pool.session():
        pytest.fail("two share one connection")


def test_a_server_that_is_not_there_is_told_long_before_the_patience_ends() -> None:
    url = SecretStr(f"postgresql://user:hush@{HOST}:{free_port()}/platform")
    refused = pytest.raises(WarehouseUnavailable, match="refused")
    started = time.monotonic()
    pool = WarehouseReader(WarehouseSettings(DATABASE_URL=url), 1, 300.0)
    with pool, refused as told, pool.session():
        pytest.fail("a connection to nobody")
    assert time.monotonic() - started < 60
    assert "hush" not in str(told.value)
