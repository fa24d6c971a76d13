"""`credit-risk archive` and `rebuild`: the raw events on S3, and tables made of them."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import out, print_error, print_json, progress
from credit_risk_dagster.cli.options import Json, PolicyFile, Since, Until, chosen_policy, day, lake
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings

if TYPE_CHECKING:
    from resources.postgres.archive import ArchivedObject

app = typer.Typer()
archive_app = typer.Typer(help="The raw events on S3.", no_args_is_help=True)
app.add_typer(archive_app, name="archive")


@app.command()
def rebuild(
    into: Annotated[str, typer.Option(help="Schema to write; created when it is missing.")],
    from_archive: Annotated[
        bool, typer.Option("--from-archive", help="Read the events from S3, the only source.")
    ] = False,
    from_bucket: Annotated[
        bool,
        typer.Option(
            "--from-bucket",
            help="Find the objects by listing the bucket, for when Postgres is lost. The schema "
            "can then take the lost one's place: set CREDIT_RISK_SCHEMA.",
        ),
    ] = False,
    since: Since = None,
    until: Until = None,
    policy: PolicyFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Who gives the PD: active (the default), none (with --from-bucket), or a model's "
            "id."
        ),
    ] = None,
) -> None:
    """Score the archived events again, without the broker, into another schema.

    Partitions and offsets stay what they were. One that was interrupted goes on where it ended.
    """
    import logging
    import uuid

    from credit_risk_dagster.pipelines.modelling import chosen_model
    from credit_risk_dagster.pipelines.rebuild import rebuild as rebuild_schema
    from resources.postgres.connection import Warehouse

    if not from_archive:
        raise PlatformError("say --from-archive: there is nothing else to rebuild from")
    report = rebuild_schema(
        WarehouseSettings(),
        lake(),
        chosen_policy(policy),
        into=into,
        run_id=f"rebuild-{uuid.uuid4()}",
        from_bucket=from_bucket,
        model=chosen_model(
            Warehouse(WarehouseSettings()), model or ("none" if from_bucket else "active")
        ),
        since=day(since),
        until=day(until),
        log=logging.getLogger(__name__),
    )
    out.print(
        f"schema {report.schema}: {report.scored:,} scored, {report.rejected:,} rejected, "
        f"{report.gaps:,} gaps by {report.policy}, {report.speed:,.0f} events a second"
    )


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
    """List the archived objects."""
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


@archive_app.command("get")
def get(
    directory: Annotated[Path, typer.Argument(help="Where to; keys become paths below it.")],
    since: Since = None,
    until: Until = None,
) -> None:
    """Download objects under their keys, each compared with its checksum."""
    from shutil import copyfileobj

    from credit_risk_dagster.pipelines.archive_check import fetched

    bucket = lake()
    objects = [o for o in _archived(since, until) if o.key]
    with progress("downloaded", len(objects)) as show:
        for done, recorded in enumerate(objects, 1):
            path = directory / (recorded.key or "")
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            with fetched(bucket, recorded) as content, partial.open("wb") as file:
                copyfileobj(content, file)
            partial.replace(path)
            show(done)
    out.print(f"{len(objects):,} objects in {directory}")


def _archived(since: datetime | None, until: datetime | None) -> "list[ArchivedObject]":
    from resources.postgres.archive import ArchiveLedger
    from resources.postgres.connection import Warehouse

    with Warehouse(WarehouseSettings()).session() as connection:
        return ArchiveLedger(connection).objects(since=day(since), until=day(until))
