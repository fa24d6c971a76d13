"""`credit-risk cases`: cases of what was decided before there were any."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import warehouse_session
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.settings import DrainSettings

app = typer.Typer(help="Cases of the Watchlist.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Without it, the one command would be the group."""


@app.command("open")
def open_(
    since: Annotated[
        datetime | None,
        typer.Option(help="Only what was decided since then (UTC).", formats=["%Y-%m-%d"]),
    ] = None,
) -> None:
    """Open cases of Watchlist decisions that have none: of before there were cases, or after a
    rebuild. Day by day, each in a transaction, the newest first: a loan's newest decision opens its
    case. Safe to run again, and while events are scored.
    """
    from resources.postgres.cases import Cases

    opened = 0
    with warehouse_session("cases") as connection:
        row = connection.execute(
            "SELECT min(scored_at), max(scored_at) FROM scored_applications"
            " WHERE risk_tier = 'Watchlist'"
        ).fetchone()
        if row is None or row[0] is None:
            row = (datetime.now(UTC), datetime.now(UTC))
        start, last = row if since is None else (since.replace(tzinfo=UTC), row[1])
        within = DrainSettings().case_within
        for day in range((last - start).days, -1, -1):
            first = start + timedelta(days=day)
            opened += Cases(connection).open_earlier(first, first + timedelta(days=1), within)
    out.print(f"{counted(opened, 'case')} opened")
