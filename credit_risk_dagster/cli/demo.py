"""`credit-risk demo` and `credit-risk up`: the platform on embedded servers."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from credit_risk_dagster.cli.console import INTERRUPTED, out
from credit_risk_dagster.cli.options import (
    After,
    CsvFile,
    Rate,
    Shifts,
    SkipBad,
    parsed_shifts,
)

app = typer.Typer()

StateDir = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Where the servers keep their data; default .credit-risk."),
]


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
    skip_bad: SkipBad = False,
    shift: Shifts = None,
    after: After = 0,
    empty: Annotated[
        bool, typer.Option("--empty", help="Start without six weeks of history.")
    ] = False,
    state_dir: StateDir = None,
) -> None:
    """Start everything, stream real loans through it, and show what happened.

    Starts Postgres, a broker, S3, Dagster and the dashboard on loopback, without Docker. On a
    terminal it keeps streaming and serving until Ctrl-C, and begins with six weeks of history where
    there is none. Exits with 0 only if every event of the summary is accounted for; ended before
    it, with 0 on a terminal, where that is how one ends it, and with 130 elsewhere.
    """
    from credit_risk_dagster.domain.shifts import shifted
    from credit_risk_dagster.pipelines.loan_files import csv_loans
    from credit_risk_dagster.pipelines.loans import builtin_loans, endless
    from infra.embedded.demo import run_demo

    loans = csv_loans(csv, skip_bad=skip_bad, again=True) if csv else builtin_loans()
    shifts, stay = parsed_shifts(shift), sys.stdout.isatty() and not exit_
    ok = run_demo(
        endless(loans),
        change=lambda loans: shifted(loans, shifts, after),
        events=events,
        rate=rate,
        stay=stay,
        history=stay and not empty,
        json_file=json_file,
        state_dir=state_dir,
        console=out,
    )
    if ok is None:
        raise typer.Exit(0 if stay else INTERRUPTED)
    raise typer.Exit(0 if ok else 1)


@app.command()
def up(state_dir: StateDir = None) -> None:
    """Start Postgres, a broker and S3 on loopback, until Ctrl-C.

    Prints `export` lines for another terminal, where `dagster dev`, `credit-risk produce` and the
    rest then use these servers.
    """
    from infra.embedded.demo import run_up

    run_up(state_dir=state_dir, console=out)
