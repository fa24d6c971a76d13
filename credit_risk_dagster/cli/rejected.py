"""`credit-risk rejected`: the events that could not be scored."""

import sys
from functools import reduce
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import err, out
from credit_risk_dagster.cli.options import PolicyFile, chosen_policy, warehouse, warehouse_session
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError

if TYPE_CHECKING:
    from resources.postgres.rejected import RejectedEvent

app = typer.Typer(help="Events that could not be scored.", no_args_is_help=True)

Reason = Annotated[
    str | None, typer.Option(help="Only with this reason code, e.g. missing_required:dti.")
]


@app.command("ls")
def ls(
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="Most events.")] = 20,
) -> None:
    """Count the rejected events by reason, and list the first of them."""
    from resources.postgres.connection import fetch_all
    from resources.postgres.rejected import RejectedEvents

    with warehouse_session() as connection:
        counts = fetch_all(
            connection,
            "SELECT reason, count(*) AS events, max(rejected_at) AS last FROM rejected_events"
            " GROUP BY reason ORDER BY 2 DESC",
        )
        table = Table("source", "partition", "offset", "rejected at", "reason", "value")
        for event in islice(RejectedEvents(connection).each(reason=reason), limit):
            table.add_row(
                *map(str, event.coordinates),
                *(f"{event.rejected_at:%Y-%m-%d %H:%M:%S}", _reason(event), _preview(event.value)),
            )
    totals = Table("reason", "events", "last")
    for row in counts:
        totals.add_row(row["reason"], f"{row['events']:,}", f"{row['last']:%Y-%m-%d %H:%M:%S}")
    out.print(totals)
    if counts:
        out.print(table)


@app.command("show")
def show(
    partition: Annotated[int, typer.Argument(help="Partition of the event.")],
    offset: Annotated[int, typer.Argument(help="Offset of the event.")],
) -> None:
    """Write an event's exact bytes to stdout, and where it came from to stderr."""
    from resources.postgres.rejected import RejectedEvents

    with warehouse_session() as connection:
        found = RejectedEvents(connection).each(partition=partition, offset=offset)
        event = reduce(lambda _, newer: newer, found, None)  # of several sources, the newest
    if event is None:
        raise PlatformError(f"no rejected event has partition {partition} and offset {offset}")
    err.print(
        f"source {event.source_id}, partition {partition}, offset {offset}: {_reason(event)}, "
        f"rejected at {event.rejected_at:%Y-%m-%d %H:%M:%S}, batch {event.batch_id}, "
        f"key {_preview(event.key)}",
        highlight=False,
        markup=False,
    )
    sys.stdout.buffer.write(event.value or b"")
    sys.stdout.buffer.flush()


@app.command("redrive")
def redrive(
    reason: Reason = None,
    partition: Annotated[int | None, typer.Option(help="Only of this partition.")] = None,
    offset: Annotated[int | None, typer.Option(help="Only at this offset.")] = None,
    policy: PolicyFile = None,
) -> None:
    """Score rejected events again; those that can be scored now move to the scored ones."""
    import uuid

    from credit_risk_dagster.pipelines.redrive import redrive

    report = redrive(
        warehouse(),
        chosen_policy(policy),
        run_id=f"redrive-{uuid.uuid4()}",
        reason=reason,
        partition=partition,
        offset=offset,
    )
    out.print(
        f"{report.moved.total():,} of {counted(report.examined, 'rejected event')} now scored"
    )


def _reason(event: "RejectedEvent") -> str:
    return f"{event.reason} of {event.first}" if event.first else event.reason


def _preview(value: bytes | None) -> str:
    return "" if value is None else repr(value[:60])[2:-1] + ("..." if len(value) > 60 else "")
