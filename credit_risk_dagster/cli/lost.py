"""`credit-risk lost`: the events that the broker removed before they were read."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import out, print_json
from credit_risk_dagster.cli.options import Json, warehouse_session
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resources.postgres.lost import LostRange

app = typer.Typer(
    help="Events that the broker removed before they were read.", no_args_is_help=True
)


@app.command("ls")
def ls(json_: Json = False) -> None:
    """List the lost events, and who acknowledged them."""
    from resources.postgres.lost import LostEvents

    with warehouse_session() as connection:
        found = LostEvents(connection).ranges()
    if json_:
        print_json([vars(gone) for gone in found])
    else:
        _show(found)


@app.command("acknowledge")
def acknowledge(
    by: Annotated[str, typer.Option(help="Who knows of them now.")],
    note: Annotated[str | None, typer.Option(help="What was done about it.")] = None,
) -> None:
    """Record that you know of all lost events that nobody acknowledged: check and alert end.

    It brings nothing back. Who, when and the note are kept for ever.
    """
    from resources.postgres.lost import LostEvents

    for what, text, limit in (("--by", by, 200), ("--note", note, 2000)):
        if text is not None and not 0 < len(text.strip()) <= limit:
            raise PlatformError(f"{what} has {len(text)} characters: it needs 1 to {limit}")
    with warehouse_session() as connection:
        found = LostEvents(connection).acknowledge(by.strip(), note and note.strip())
    if not found:
        out.print("no lost event waits to be acknowledged")
        return
    _show(found)
    events = sum(gone.events for gone in found)
    out.print(f"{counted(events, 'lost event')} acknowledged by {by.strip()}", soft_wrap=True)


@app.command("abandon")
def abandon(
    by: Annotated[str, typer.Option(help="Who gives them up: your name.")],
    why: Annotated[str, typer.Option(help="Why they cannot be archived any more.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which they are, and leave it.")
    ] = False,
) -> None:
    """Give up what can be archived no more: lost to the broker's retention or with an older topic.

    The check `archive_complete` and retention no longer wait for it. Who, when and why are kept for
    ever.
    """
    from itertools import groupby

    from credit_risk_dagster.pipelines.epochs import Abandonment
    from resources.postgres.abandoned import AbandonedOffsets

    given = Abandonment.of(by, why)
    with warehouse_session() as connection, connection.transaction():
        offsets = AbandonedOffsets(connection)
        waiting = offsets.waiting()
        for source_id, tails in groupby(waiting, key=lambda tail: tail.source_id):
            ranges = [tail.range for tail in tails]
            if not dry_run:
                offsets.abandon(source_id, ranges, given.by, given.why)
    for tail in waiting:
        out.print(str(tail), soft_wrap=True)
    if not waiting:
        out.print("nothing waits to be given up")
    elif not dry_run:
        out.print(f"given up by {given.by}", soft_wrap=True)


def _show(found: "Sequence[LostRange]") -> None:
    table = Table(
        *("source", "topic", "partition", "first", "last", "events", "found at", "reason"),
        "acknowledged",
    )
    for gone in found:
        table.add_row(
            *(str(gone.source_id), gone.topic, str(gone.partition)),
            *(f"{gone.first_offset:,}", f"{gone.next_offset - 1:,}", f"{gone.events:,}"),
            *(f"{gone.found_at:%Y-%m-%d %H:%M:%S}", gone.reason),
            f"{gone.acknowledged_at:%Y-%m-%d %H:%M:%S} by {gone.acknowledged_by}"
            if gone.acknowledged_at
            else "no",
        )
    out.print(table)
