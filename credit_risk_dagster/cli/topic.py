"""`credit-risk topic`: create it, empty it, start over."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import Bootstrap, Topic, kafka
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings

if TYPE_CHECKING:
    from psycopg import Connection


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
    from resources.kafka.topics import reset_topic
    from resources.postgres.connection import Warehouse

    settings = kafka(bootstrap, topic)
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


@app.command("new-epoch")
def new_epoch(bootstrap: Bootstrap = None, topic: Topic = None) -> None:
    """Start over with a topic that somebody recreated or truncated.

    What was scored stays; the topic counts as a new source, from its first offset.
    """
    from resources.postgres.connection import Warehouse

    settings = kafka(bootstrap, topic)
    with Warehouse(WarehouseSettings()).session() as connection:
        _new_epoch(connection, settings)


def _new_epoch(connection: "Connection[Any]", settings: KafkaSettings) -> None:
    from resources.kafka.broker import Broker
    from resources.postgres.sources import Sources

    state = Broker(settings).inspect()
    epoch = Sources(connection).new_epoch(state)
    out.print(f"topic {state.topic} on cluster {state.cluster_id}: epoch {epoch}", soft_wrap=True)
