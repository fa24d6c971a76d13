"""`credit-risk archive`: what copies the raw events to S3, and looks whether they are there."""

from datetime import datetime
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import out, print_error, print_json
from credit_risk_dagster.cli.options import Json, Since, Until, day, lake
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings

if TYPE_CHECKING:
    from resources.postgres.archive import ArchivedObject

app = typer.Typer()
archive_app = typer.Typer(help="What copies the raw events to S3.", no_args_is_help=True)
app.add_typer(archive_app, name="archive")


@archive_app.command("run")
def run() -> None:
    """Archive what is committed and not archived yet, as the scheduled run does."""
    import logging
    import uuid

    from credit_risk_dagster.pipelines.archive import archive
    from credit_risk_dagster.settings import ArchiveSettings
    from resources.kafka.broker import Broker
    from resources.postgres.connection import Warehouse

    report = archive(
        Broker(KafkaSettings()),
        Warehouse(WarehouseSettings()),
        lake(),
        ArchiveSettings(),
        run_id=uuid.uuid4().hex,
        log=logging.getLogger(__name__),
    )
    out.print(
        f"{report.rows:,} events in {len(report.objects):,} objects, {report.bytes:,} bytes"
        + ("; another run archives" if report.busy else "")
    )


@archive_app.command("ls")
def ls(since: Since = None, until: Until = None, json_: Json = False) -> None:
    """List what Postgres knows of the files, with what is lost and when each was verified."""
    objects = _archived(since, until)
    if json_:
        print_json([vars(o) for o in objects])
        return
    table = Table("key", "events", "lost", "bytes", "archived at", "verified at")
    for o in objects:
        nothing = f"partition {o.partition}, offsets {o.first_offset} to {o.next_offset - 1}: none"
        table.add_row(
            o.key or nothing,
            *(f"{o.rows:,}", f"{o.lost:,}", f"{o.bytes or 0:,}"),
            *(f"{at:%Y-%m-%d %H:%M:%S}" if at else "" for at in (o.archived_at, o.verified_at)),
        )
    out.print(table)


@archive_app.command("verify")
def verify(since: Since = None, until: Until = None) -> None:
    """Read objects back and compare their checksums; exits with 1 if one differs."""
    from credit_risk_dagster.pipelines.archive_check import verify_archive
    from resources.postgres.connection import Warehouse

    done = verify_archive(
        Warehouse(WarehouseSettings()), lake(), since=day(since), until=day(until)
    )
    for key, wrong in done.broken.items():
        print_error(f"{key} {wrong}")
    out.print(
        f"{done.objects - len(done.broken):,} of {done.objects:,} objects are what was stored "
        f"({done.bytes:,} bytes)"
    )
    raise typer.Exit(1 if done.broken else 0)


def _archived(since: datetime | None, until: datetime | None) -> "list[ArchivedObject]":
    from resources.postgres.archive import ArchiveLedger
    from resources.postgres.connection import Warehouse

    with Warehouse(WarehouseSettings()).session() as connection:
        return ArchiveLedger(connection).objects(since=day(since), until=day(until))
