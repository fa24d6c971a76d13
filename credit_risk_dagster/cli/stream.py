"""`credit-risk produce`, `status` and `score`: loans into the stream, and through the policy."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import (
    INTERRUPTED,
    out,
    print_json,
    progress,
    stopped_by_interrupt,
)
from credit_risk_dagster.cli.options import (
    After,
    Bootstrap,
    CsvFile,
    Json,
    Rate,
    Shifts,
    SkipBad,
    Topic,
    kafka,
    parsed_shifts,
    told,
    warehouse,
)
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.settings import DEFAULT_POLICY

if TYPE_CHECKING:
    pass

app = typer.Typer()

SCORE_CHUNK_EVENTS = 5_000


@app.command()
def produce(
    csv: CsvFile = None,
    skip_bad: SkipBad = False,
    rate: Rate = 10,
    max_: Annotated[int | None, typer.Option("--max", min=1, help="Stop after so many.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end.")] = False,
    shift: Shifts = None,
    after: After = 0,
    outcomes: Annotated[
        bool,
        typer.Option("--outcomes", help="And into Postgres how they went, once they are sent."),
    ] = False,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Replay LendingClub loans into the topic, which is created if it is missing.

    An application has no column that is known only after the decision, such as loan_status. Ctrl-C
    stops it after what is on its way.
    """
    from credit_risk_dagster.domain.shifts import shifted
    from credit_risk_dagster.pipelines.loan_files import csv_loans
    from credit_risk_dagster.pipelines.loans import BUILTIN_LOANS, Row, builtin_loans, endless
    from credit_risk_dagster.pipelines.outcomes import OutcomesLater
    from credit_risk_dagster.pipelines.producer import produce as send
    from resources.kafka.topics import ensure_topic

    settings = kafka(bootstrap, topic)
    shifts = parsed_shifts(shift)
    read: Iterable[Row] = csv_loans(csv, skip_bad=skip_bad, again=loop) if csv else builtin_loans()
    ensure_topic(settings)
    total = None if loop else (max_ if csv or max_ else BUILTIN_LOANS)
    loans: Iterable[Row] = shifted(endless(read) if loop else read, shifts, after)
    later = None
    if outcomes:
        loans = later = OutcomesLater(loans, warehouse())
    with stopped_by_interrupt() as stop, progress("sent", total) as show:
        produced = send(settings, loans, rate=rate, max_events=max_, on_progress=show, stop=stop)
    if later:
        later.flush()
    stopped = stop.is_set()
    added = f"; {counted(later.added, 'outcome')} added" if later else ""
    out.print(
        f"{'stopped: ' if stopped else ''}{counted(produced.acknowledged, 'event')} in topic "
        f"{settings.topic}, {produced.acknowledged / max(produced.seconds, 1e-9):,.0f} a second"
        f"{added}{told(read)}",
        soft_wrap=True,
    )
    if stopped and not loop:
        raise typer.Exit(INTERRUPTED)


@app.command()
def status(json_: Json = False) -> None:
    """Show, for each partition, what is committed and what is still to do; and which policy
    decides."""
    from credit_risk_dagster.pipelines.status import clock_of_timestamps, partition_status

    found = partition_status()
    found["timestamps_by"] = clock_of_timestamps()
    if json_:
        print_json(found)
        return
    table = Table(title=f"{found['topic']} on cluster {found['cluster_id']}", title_justify="left")
    names = ["partition", "first", "committed", "end", "lag", "scored", "rejected", "gaps", "lost"]
    if any(row["forgotten"] for row in found["partitions"]):
        names.append("forgotten")
    for name in names:
        table.add_column(name, justify="right")
    for row in found["partitions"]:
        table.add_row(*(f"{row[name]:,}" for name in names))
    out.print(table)
    policy = found["policy"]
    said = f"policy {policy['deciding']} decides" if policy["deciding"] else "no policy decides"
    out.print(f"{said}: {policy['note']}" if policy["note"] else said, soft_wrap=True)
    if found["timestamps_by"] == "producer":
        out.print(
            "latency is measured from the producers' clocks: the topic has "
            "message.timestamp.type=CreateTime",
            soft_wrap=True,
        )
    for row in found["partitions"]:
        if held := row["open_transaction"]:
            out.print(f"partition {row['partition']}: {held}", soft_wrap=True)
    if lost := found["lost_unacknowledged"]:
        out.print(
            f"{counted(lost, 'event is', 'events are')} lost, and nobody acknowledged it: "
            "`credit-risk lost ls`",
            soft_wrap=True,
        )


@app.command()
def score(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSON (lines, array, objects) or a CSV of loans, also compressed; - is stdin.",
        ),
    ],
    policy: Annotated[Path, typer.Option(help="Credit policy (YAML).")] = DEFAULT_POLICY,
    model: Annotated[
        Path | None, typer.Option(help="Model (JSON of `credit-risk model export`), for the PD.")
    ] = None,
) -> None:
    """Score applications from a file: one JSON answer for each, in order. Needs no server."""
    from itertools import islice

    import msgspec

    from credit_risk_dagster.domain.pd import load_model_file
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.domain.scoring import answers
    from credit_risk_dagster.pipelines.application_files import read_applications

    rules = load_policy(policy)
    estimator = load_model_file(model) if model else None
    encoder = msgspec.json.Encoder()
    found = read_applications(file)
    with progress("scored", None) as show:
        done = 0
        while chunk := list(islice(found, SCORE_CHUNK_EVENTS)):
            sys.stdout.buffer.write(encoder.encode_lines(answers(chunk, rules, estimator)))
            done += len(chunk)
            show(done)
    sys.stdout.buffer.flush()
