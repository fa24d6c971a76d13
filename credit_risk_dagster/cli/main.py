"""The command line: `credit-risk --help`.

Every command imports what it needs when it runs: `--help` and `score` answer at once.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from credit_risk_dagster import settings as all_settings
from credit_risk_dagster.cli.api import app as api_app
from credit_risk_dagster.cli.baseline import app as baseline_app
from credit_risk_dagster.cli.model import app as model_app
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DEFAULT_POLICY, KafkaSettings, WarehouseSettings

if TYPE_CHECKING:
    from psycopg import Connection

    from credit_risk_dagster.domain.shifts import Shift
    from resources.lake import Lake
    from resources.postgres.archive import ArchivedObject

app = typer.Typer(
    help="Credit risk monitoring: loan applications from a Kafka topic, scored exactly once into "
    "Postgres by Dagster.\n\nServers and limits come from the environment or a `.env` file: see "
    "`.env.example`. `credit-risk demo` needs none of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
topic_app = typer.Typer(help="The topic that carries the applications.", no_args_is_help=True)
app.add_typer(topic_app, name="topic")
archive_app = typer.Typer(help="The raw events on S3.", no_args_is_help=True)
app.add_typer(archive_app, name="archive")
rejected_app = typer.Typer(help="Events that could not be scored.", no_args_is_help=True)
app.add_typer(rejected_app, name="rejected")
app.add_typer(model_app, name="model")
app.add_typer(api_app)
app.add_typer(baseline_app, name="baseline")

# What is printed has paths and messages in it: a [ in them is no markup.
out = Console(markup=False, highlight=False)
err = Console(stderr=True, markup=False, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Bootstrap = Annotated[
    str | None, typer.Option(help="Broker address; default KAFKA_BOOTSTRAP_SERVERS.")
]
Topic = Annotated[str | None, typer.Option(help="Topic; default KAFKA_TOPIC.")]
StateDir = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Where the servers keep their data; default .credit-risk."),
]
Rate = Annotated[float, typer.Option(min=0, max=1e6, help="Events a second; 0 is no limit.")]
CsvFile = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        help="A LendingClub CSV (plain, .gz or .zip), streamed; without it, the 10,000 built-in "
        "real loans of 2018.",
    ),
]
Shifts = Annotated[
    list[str] | None,
    typer.Option(
        "--shift",
        metavar="COLUMN=CHANGE",
        help="Change the loans: dti=+8, annual_inc=x0.8, purpose:small_business=x3 (three times as "
        "many of these). May be given several times.",
    ),
]
After = Annotated[int, typer.Option(min=0, help="So many come first before --shift begins.")]
Since = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (dt) of the archive.")
]
Until = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day (dt) of the archive.")
]
Reason = Annotated[
    str | None, typer.Option(help="Only with this reason code, e.g. missing_required:dti.")
]
SCORE_CHUNK_EVENTS = 5_000


def main() -> None:
    """Run the command line: one line for an expected error, and exit code 1."""
    try:
        app()
    except PlatformError as error:
        _print_error(str(error))
        sys.exit(1)
    except ValidationError as error:
        for problem in error.errors(include_input=False):
            variable = _variable(error.title, ".".join(map(str, problem["loc"])))
            message = problem["msg"].removeprefix("Value error, ")
            _print_error(f"{variable}: {message}" if variable else message)
        sys.exit(1)


@app.command()
def demo(
    events: Annotated[int, typer.Option(min=1, help="Events before the summary.")] = 2_000,
    rate: Rate = 10,
    exit_: Annotated[
        bool, typer.Option("--exit", help="Stop after the summary, also on a terminal.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the summary to this file.")
    ] = None,
    csv: CsvFile = None,
    shift: Shifts = None,
    after: After = 0,
    state_dir: StateDir = None,
) -> None:
    """Start everything, stream real loans through it, and show what happened.

    Starts Postgres, a broker, S3, Dagster and the dashboard on loopback, without Docker. On a
    terminal it keeps streaming and serving until Ctrl-C. Exits with 0 only if every event that was
    sent is accounted for.
    """
    from infra.embedded.demo import run_demo

    ok = run_demo(
        events=events,
        rate=rate,
        stay=sys.stdout.isatty() and not exit_,
        json_file=json_file,
        csv=csv,
        shifts=_shifts(shift),
        after=after,
        state_dir=state_dir,
        console=out,
    )
    raise typer.Exit(0 if ok else 1)


@app.command()
def up(state_dir: StateDir = None) -> None:
    """Start Postgres, a broker and S3 on loopback, until Ctrl-C.

    Prints `export` lines for another terminal, where `dagster dev`, `credit-risk produce` and the
    rest then use these servers.
    """
    from infra.embedded.demo import run_up

    run_up(state_dir=state_dir, console=out)


@app.command()
def produce(
    csv: CsvFile = None,
    rate: Rate = 10,
    max_: Annotated[int | None, typer.Option("--max", min=1, help="Stop after so many.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end.")] = False,
    shift: Shifts = None,
    after: After = 0,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Replay LendingClub loans into the topic, which is created if it is missing."""
    from credit_risk_dagster.domain.shifts import shifted
    from credit_risk_dagster.pipelines import producer

    settings = _kafka(bootstrap, topic)
    shifts = _shifts(shift)
    loans = producer.csv_loans(csv) if csv else producer.builtin_loans()
    producer.ensure_topic(settings)
    total = None if loop else (max_ if csv or max_ else producer.BUILTIN_LOANS)
    if loop:
        loans = producer.endless(loans)
    with _progress("sent", total) as show:
        produced = producer.produce(
            settings, shifted(loans, shifts, after), rate=rate, max_events=max_, on_progress=show
        )
    out.print(
        f"{produced.acknowledged:,} events in topic {settings.topic}, "
        f"{produced.acknowledged / max(produced.seconds, 1e-9):,.0f} a second",
        soft_wrap=True,
    )


@app.command()
def migrate() -> None:
    """Bring the schema in Postgres to the newest version. Safe to run at any time."""
    from resources.postgres.migrate import migrate as migrate_schema

    settings = WarehouseSettings()
    version = migrate_schema(settings)
    out.print(f"schema {settings.db_schema} is at version {version}", soft_wrap=True)


@app.command("grant-reader")
def grant_reader(
    role: Annotated[
        str | None, typer.Argument(help="Role; default is the user of DASHBOARD_DATABASE_URL.")
    ] = None,
) -> None:
    """Let a role read the tables and record reviews, nothing else; personal data stays hidden.

    A role that is missing is created, if DATABASE_URL's user may do that, with the password that
    DASHBOARD_DATABASE_URL has for it. `migrate` does the same for that variable's user.
    """
    from resources.postgres import readers

    settings = WarehouseSettings()
    user, password = readers.dashboard_user(settings)
    name = role or user
    if name is None:
        raise PlatformError("name a role, or set DASHBOARD_DATABASE_URL with a user in it")
    created = readers.grant_reader(settings, name, password if name == user else None)
    done = "is created, and" if created else "now"
    out.print(f"role {name} {done} reads schema {settings.db_schema}", soft_wrap=True)


@app.command()
def status(json_: Json = False) -> None:
    """Show, for each partition, what is committed and what is still to do."""
    from credit_risk_dagster.pipelines.status import partition_status

    found = partition_status()
    if json_:
        _print_json(found)
        return
    table = Table(title=f"{found['topic']} on cluster {found['cluster_id']}", title_justify="left")
    names = ("partition", "first", "committed", "end", "lag", "scored", "rejected", "gaps")
    for name in names:
        table.add_column(name, justify="right")
    for row in found["partitions"]:
        table.add_row(*(f"{row[name]:,}" for name in names))
    out.print(table)


@app.command()
def score(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON lines, one application a line; - is stdin.")
    ],
    policy: Annotated[Path, typer.Option(help="Credit policy (YAML).")] = DEFAULT_POLICY,
    model: Annotated[
        Path | None, typer.Option(help="Model (JSON of `credit-risk model export`), for the PD.")
    ] = None,
) -> None:
    """Score applications from a file: one JSON answer for each line, in order. Needs no server."""
    from itertools import islice

    import msgspec

    from credit_risk_dagster.domain.pd import load_model_file
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.domain.scoring import answers

    rules = load_policy(policy)
    estimator = load_model_file(model) if model else None
    encoder = msgspec.json.Encoder()
    with _open_lines(file) as lines, _progress("scored", None) as show:
        done = 0
        while chunk := [line.rstrip(b"\r\n") for line in islice(lines, SCORE_CHUNK_EVENTS)]:
            sys.stdout.buffer.write(encoder.encode_lines(answers(chunk, rules, estimator)))
            done += len(chunk)
            show(done)
    sys.stdout.buffer.flush()


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
    policy: Annotated[
        Path | None, typer.Option(help="Credit policy (YAML); default CREDIT_RISK_POLICY_FILE.")
    ] = None,
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

    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.pipelines.modelling import chosen_model
    from credit_risk_dagster.pipelines.rebuild import rebuild as rebuild_schema
    from credit_risk_dagster.settings import DrainSettings
    from resources.postgres.connection import Warehouse

    if not from_archive:
        raise PlatformError("say --from-archive: there is nothing else to rebuild from")
    report = rebuild_schema(
        WarehouseSettings(),
        _lake(),
        load_policy(policy or DrainSettings().policy_file),
        into=into,
        run_id=f"rebuild-{uuid.uuid4()}",
        from_bucket=from_bucket,
        model=chosen_model(
            Warehouse(WarehouseSettings()), model or ("none" if from_bucket else "active")
        ),
        since=_day(since),
        until=_day(until),
        log=logging.getLogger(__name__),
    )
    out.print(
        f"schema {report.schema}: {report.scored:,} scored, {report.rejected:,} rejected, "
        f"{report.gaps:,} gaps by {report.policy}, "
        f"{(report.scored + report.rejected) / max(report.seconds, 1e-9):,.0f} events a second"
    )


@topic_app.command("create")
def topic_create(bootstrap: Bootstrap = None, topic: Topic = None) -> None:
    """Create the topic when it is missing, with KAFKA_PARTITIONS partitions. Safe at any time."""
    from credit_risk_dagster.pipelines.producer import ensure_topic

    settings = _kafka(bootstrap, topic)
    partitions = ensure_topic(settings)
    out.print(f"topic {settings.topic} has {partitions} partitions", soft_wrap=True)


@topic_app.command("reset")
def topic_reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Delete the topic with all its events, create it again, and start a new epoch."""
    from credit_risk_dagster.pipelines.producer import reset_topic
    from resources.postgres.connection import Warehouse

    settings = _kafka(bootstrap, topic)
    if not yes:
        typer.confirm(
            f"Delete topic {settings.topic} on {settings.bootstrap_servers} with all its events?",
            abort=True,
        )
    with Warehouse(WarehouseSettings()).session() as connection:
        # If that failed, the topic stays as it is.
        partitions = reset_topic(settings)
        out.print(f"topic {settings.topic} is empty, with {partitions} partitions", soft_wrap=True)
        _new_epoch(connection, settings)


@topic_app.command("new-epoch")
def topic_new_epoch(bootstrap: Bootstrap = None, topic: Topic = None) -> None:
    """Start over with a topic that somebody recreated or truncated.

    What was scored stays; the topic counts as a new source, from its first offset.
    """
    from resources.postgres.connection import Warehouse

    settings = _kafka(bootstrap, topic)
    with Warehouse(WarehouseSettings()).session() as connection:
        _new_epoch(connection, settings)


@archive_app.command("run")
def archive_run() -> None:
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
        _lake(),
        ArchiveSettings(),
        run_id=uuid.uuid4().hex,
        log=logging.getLogger(__name__),
    )
    out.print(
        f"{report.rows:,} events in {len(report.objects):,} objects, {report.bytes:,} bytes"
        + "".join(f"; partition {p} is archived by another run" for p in report.busy)
    )


@archive_app.command("ls")
def archive_ls(since: Since = None, until: Until = None, json_: Json = False) -> None:
    """List the archived objects."""
    objects = _archived(since, until)
    if json_:
        _print_json([vars(o) for o in objects])
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
def archive_verify(since: Since = None, until: Until = None) -> None:
    """Read objects back and compare their checksums; exits with 1 if one differs."""
    from credit_risk_dagster.pipelines.archive import verify_archive
    from resources.postgres.connection import Warehouse

    done = verify_archive(
        Warehouse(WarehouseSettings()), _lake(), since=_day(since), until=_day(until)
    )
    for key, wrong in done.broken.items():
        _print_error(f"{key} {wrong}")
    out.print(
        f"{done.objects - len(done.broken):,} of {done.objects:,} objects are what was stored "
        f"({done.bytes:,} bytes)"
    )
    raise typer.Exit(1 if done.broken else 0)


@archive_app.command("get")
def archive_get(
    directory: Annotated[Path, typer.Argument(help="Where to; keys become paths below it.")],
    since: Since = None,
    until: Until = None,
) -> None:
    """Download objects under their keys, each compared with its checksum."""
    from shutil import copyfileobj

    from credit_risk_dagster.pipelines.archive import fetched

    lake = _lake()
    objects = [o for o in _archived(since, until) if o.key]
    with _progress("downloaded", len(objects)) as show:
        for done, recorded in enumerate(objects, 1):
            path = directory / (recorded.key or "")
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            with fetched(lake, recorded) as content, partial.open("wb") as file:
                copyfileobj(content, file)
            partial.replace(path)
            show(done)
    out.print(f"{len(objects):,} objects in {directory}")


def _archived(since: datetime | None, until: datetime | None) -> "list[ArchivedObject]":
    from resources.postgres.archive import ArchiveLedger
    from resources.postgres.connection import Warehouse

    with Warehouse(WarehouseSettings()).session() as connection:
        return ArchiveLedger(connection).objects(since=_day(since), until=_day(until))


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


def _lake() -> "Lake":
    from credit_risk_dagster.settings import LakeSettings
    from resources.lake import Lake

    return Lake(LakeSettings())


@rejected_app.command("ls")
def rejected_ls(
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="Most events.")] = 20,
) -> None:
    """Count the rejected events by reason, and list the first of them."""
    from resources.postgres.connection import Warehouse, fetch_all
    from resources.postgres.rejected import RejectedEvents

    with Warehouse(WarehouseSettings()).session() as connection:
        counts = fetch_all(
            connection,
            "SELECT reason, count(*) AS events, max(rejected_at) AS last FROM rejected_events"
            " GROUP BY reason ORDER BY 2 DESC",
        )
        events = RejectedEvents(connection).page(reason=reason, limit=limit)
    totals = Table("reason", "events", "last")
    for row in counts:
        totals.add_row(row["reason"], f"{row['events']:,}", f"{row['last']:%Y-%m-%d %H:%M:%S}")
    out.print(totals)
    table = Table("source", "partition", "offset", "rejected at", "reason", "value")
    for event in events:
        table.add_row(
            *(str(event.source_id), str(event.partition), str(event.offset)),
            *(f"{event.rejected_at:%Y-%m-%d %H:%M:%S}", event.reason, _preview(event.value)),
        )
    out.print(table)


@rejected_app.command("show")
def rejected_show(
    partition: Annotated[int, typer.Argument(help="Partition of the event.")],
    offset: Annotated[int, typer.Argument(help="Offset of the event.")],
) -> None:
    """Write an event's exact bytes to stdout, and where it came from to stderr."""
    from resources.postgres.connection import Warehouse
    from resources.postgres.rejected import RejectedEvents

    with Warehouse(WarehouseSettings()).session() as connection:
        events = RejectedEvents(connection).page(partition=partition, offset=offset)
    if not events:
        raise PlatformError(f"no rejected event has partition {partition} and offset {offset}")
    event = events[-1]  # of several sources, the newest
    err.print(
        f"source {event.source_id}, partition {partition}, offset {offset}: {event.reason}, "
        f"rejected at {event.rejected_at:%Y-%m-%d %H:%M:%S}, batch {event.batch_id}, "
        f"key {_preview(event.key)}",
        highlight=False,
        markup=False,
    )
    sys.stdout.buffer.write(event.value or b"")
    sys.stdout.buffer.flush()


@rejected_app.command("redrive")
def rejected_redrive(
    reason: Reason = None,
    partition: Annotated[int | None, typer.Option(help="Only of this partition.")] = None,
    offset: Annotated[int | None, typer.Option(help="Only at this offset.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Credit policy (YAML); default CREDIT_RISK_POLICY_FILE.")
    ] = None,
) -> None:
    """Score rejected events again; those that can be scored now move to the scored ones."""
    import uuid

    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.pipelines.redrive import redrive
    from credit_risk_dagster.settings import DrainSettings
    from resources.postgres.connection import Warehouse

    report = redrive(
        Warehouse(WarehouseSettings()),
        load_policy(policy or DrainSettings().policy_file),
        run_id=f"redrive-{uuid.uuid4()}",
        reason=reason,
        partition=partition,
        offset=offset,
    )
    out.print(f"{report.moved.total():,} of {report.examined:,} rejected events are now scored")


def _preview(value: bytes | None) -> str:
    return "" if value is None else repr(value[:60])[2:-1] + ("..." if len(value) > 60 else "")


def _new_epoch(connection: "Connection[Any]", settings: KafkaSettings) -> None:
    from resources.kafka.broker import Broker
    from resources.postgres.sources import Sources

    state = Broker(settings).inspect()
    epoch = Sources(connection).new_epoch(state)
    out.print(f"topic {state.topic} on cluster {state.cluster_id}: epoch {epoch}", soft_wrap=True)


def _kafka(bootstrap: str | None, topic: str | None) -> KafkaSettings:
    given: dict[str, Any] = {"bootstrap_servers": bootstrap, "topic": topic}
    return KafkaSettings(**{name: value for name, value in given.items() if value})


def _shifts(texts: list[str] | None) -> "list[Shift]":
    from credit_risk_dagster.domain.shifts import parse_shift

    return [parse_shift(text) for text in texts or ()]


@contextmanager
def _open_lines(file: str) -> Iterator[Iterator[bytes]]:
    if file == "-":
        yield iter(sys.stdin.buffer)
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 (closed below; only opening may fail here)
    except OSError as error:
        raise PlatformError(f"cannot read {file}: {error.strerror}") from error
    with stream:
        yield iter(stream)


@contextmanager
def _progress(verb: str, total: int | None) -> Iterator[Any]:
    """A progress bar on stderr; yields the function that takes how many are done."""
    with Progress(
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as progress:
        task = progress.add_task(verb, total=total, rate="")

        def show(done: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, rate=f"{speed:,.0f}/s" if speed else "")

        yield show


def _print_json(value: Any) -> None:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def _print_error(message: str) -> None:
    err.print(Text("error: ", "red").append(message, ""), soft_wrap=True)


def _variable(title: str, name: str) -> str:
    """The environment variable of a settings field; empty for an error about several."""
    config = getattr(getattr(all_settings, title, None), "model_config", {})
    return (config.get("env_prefix", "") + name).upper() if name else ""


if __name__ == "__main__":
    main()
