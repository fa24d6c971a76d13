"""The command line: `credit-risk --help`.

Every command imports what it needs when it runs: `--help` and `score` answer at once.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DEFAULT_POLICY, KafkaSettings, WarehouseSettings

if TYPE_CHECKING:
    from resources.warehouse import Ledger

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
    state_dir: StateDir = None,
) -> None:
    """Start everything, stream real loans through it, and show what happened.

    Starts Postgres, a broker, S3, Dagster and the dashboard on loopback, without Docker. On a
    terminal it keeps streaming and serving until Ctrl-C. Exits with 0 only if every event that was
    sent is accounted for.
    """
    from credit_risk_dagster.demo import run_demo

    ok = run_demo(
        events=events,
        rate=rate,
        stay=sys.stdout.isatty() and not exit_,
        json_file=json_file,
        csv=csv,
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
    from credit_risk_dagster.demo import run_up

    run_up(state_dir=state_dir, console=out)


@app.command()
def produce(
    csv: CsvFile = None,
    rate: Rate = 10,
    max_: Annotated[int | None, typer.Option("--max", min=1, help="Stop after so many.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end.")] = False,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Replay LendingClub loans into the topic, which is created if it is missing."""
    from credit_risk_dagster import producer

    settings = _kafka(bootstrap, topic)
    chunks = producer.csv_loans(csv) if csv else producer.builtin_loans()
    producer.ensure_topic(settings)
    total = None if loop else (max_ if csv or max_ else producer.BUILTIN_LOANS)
    with _progress("sent", total) as show:
        produced = producer.produce(
            settings, chunks, rate=rate, max_events=max_, loop=loop, on_progress=show
        )
    out.print(
        f"{produced.acknowledged:,} events in topic {settings.topic}, "
        f"{produced.acknowledged / max(produced.seconds, 1e-9):,.0f} a second",
        soft_wrap=True,
    )


@app.command()
def migrate() -> None:
    """Bring the schema in Postgres to the newest version. Safe to run at any time."""
    from resources.warehouse import migrate as migrate_schema

    settings = WarehouseSettings()
    version = migrate_schema(settings)
    out.print(f"schema {settings.db_schema} is at version {version}", soft_wrap=True)


@app.command()
def status(json_: Json = False) -> None:
    """Show, for each partition, what is committed and what is still to do."""
    from credit_risk_dagster.status import partition_status

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
) -> None:
    """Score applications from a file: one JSON answer for each line, in order. Needs no server."""
    from itertools import islice

    import msgspec

    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.domain.scoring import answers

    rules = load_policy(policy)
    encoder = msgspec.json.Encoder()
    with _open_lines(file) as lines, _progress("scored", None) as show:
        done = 0
        while chunk := [line.rstrip(b"\r\n") for line in islice(lines, SCORE_CHUNK_EVENTS)]:
            sys.stdout.buffer.write(encoder.encode_lines(answers(chunk, rules)))
            done += len(chunk)
            show(done)
    sys.stdout.buffer.flush()


@topic_app.command("reset")
def topic_reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Delete the topic with all its events, create it again, and start a new epoch."""
    from credit_risk_dagster.producer import reset_topic

    settings = _kafka(bootstrap, topic)
    if not yes:
        typer.confirm(
            f"Delete topic {settings.topic} on {settings.bootstrap_servers} with all its events?",
            abort=True,
        )
    with _ledger() as ledger:  # if that fails, the topic stays as it is
        partitions = reset_topic(settings)
        out.print(f"topic {settings.topic} is empty, with {partitions} partitions", soft_wrap=True)
        _new_epoch(ledger, settings)


@topic_app.command("new-epoch")
def topic_new_epoch(bootstrap: Bootstrap = None, topic: Topic = None) -> None:
    """Start over with a topic that somebody recreated or truncated.

    What was scored stays; the topic counts as a new source, from its first offset.
    """
    settings = _kafka(bootstrap, topic)
    with _ledger() as ledger:
        _new_epoch(ledger, settings)


def _new_epoch(ledger: "Ledger", settings: KafkaSettings) -> None:
    from resources.broker import Broker

    state = Broker(settings).inspect()
    epoch = ledger.new_epoch(state)
    out.print(f"topic {state.topic} on cluster {state.cluster_id}: epoch {epoch}", soft_wrap=True)


@contextmanager
def _ledger() -> Iterator["Ledger"]:
    """The ledger, of which it is sure that it has its tables."""
    from resources.warehouse import Warehouse

    with Warehouse(WarehouseSettings()).ledger() as ledger:
        ledger.progress(0)
        yield ledger


def _kafka(bootstrap: str | None, topic: str | None) -> KafkaSettings:
    given: dict[str, Any] = {"bootstrap_servers": bootstrap, "topic": topic}
    return KafkaSettings(**{name: value for name, value in given.items() if value})


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
    prefixes = {"KafkaSettings": "KAFKA_", "DrainSettings": "CREDIT_RISK_"}
    return (prefixes.get(title, "") + name).upper() if name else ""
