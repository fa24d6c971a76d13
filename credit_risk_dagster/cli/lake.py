"""`credit-risk lake` and `rebuild`: the tables on S3, and tables made of them."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import (
    out,
    print_error,
    print_json,
    print_warning,
    progress,
)
from credit_risk_dagster.cli.options import (
    Json,
    PolicyFile,
    Since,
    Topic,
    Until,
    chosen_policy,
    day,
    kafka,
    lake,
    warehouse,
    warehouse_session,
)
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from credit_risk_dagster.domain.pd import PdModel
    from credit_risk_dagster.pipelines.lake_history import RawEvents
    from resources.lake_tables import LakeTable, Snapshot

app = typer.Typer()
lake_app = typer.Typer(
    help="The tables on S3: raw_events has each record as it came, decisions what became of it.",
    no_args_is_help=True,
)
app.add_typer(lake_app, name="lake")

At = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION|TIME",
        help="Read the table as it was: a version, as `lake history` lists them, or a time (UTC), "
        "as 2026-11-28 or 2026-11-28T19:00.",
    ),
]


def _raw_events(topic: str | None, at: str | None) -> "RawEvents":
    from credit_risk_dagster.pipelines.lake_history import RawEvents, moment

    return RawEvents(lake(), kafka(None, topic).topic, moment(at))


@app.command()
def rebuild(
    into: Annotated[
        str | None, typer.Option(help="Schema to write; created when it is missing.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="Write nothing: compare this policy with the decisions of then."),
    ] = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    topic: Topic = None,
    policy: PolicyFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Who gives the PD: active (the default; none, where the live schema is lost), "
            "none, or a model's id."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Score the lake's raw events again, without the broker, into another schema.

    It needs nothing but the table: Postgres may be lost, and the schema can take the lost one's
    place once CREDIT_RISK_SCHEMA names it. Partitions and offsets stay what they were. Days may be
    rebuilt in any order and side by side; what is there already is left alone.
    """
    import logging
    import uuid

    from credit_risk_dagster.pipelines.rebuild import rebuild as rebuild_schema

    if (into is None) == (compare is None):
        raise PlatformError("give either --into, a schema to write, or --compare, a policy")
    if compare is not None:
        _compare(_raw_events(topic, at), compare, since, until, json_)
        return
    assert into is not None  # noqa: S101 (one of the two is given)
    settings = WarehouseSettings()
    report = rebuild_schema(
        settings,
        _raw_events(topic, at),
        chosen_policy(policy),
        into=into,
        run_id=f"rebuild-{uuid.uuid4()}",
        model=_scorer(settings, model),
        since=day(since),
        until=day(until),
        log=logging.getLogger(__name__),
    )
    out.print(
        f"schema {report.schema}: {report.scored:,} scored, {report.rejected:,} rejected, "
        f"{counted(report.known, 'was', 'were')} there, {counted(report.gaps, 'gap')} by "
        f"{report.policy} from version {report.version}, {counted(report.speed, 'event')} a second"
    )


def _scorer(settings: WarehouseSettings, model: str | None) -> "PdModel | None":
    """Who gives the PD; nobody, where the live schema is lost and none was named."""
    from credit_risk_dagster.pipelines.modelling import chosen_model
    from resources.postgres.connection import NotMigrated, Warehouse

    try:
        return chosen_model(Warehouse(settings), model or "active")
    except NotMigrated:
        if model not in (None, "none"):
            raise
        return None


def _compare(raw: "RawEvents", policy: Path, since: Since, until: Until, json_: bool) -> None:
    import logging

    from credit_risk_dagster.domain.model.outcome import load_outcome
    from credit_risk_dagster.pipelines.rebuild_compare import compare_history
    from credit_risk_dagster.settings import ModelSettings

    found = compare_history(
        raw,
        chosen_policy(policy),
        load_outcome(ModelSettings().outcome),
        _observed(),
        since=day(since),
        until=day(until),
        log=logging.getLogger(__name__),
    ).told()
    if json_:
        print_json(found)
        return
    moves, tiers = found.pop("moves"), found.pop("tiers")
    _print([move for move in moves if move["applications"]], False)
    _print([tier for tier in tiers if tier["applications"]], False)
    _print([{"figure": name, "value": value} for name, value in found.items()], False)


def _observed() -> "pa.Table | None":
    """How loans went; None, and a warning, when the warehouse cannot say it."""
    from resources.postgres.connection import NotMigrated, WarehouseUnavailable
    from resources.postgres.outcomes import Outcomes

    try:
        session = warehouse_session("rebuild")
        with session as connection, connection.transaction():
            return Outcomes(connection).observed()
    except (WarehouseUnavailable, NotMigrated) as error:
        print_warning(f"no outcomes but those that applications carry: {error}")
        return None


@lake_app.command("query")
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT, over raw_events and decisions.")],
    at: At = None,
    topic: Topic = None,
    limit: Annotated[int, typer.Option(min=1, help="Most rows that are printed.")] = 1_000,
    json_: Json = False,
) -> None:
    """Ask the tables in SQL (DataFusion's, near to Postgres').

    Conditions on day and source leave whole files unread. Bytes are printed as text.

    Example: SELECT day, count(*) FROM raw_events GROUP BY day ORDER BY day
    """
    from credit_risk_dagster.pipelines.lake_history import ask, moment

    columns, rows, more = ask(lake(), kafka(None, topic).topic, sql, moment(at), limit)
    if json_:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        table = Table(*columns)
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row))
        out.print(table)
    if more:
        print_warning(f"there are more than {limit:,} rows: --limit has {limit}")


@lake_app.command("ls")
def ls(
    since: Since = None,
    until: Until = None,
    at: At = None,
    topic: Topic = None,
    files: Annotated[bool, typer.Option("--files", help="Each file, not each day.")] = False,
    json_: Json = False,
) -> None:
    """List what the tables have: files, rows and bytes of each day of each source."""
    from itertools import groupby

    found: list[dict[str, Any]] = []
    for name, table, snapshot in _tables(topic, at):
        listed = snapshot.files(since=day(since), until=day(until))
        if files:
            found += [
                {
                    "table": name,
                    "day": file.day,
                    "source": file.source,
                    "rows": file.rows,
                    "bytes": file.bytes,
                    "added_at": file.added_at,
                    "key": table.key(file.path),
                }
                for file in listed
            ]
            continue
        for (at_day, source), of_it in groupby(listed, key=lambda file: (file.day, file.source)):
            day_files = list(of_it)
            found.append(
                {
                    "table": name,
                    "day": at_day,
                    "source": source,
                    "rows": sum(file.rows for file in day_files),
                    "bytes": sum(file.bytes for file in day_files),
                    "files": len(day_files),
                }
            )
    _print(found, json_)


@lake_app.command("history")
def history(
    topic: Topic = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest commits of each table.")] = 20,
    json_: Json = False,
) -> None:
    """List the tables' commits: the versions that `--at` reads."""
    from datetime import UTC

    _print(
        [
            {
                "table": name,
                "version": commit.get("version"),
                "at": datetime.fromtimestamp(commit.get("timestamp", 0) / 1000, UTC),
                "operation": commit.get("operation", ""),
                "said": " ".join(
                    f"{key}={value}" for key, value in commit.items() if key not in _OF_DELTA
                ),
            }
            for name, table, _ in _tables(topic, None)
            for commit in table.history(limit)
        ],
        json_,
    )


_OF_DELTA = {
    *("version", "timestamp", "operation", "operationParameters", "operationMetrics"),
    *("clientVersion", "engineInfo", "readVersion", "isolationLevel", "isBlindAppend"),
}


@lake_app.command("get")
def get(
    directory: Annotated[Path, typer.Argument(help="Where to; keys become paths below it.")],
    at: At = None,
    topic: Topic = None,
) -> None:
    """Copy the tables into a folder, each file compared with its checksum.

    They are Delta tables there, too, for DuckDB, Polars or Spark without the bucket.
    """
    from credit_risk_dagster.pipelines.lake_history import copied

    for name, table, snapshot in _tables(topic, at):
        done = 0
        try:
            with progress(name, None) as show:
                for _ in copied(table, snapshot, directory):
                    done += 1
                    show(done)
        except OSError as error:
            said = f"{error.filename or directory}: {error.strerror}"
            raise PlatformError(f"{name} cannot be copied, {said}") from error
        out.print(f"{name}: {counted(done, 'file')} in {directory / table.root}")


@lake_app.command("compact")
def compact(topic: Topic = None, json_: Json = False) -> None:
    """Merge each day's small files, and delete what was replaced longer ago than
    CREDIT_RISK_ARCHIVE_KEEP_DAYS, as the daily job does. Safe at any time, also to interrupt."""
    import logging
    from datetime import timedelta

    from credit_risk_dagster.pipelines.lake_maintenance import maintain
    from credit_risk_dagster.settings import ArchiveSettings

    keep = timedelta(days=ArchiveSettings().keep_days)
    log = logging.getLogger(__name__)
    done = maintain(warehouse(), lake(), kafka(None, topic).topic, keep, log=log)
    if json_:
        print_json([{"table": table.table, **table.figures} for table in done])
        return
    # A row a figure: there are more of them than fit beside each other on a terminal.
    names = done[0].figures if done else {}
    _print([{"": name} | {t.table: t.figures[name] for t in done} for name in names], json_)


@lake_app.command("verify")
def verify(topic: Topic = None, since: Since = None, until: Until = None) -> None:
    """Read the tables' files back and compare their checksums; exits with 1 if one differs.

    All of them, whatever a day's verification may read: --since and --until ask for some days.
    """
    from credit_risk_dagster.pipelines.archive_check import verify_lake

    done = verify_lake(
        warehouse(),
        lake(),
        kafka(None, topic).topic,
        since=day(since),
        until=day(until),
    )
    for wrong in done.broken:
        print_error(wrong)
    out.print(
        f"{done.files - len(done.broken):,} of {done.files:,} files are what was stored "
        f"({done.bytes:,} bytes)"
    )
    raise typer.Exit(1 if done.broken else 0)


def _tables(topic: str | None, at: str | None) -> "list[tuple[str, LakeTable, Snapshot]]":
    from credit_risk_dagster.pipelines.lake_history import moment, there

    return there(lake(), kafka(None, topic).topic, moment(at))


def _print(rows: list[dict[str, Any]], json_: bool) -> None:
    if json_:
        print_json(rows)
        return
    table = Table(*(rows[0] if rows else ()))
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    out.print(table if rows else "nothing")


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.4f}"  # amounts, shares
    return f"{value:,}" if isinstance(value, int) else str(value)
