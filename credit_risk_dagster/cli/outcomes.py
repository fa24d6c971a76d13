"""`credit-risk outcomes`: what became of the loans."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import SkipBad, warehouse
from credit_risk_dagster.domain.words import counted

app = typer.Typer(help="What became of the loans, after the decision.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """What became of the loans, after the decision."""


@app.command()
def load(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="CSV, plain or compressed, or Parquet; s3://bucket/key; - is stdin.",
        ),
    ],
    source: Annotated[
        str | None, typer.Option(help="Who tells it; default the column source, or the file.")
    ] = None,
    observed_at: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="When it was so, of rows that do not say it themselves."
        ),
    ] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Load outcomes: loan_id, observed_at, status, days_past_due, balance, recovered (or
    LendingClub's id, last_credit_pull_d, loan_status, out_prncp, recoveries).

    Nothing is scored again. Rows that are known change nothing, and another value for the same
    loan, time and source is a correction, which keeps the old one.
    """
    from credit_risk_dagster.pipelines.outcomes import load_outcomes

    loaded = load_outcomes(
        warehouse(),
        file,
        source=source,
        observed_at=observed_at and observed_at.replace(tzinfo=UTC),
        skip_bad=skip_bad,
    )
    damaged = (
        f"; {counted(loaded.damaged, 'damaged row')} left out, the first: {loaded.first_damaged}"
        if loaded.damaged
        else ""
    )
    out.print(
        f"{counted(loaded.added, 'outcome')} added, {counted(loaded.known, 'was', 'were')} known"
        f"{damaged}",
        soft_wrap=True,
    )
