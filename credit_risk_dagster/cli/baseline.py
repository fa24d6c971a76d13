"""`credit-risk baseline`: the populations that drift is measured from."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import NOT_SAID, SkipBad, Why, warehouse, warehouse_session
from credit_risk_dagster.domain.words import counted

app = typer.Typer(help="The populations that drift is measured from.", no_args_is_help=True)

BaselineId = Annotated[int, typer.Argument(help="Its id: see `credit-risk baseline ls`.")]


@app.command()
def freeze(
    rows: Annotated[
        int | None,
        typer.Option(
            min=100,
            max=100_000,
            help="First applications of the stream; default CREDIT_RISK_DRIFT_BASELINE_ROWS.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="All loans of a LendingClub CSV instead, plain or compressed; default "
            "CREDIT_RISK_DRIFT_BASELINE_CSV."
        ),
    ] = None,
    skip_bad: SkipBad = False,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    activate: Annotated[
        bool, typer.Option(help="Compare with it from now on if it is the first, or only keep it.")
    ] = True,
) -> None:
    """Freeze the first scored applications, or the loans of a CSV."""
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.pipelines.drift import freeze_baseline
    from credit_risk_dagster.settings import (
        DrainSettings,
        DriftSettings,
        KafkaSettings,
    )

    stored, new = freeze_baseline(
        warehouse(),
        DriftSettings().with_csv(csv, skip_bad=skip_bad),
        KafkaSettings().topic,
        load_policy(DrainSettings().policy_file),
        rows=None if csv else rows,
        name=name,
        activate=activate,
    )
    out.print(
        f"baseline {stored.baseline_id}{'' if new else ', which has exactly these counts'}: "
        f"{counted(stored.rows, 'application')}, {stored.origin}"
        + (
            "; reports compare with it from now on"
            if stored.active
            else "; it waits: `credit-risk baseline approve`, by somebody else"
            if activate
            else ""
        ),
        soft_wrap=True,
    )


@app.command("ls")
def ls() -> None:
    """List the baselines."""
    from resources.postgres.baselines import Baselines

    with warehouse_session() as connection:
        baselines = Baselines(connection).all()
    if not baselines:
        out.print(
            "No baseline yet: the first drift report freezes one, or `credit-risk baseline freeze`",
            soft_wrap=True,
        )
        return
    table = Table("id", "name", "rows", "rejected", "created", "active since", "content")
    for b in baselines:
        table.add_row(
            *(str(b.baseline_id), b.name, f"{b.rows:,}", f"{b.rejected:,}"),
            f"{b.created_at:%Y-%m-%d %H:%M:%S}",
            f"{b.activated_at:%Y-%m-%d %H:%M:%S}" if b.active else "",
            b.content_hash[:12],
        )
    out.print(table)


@app.command()
def approve(baseline: BaselineId, why: Why) -> None:
    """Approve a baseline that somebody else froze."""
    from credit_risk_dagster.pipelines.policies import approve as approve_baseline

    with warehouse_session("baseline") as connection:
        given = approve_baseline(connection, "baseline", baseline, why)
    out.print(f"baseline {baseline} is approved by {given.who}")


@app.command()
def activate(baseline: BaselineId, why: Why = NOT_SAID) -> None:
    """Compare with this approved baseline from now on; the active one retires."""
    from credit_risk_dagster.pipelines.drift import activate_baseline

    stored = activate_baseline(warehouse(), baseline, why)
    out.print(f"reports compare with baseline {stored.baseline_id}, {stored.name}", soft_wrap=True)


@app.command("accept-columns")
def accept_columns() -> None:
    """Take the columns that the events have now for right, after the check schema_change failed.

    The next check records them.
    """
    from credit_risk_dagster.errors import PlatformError
    from resources.postgres.baselines import Baselines

    with warehouse_session() as connection:
        baselines = Baselines(connection)
        active = baselines.active()
        if active is None:
            raise PlatformError("there is no active baseline: `credit-risk baseline freeze`")
        before = baselines.stream_columns(active.baseline_id)
        baselines.set_stream_columns(active.baseline_id, None)
    forgotten = f", which had {len(before['columns'])} recorded" if before else ""
    out.print(
        f"the next check of the stream records its columns for baseline {active.baseline_id}"
        f"{forgotten}",
        soft_wrap=True,
    )
