"""Backup and restore, as docs/deployment.md tells it: pg_dump, then the broker or the archive."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from credit_risk_dagster.settings import KafkaSettings, LakeSettings, WarehouseSettings
from infra.embedded.servers import Postgres
from resources.lake import Lake
from resources.postgres.connection import Warehouse
from tests.pipelines.test_rebuild import run as rebuild
from tests.pipelines.test_rebuild import tables
from tests.platform.pipeline import Pipeline, good_event

RESTORED = "restored"


@pytest.fixture
def restored(postgres: Postgres) -> Iterator[WarehouseSettings]:
    """An empty database in place of the lost one."""
    postgres.create_database(RESTORED)
    yield WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri(RESTORED)))
    postgres.drop_database(RESTORED)


def test_a_dump_and_the_broker_or_the_archive_bring_everything_back(
    pipeline: Pipeline,
    postgres: Postgres,
    warehouse_settings: WarehouseSettings,
    restored: WarehouseSettings,
    kafka_settings: KafkaSettings,
    lake_settings: LakeSettings,
    tmp_path: Path,
) -> None:
    def loans(first: int, last: int) -> list[bytes | None]:
        return [*map(good_event, range(first, last)), b"not JSON", None]

    pipeline.send_and_drain(loans(0, 300))
    pipeline.archive()

    # The nightly backup. Afterwards the day goes on.
    dump = str(tmp_path / "credit_risk.dump")
    uri = warehouse_settings.database_url.get_secret_value()
    postgres.run_client("pg_dump", "--format=custom", f"--file={dump}", uri)
    pipeline.send_and_drain(loans(300, 500), partition=1)
    pipeline.archive()
    pipeline.send_and_drain(loans(500, 600))
    everything = tables(warehouse_settings, warehouse_settings.db_schema)
    assert len(everything["scored"]) == 600
    assert len(everything["rejected"]) == 6

    # The database is lost. The restored one has the offsets of the backup, so the next run of the
    # drain continues there: the broker has the rest.
    target = restored.database_url.get_secret_value()
    postgres.run_client("pg_restore", "--exit-on-error", f"--dbname={target}", dump)
    again = Pipeline(kafka_settings, Warehouse(restored), lambda: Lake(lake_settings))
    assert len(again.stored()["scored_applications"]) == 300
    report = again.drain()
    assert report.ranges == {0: (302, 404), 1: (0, 202)}
    assert tables(restored, restored.db_schema) == everything
    assert again.unreconciled() == 0

    # And the archive: it goes on where the table is, whatever the backup says.
    assert again.archive().rows == 102
    assert len(set(again.offsets())) == len(again.offsets()) == 606
    assert again.account().problems == []

    # Broker and database are lost: everything that was archived is in the bucket.
    rebuild(again, restored)
    assert tables(restored, "rebuilt") == everything
