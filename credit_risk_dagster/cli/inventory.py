"""`credit-risk inventory`: policies, models and baselines."""

from datetime import UTC, datetime

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import out, print_json
from credit_risk_dagster.cli.options import Json, warehouse_session

app = typer.Typer()


@app.command()
def inventory(json_: Json = False) -> None:
    """List policies, models and baselines: owner, state and age; what is active first."""
    from resources.postgres.inventory import inventory as read

    with warehouse_session("inventory") as connection:
        items = read(connection)
    if json_:
        print_json(items)
        return
    table = Table("kind", "id", "name", "state", "owner", "age, days")
    for item in items:
        age = (datetime.now(UTC) - item.created_at).days
        table.add_row(item.kind, str(item.subject_id), item.name, item.state, item.owner, str(age))
    out.print(table)
