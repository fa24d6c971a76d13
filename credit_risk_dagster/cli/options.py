"""Options that several commands have, and what they mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from credit_risk_dagster.settings import KafkaSettings

if TYPE_CHECKING:
    import psycopg

    from credit_risk_dagster.domain.policy import Policy
    from credit_risk_dagster.domain.shifts import Shift
    from resources.lake import Lake
    from resources.postgres.connection import Warehouse

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Why = Annotated[str, typer.Option(help="Why; it is kept for ever.")]
NOT_SAID = "Not said"
Bootstrap = Annotated[
    str | None, typer.Option(help="Broker address; default KAFKA_BOOTSTRAP_SERVERS.")
]
Topic = Annotated[str | None, typer.Option(help="Topic; default KAFKA_TOPIC.")]
Rate = Annotated[float, typer.Option(min=0, max=1e6, help="Events a second; 0 is no limit.")]
CsvFile = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        help="A LendingClub CSV, plain or compressed, or a pipe (- is stdin), streamed; without "
        "it, the 10,000 built-in real loans of 2018.",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out the CSV's damaged rows, and count them.")
]
Shifts = Annotated[
    list[str] | None,
    typer.Option(
        "--shift",
        metavar="COLUMN=CHANGE",
        help="Change the loans: dti=+8, annual_inc=x0.8, purpose:small_business=x3 (three times as "
        "many of these). May be given several times.",
    ),
]
After = Annotated[int, typer.Option(min=0, help="So many come first before --shift begins.")]
Since = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (dt) of the archive.")
]
Until = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day (dt) of the archive.")
]
PolicyFile = Annotated[
    Path | None, typer.Option(help="Credit policy (YAML); default the active one.")
]


def kafka(bootstrap: str | None, topic: str | None) -> KafkaSettings:
    """The configured broker and topic, or those that were named."""
    given: dict[str, Any] = {"bootstrap_servers": bootstrap, "topic": topic}
    return KafkaSettings(**{name: value for name, value in given.items() if value})


def told(loans: object) -> str:
    """What is to be said of loans that were read, after what was done with them."""
    said = getattr(loans, "left_out", str)()
    return f"; {said}" if said else ""


def parsed_shifts(texts: list[str] | None) -> "list[Shift]":
    """The changes that `--shift` asks for."""
    from credit_risk_dagster.domain.shifts import parse_shift

    return [parse_shift(text) for text in texts or ()]


def day(moment: datetime | None) -> date | None:
    """The day of an option."""
    return moment.date() if moment else None


def lake() -> "Lake":
    """The configured bucket."""
    from credit_risk_dagster.settings import LakeSettings
    from resources.lake import Lake

    return Lake(LakeSettings())


def chosen_policy(file: Path | None) -> "Policy":
    """The policy of a file, or the one that decides."""
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.pipelines.policies import current_policy
    from credit_risk_dagster.settings import Settings
    from resources.postgres.connection import Warehouse

    settings = Settings()
    return (
        load_policy(file)
        if file
        else current_policy(Warehouse(settings.warehouse), settings.policy)
    )


def warehouse() -> "Warehouse":
    """The configured one."""
    from credit_risk_dagster.settings import WarehouseSettings
    from resources.postgres.connection import Warehouse

    return Warehouse(WarehouseSettings())


@contextmanager
def warehouse_session(name: str = "") -> Iterator["psycopg.Connection[Any]"]:
    """A connection to the configured warehouse, under a name that its server shows."""
    with warehouse().session(name) as connection:
        yield connection
