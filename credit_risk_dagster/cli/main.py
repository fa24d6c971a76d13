"""The command line: `credit-risk --help`.

Every command imports what it needs when it runs: `--help` and `score` answer at once.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer

from credit_risk_dagster.base_settings import SettingInvalid, misspelt
from credit_risk_dagster.cli import (
    api,
    archive,
    baseline,
    cases,
    database,
    demo,
    experiment,
    forget,
    inventory,
    lake,
    lost,
    model,
    outcomes,
    policy,
    reconciliation,
    rejected,
    stream,
    topic,
)
from credit_risk_dagster.cli.console import out, print_error, print_warning
from credit_risk_dagster.errors import PlatformError, full_disk_named
from credit_risk_dagster.settings import GROUPS

app = typer.Typer(
    help="Credit risk monitoring: loan applications from a Kafka topic, scored exactly once into "
    "Postgres by Dagster.\n\nServers and limits come from the environment or a `.env` file: see "
    "`.env.example`. `credit-risk demo` needs none of them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for group in (demo, stream, database, archive, forget, inventory, lake, api):
    app.add_typer(group.app)
for name, group in (
    ("topic", topic),
    ("rejected", rejected),
    ("reconciliation", reconciliation),
    ("lost", lost),
    ("cases", cases),
    ("model", model),
    ("policy", policy),
    ("experiment", experiment),
    ("outcomes", outcomes),
    ("baseline", baseline),
):
    app.add_typer(group.app, name=name)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.print(f"credit-risk {version('credit-risk-platform')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_tell_version, help="Tell the version and exit."
        ),
    ] = False,
) -> None: ...


@cache
def _command() -> Callable[[], Any]:
    """The commands, put together once in a process."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line: one line for an expected error, and exit code 1."""
    for line in misspelt(GROUPS):
        print_warning(line)
    try:
        with full_disk_named():
            _command()()
    except SettingInvalid as error:
        for line in str(error).splitlines():
            print_error(line)
        sys.exit(1)
    except PlatformError as error:
        print_error("\\n".join(str(error).splitlines()))  # a path may have one in it
        sys.exit(1)


if __name__ == "__main__":
    main()
