"""`credit-risk forget`: an applicant who asks to be forgotten."""

import sys
from typing import Annotated

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import lake, warehouse

app = typer.Typer()


@app.command()
def forget(
    loan_id: Annotated[
        str, typer.Argument(help="The loan's id; - reads it from stdin, out of sight of `ps`.")
    ],
    by: Annotated[str, typer.Option(help="Who does it: your name.")],
    why: Annotated[str, typer.Option(help="The request, by a name of its own: never the loan's.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is, and leave it.")
    ] = False,
) -> None:
    """Delete what is stored of an applicant: scored rows, rejected bytes, reviews, and the lake's
    rows, for which the raw events are read once.

    Who, when, why and how many rows is kept for ever; whose they were is not. What only counts
    (batches, rollups, reports) stays. Safe to repeat.
    """
    import logging

    from credit_risk_dagster.pipelines.forget import forget, told

    done = forget(
        warehouse(),
        lake(),
        sys.stdin.read() if loan_id == "-" else loan_id,
        by=by,
        why=why,
        dry_run=dry_run,
        log=logging.getLogger(__name__),
    )
    out.print(told(done, dry_run), soft_wrap=True)
