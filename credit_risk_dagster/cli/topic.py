"""`credit-risk topic`: create it, empty it, start over."""

from typing import TYPE_CHECKING, Annotated

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import Bootstrap, Topic, kafka, lake, warehouse
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DrainSettings

if TYPE_CHECKING:
    from credit_risk_dagster.pipelines.epochs import Abandonment, NewEpoch

app = typer.Typer(help="The topic that carries the applications.", no_args_is_help=True)


@app.command("create")
def create(bootstrap: Bootstrap = None, topic: Topic = None) -> None:
    """Create the topic when it is missing, with KAFKA_PARTITIONS partitions. Safe at any time."""
    from resources.kafka.topics import ensure_topic

    settings = kafka(bootstrap, topic)
    partitions = ensure_topic(settings)
    out.print(f"topic {settings.topic} has {counted(partitions, 'partition')}", soft_wrap=True)


Abandon = Annotated[
    bool,
    typer.Option("--abandon", help="Give up what is committed and cannot be archived, for ever."),
]
By = Annotated[str | None, typer.Option(help="With --abandon: who gives it up.")]
Why = Annotated[str | None, typer.Option(help="With --abandon: why.")]


@app.command("reset")
def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    abandon: Abandon = False,
    by: By = None,
    why: Why = None,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Archive what is committed, delete the topic with all its events, create it again, and start a
    new epoch."""
    from credit_risk_dagster.pipelines.epochs import start_empty, unscored
    from resources.kafka.broker import Broker
    from resources.kafka.topics import reset_topic

    abandonment = _abandonment(abandon, by, why)
    settings = kafka(bootstrap, topic)
    broker = Broker(settings)
    waiting = unscored(broker, warehouse())
    if not yes:
        typer.confirm(
            f"Delete topic {settings.topic} on {settings.bootstrap_servers} with all its events"
            f"{f', {waiting:,} of them not scored' if waiting else ''}?",
            abort=True,
        )
    begun = start_empty(
        broker,
        warehouse(),
        lake(),
        DrainSettings().session_seconds,
        lambda: reset_topic(settings),
        abandon=abandonment,
    )
    left = counted(waiting, "of its events was", "of its events were")
    out.print(
        f"topic {settings.topic} is empty, with {counted(len(begun.topic.offsets), 'partition')}"
        + (f"; {left} not scored" if waiting else ""),
        soft_wrap=True,
    )
    _tell(begun, abandonment)


@app.command("new-epoch")
def new_epoch(
    force: Annotated[
        bool,
        typer.Option("--force", help="Also when it was not: all its events are scored again."),
    ] = False,
    abandon: Abandon = False,
    by: By = None,
    why: Why = None,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
) -> None:
    """Start over with a topic that somebody recreated or truncated.

    What was scored stays; the topic counts as a new source, from its first offset. What is
    committed must be archived, or given up by name.
    """
    from credit_risk_dagster.pipelines.epochs import start_epoch
    from resources.kafka.broker import Broker

    abandonment = _abandonment(abandon, by, why)
    begun = start_epoch(
        Broker(kafka(bootstrap, topic)),
        warehouse(),
        lake(),
        DrainSettings().session_seconds,
        force=force,
        abandon=abandonment,
    )
    events = counted(begun.events, "event is", "events are")
    out.print(f"its {events} scored from now on; what was scored stays")
    _tell(begun, abandonment)


def _abandonment(abandon: bool, by: str | None, why: str | None) -> "Abandonment | None":
    from credit_risk_dagster.pipelines.epochs import Abandonment

    if abandon:
        return Abandonment.of(by or "", why or "")
    if by or why:
        raise PlatformError("--by and --why say who gives up what: they need --abandon")
    return None


def _tell(begun: "NewEpoch", abandonment: "Abandonment | None") -> None:
    if begun.abandoned and abandonment:
        one, many = (f"committed offset{ending} in no archive" for ending in (" is", "s are"))
        given_up = counted(begun.abandoned, one, many)
        out.print(f"{given_up}, and given up by {abandonment.by}", soft_wrap=True)
    state = begun.topic
    out.print(
        f"topic {state.topic} on cluster {state.cluster_id}: epoch {begun.epoch}", soft_wrap=True
    )
