"""`credit-risk migrate` and `grant-reader`: the schema in Postgres, and who may read it."""

from typing import TYPE_CHECKING, Annotated

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings

if TYPE_CHECKING:
    pass

app = typer.Typer()


@app.command()
def migrate() -> None:
    """Bring the schema in Postgres to the newest version. Safe to run at any time."""
    from resources.postgres.migrate import migrate as migrate_schema

    settings = WarehouseSettings()
    version = migrate_schema(settings)
    out.print(f"schema {settings.db_schema} is at version {version}", soft_wrap=True)


@app.command("grant-reader")
def grant_reader(
    role: Annotated[
        str | None, typer.Argument(help="Role; default is the user of DASHBOARD_DATABASE_URL.")
    ] = None,
    acts: Annotated[
        bool, typer.Option("--acts", help="It also works on cases, and submits policies.")
    ] = False,
) -> None:
    """Let a role read the tables; bytes of events stay hidden. The user of DASHBOARD_DATABASE_URL
    also acts for the people whom the dashboard signs in.

    A role that is missing is created, if DATABASE_URL's user may do that, with the password that
    DASHBOARD_DATABASE_URL has for it. `migrate` does the same for that variable's user.
    """
    from resources.postgres import readers

    settings = WarehouseSettings()
    user, password = readers.dashboard_user(settings)
    name = role or user
    if name is None:
        raise PlatformError("name a role, or set DASHBOARD_DATABASE_URL with a user in it")
    acts = acts or name == user
    created = readers.grant_reader(settings, name, password if name == user else None, acts=acts)
    done = "is created, and" if created else "now"
    out.print(
        f"role {name} {done} reads schema {settings.db_schema}{', and acts' if acts else ''}",
        soft_wrap=True,
    )
