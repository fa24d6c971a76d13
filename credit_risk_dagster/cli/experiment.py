"""`credit-risk experiment ...`: candidates on live traffic, as splits and as shadows."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import out, print_json
from credit_risk_dagster.cli.options import Json, Why, warehouse_session

if TYPE_CHECKING:
    from resources.postgres.approvals import Approval

app = typer.Typer(
    help="Candidates on live traffic: splits (champion and challenger) and shadows.",
    no_args_is_help=True,
)

Id = Annotated[int, typer.Argument(metavar="ID", help="See `credit-risk experiment ls`.")]


@app.command()
def submit(
    why: Why,
    policy: Annotated[
        str | None,
        typer.Argument(metavar="POLICY", help="The challenger: id, version or name."),
    ] = None,
    model: Annotated[
        int | None, typer.Option(help="The challenger, a model's id instead; a shadow.")
    ] = None,
    share: Annotated[
        int | None,
        typer.Option(min=1, max=99, help="Percent of the loans that it decides; none: a shadow."),
    ] = None,
    salt: Annotated[
        str | None,
        typer.Option(
            help="Deals the loans to the arms, and names them; default the policy's name."
        ),
    ] = None,
) -> None:
    """Store an experiment, for somebody else to approve: a split with --share, else a shadow."""
    from credit_risk_dagster.pipelines import experiments, policies

    with warehouse_session("experiment") as connection:
        chosen = policies.chosen(connection, policy).stored.policy_id if policy else None
        given = experiments.submit(
            connection, why, policy_id=chosen, model_id=model, share=share, salt=salt
        )
        words = experiments.life(connection, given.subject_id).experiment.words
    _print(f"experiment {given.subject_id} ({words}) is submitted by {given.who}: somebody else")
    _print(f"approves it by `credit-risk experiment approve {given.subject_id}`")


@app.command()
def approve(experiment: Id, why: Why) -> None:
    """Approve an experiment that somebody else submitted."""
    from credit_risk_dagster.pipelines import experiments

    with warehouse_session("experiment") as connection:
        _say(experiments.approve(connection, experiment, why), "is approved")


@app.command()
def start(experiment: Id, why: Why) -> None:
    """Let an approved experiment run, within five seconds; a split takes the place of another."""
    from credit_risk_dagster.pipelines import experiments

    with warehouse_session("experiment") as connection:
        _say(experiments.start(connection, experiment, why), "runs from now on, started")


@app.command()
def stop(experiment: Id, why: Why) -> None:
    """Let an experiment run no more; its results stay."""
    from credit_risk_dagster.pipelines import experiments

    with warehouse_session("experiment") as connection:
        _say(experiments.stop(connection, experiment, why), "is stopped")


@app.command("ls")
def ls(json_: Json = False) -> None:
    """List the experiments, the newest first."""
    from credit_risk_dagster.pipelines import experiments

    with warehouse_session("experiment") as connection:
        found = experiments.lives(connection)
    if json_:
        print_json([life.told() for life in found])
        return
    table = Table("id", "experiment", "state", "since", "by", "why")
    for life in found:
        last = life.approvals[-1]
        table.add_row(
            *(str(life.experiment.experiment_id), life.experiment.words, life.state),
            *(f"{last.decided_at:%Y-%m-%d %H:%M:%S}", last.who, last.why),
        )
    out.print(table)


def _say(given: "Approval", what: str) -> None:
    _print(f"experiment {given.subject_id} {what} by {given.who}")


def _print(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
