"""Backup and restore, as docs/deployment.md tells it: pg_dump, then the broker or the archive."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from credit_risk_dagster.settings import (
    PROJECT_ROOT,
    KafkaSettings,
    LakeSettings,
    WarehouseSettings,
)
from infra.embedded.servers import Postgres
from resources.lake import Lake
from resources.postgres.connection import Warehouse
from tests.pipelines.test_rebuild import run as rebuild
from tests.pipelines.test_rebuild import tables
from tests.platform.compose import INFRA
from tests.platform.pipeline import Pipeline, good_event

RESTORED = "restored"
RESTORE = ("pg_restore", "--clean", "--if-exists", "--exit-on-error")


@pytest.fixture
def restored(postgres: Postgres) -> Iterator[WarehouseSettings]:
    """A database in place of the lost one, as infra/postgres/roles.sql makes it."""
    postgres.create_database(RESTORED)
    postgres.run_client("psql", "-c", "CREATE SCHEMA credit_risk", postgres.uri(RESTORED))
    yield WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri(RESTORED)))
    postgres.drop_database(RESTORED)


def back_up(postgres: Postgres, settings: WarehouseSettings, folder: Path) -> str:
    """The file that the service `backup` of the compose file makes; older ones are gone."""
    for name in ("credit_risk-20200101T000000Z.dump", "credit_risk-20200102T000000Z.dump"):
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    programs = postgres.run_client("pg_config", "--bindir").strip()
    subprocess.run(
        ["sh", INFRA / "postgres" / "backup.sh", "once"],
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "BACKUP_FOLDER": str(folder),
            "BACKUP_KEEP": "1",
        },
        check=True,
    )
    (dump,) = folder.iterdir()
    return str(dump)


def test_the_documents_restore_is_the_rehearsed_one() -> None:
    text = (PROJECT_ROOT / "docs" / "deployment.md").read_text()
    assert f"{' '.join(RESTORE)} --dbname=" in text


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

    # The nightly backup. Afterwards the day goes on, and the archive is run a few times.
    dump = back_up(postgres, warehouse_settings, tmp_path)
    pipeline.send_and_drain(loans(300, 400), partition=1)
    pipeline.archive()
    pipeline.send_and_drain(loans(400, 450))
    pipeline.archive()
    pipeline.send_and_drain(loans(450, 500), partition=1)
    pipeline.archive()
    pipeline.send_and_drain(loans(500, 600))
    everything = tables(warehouse_settings, warehouse_settings.db_schema)
    assert len(everything["scored"]) == 600
    assert len(everything["rejected"]) == 10

    # The database is lost. The restored one has the offsets of the backup, so the next run of the
    # drain continues there: the broker has the rest.
    target = restored.database_url.get_secret_value()
    postgres.run_client(*RESTORE, f"--dbname={target}", dump)
    again = Pipeline(kafka_settings, Warehouse(restored), lambda: Lake(lake_settings))
    assert len(again.stored()["scored_applications"]) == 300
    report = again.drain()
    assert report.ranges == {0: (302, 456), 1: (0, 154)}
    assert tables(restored, restored.db_schema) == everything
    assert again.unreconciled() == 0

    # And the archive: it goes on where the table is, whatever the backup says.
    assert again.archive().rows == 102
    assert len(set(again.offsets())) == len(again.offsets()) == 610
    assert again.account().problems == []

    # Broker and database are lost: everything that was archived is in the bucket.
    rebuild(again, restored)
    assert tables(restored, "rebuilt") == everything
