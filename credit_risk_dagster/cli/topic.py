"""`credit-risk topic`: create it, empty it, start over."""

from typing import TYPE_CHECKING, Annotated

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import Bootstrap, Topic, kafka
from credit_risk_dagster.settings import DrainSettings, WarehouseSettings

if TYPE_CHECKING:
    from resources.kafka.watch import TopicState


app = typer.Typer(help="The topic that carries the applications.", no_args_is_help=True)


@app.command("create")
def create(bootstrap: Bootstrap = None, topic: Topic = None) -> None:
    """Create the topic when it is missing, with KAFKA_PARTITIONS partitions. Safe at any time."""
    from resources.kafka.topics import ensure_topic

    settings = kafka(bootstrap, topic)
    partitions = ensure_topic(settings)
    out.print(f"topic {settings.topic} has {partitions} partitions", soft_wrap=True)


@app.command("reset")
def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Delete the topic with all its events, create it again, and start a new epoch."""
    from credit_risk_dagster.pipelines.epochs import at_stake, starting_over
    from resources.kafka.broker import Broker
    from resources.kafka.topics import reset_topic
    from resources.postgres.connection import Warehouse
    from resources.postgres.sources import Sources

    settings = kafka(bootstrap, topic)
    broker, warehouse = Broker(settings), Warehouse(WarehouseSettings())
    stake = at_stake(broker, warehouse)
    goes = ", ".join(
        f"{events:,} of them not {what}"
        for events, what in ((stake.unscored, "scored"), (stake.unarchived, "archived"))
        if events
    )
    if not yes:
        typer.confirm(
            f"Delete topic {settings.topic} on {settings.bootstrap_servers} with all its events"
            f"{f', {goes}' if goes else ''}?",
            abort=True,
        )
    with starting_over(broker, warehouse, DrainSettings().session_seconds) as connection:
        # If that failed, the topic stays as it is.
        partitions = reset_topic(settings)
        out.print(
            f"topic {settings.topic} is empty, with {partitions} partitions"
            + (f"; {stake.unscored:,} of its events were not scored" if stake.unscored else ""),
            soft_wrap=True,
        )
        state = broker.inspect()
        _tell(state, Sources(connection).new_epoch(state))


@app.command("new-epoch")
def new_epoch(
    force: Annotated[
        bool,
        typer.Option("--force", help="Also when it was not: all its events are scored again."),
    ] = False,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Start over with a topic that somebody recreated or truncated.

    What was scored stays; the topic counts as a new source, from its first offset.
    """
    from credit_risk_dagster.pipelines.epochs import start_epoch
    from resources.kafka.broker import Broker
    from resources.postgres.connection import Warehouse

    begun = start_epoch(
        Broker(kafka(bootstrap, topic)),
        Warehouse(WarehouseSettings()),
        DrainSettings().session_seconds,
        force=force,
    )
    out.print(f"its {begun.events:,} events are scored from now on; what was scored stays")
    _tell(begun.topic, begun.epoch)


def _tell(state: "TopicState", epoch: int) -> None:
    out.print(f"topic {state.topic} on cluster {state.cluster_id}: epoch {epoch}", soft_wrap=True)
