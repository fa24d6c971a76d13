"""The command line: `credit-risk --help`.

Every command imports what it needs when it runs: `--help` and `score` answer at once.
"""

import sys

import typer
from pydantic import ValidationError

from credit_risk_dagster import settings as all_settings
from credit_risk_dagster.cli import (
    api,
    archive,
    baseline,
    database,
    demo,
    lost,
    model,
    reconciliation,
    rejected,
    stream,
    topic,
)
from credit_risk_dagster.cli.console import print_error
from credit_risk_dagster.errors import PlatformError

app = typer.Typer(
    help="Credit risk monitoring: loan applications from a Kafka topic, scored exactly once into "
    "Postgres by Dagster.\n\nServers and limits come from the environment or a `.env` file: see "
    "`.env.example`. `credit-risk demo` needs none of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (demo, stream, database, archive, api):
    app.add_typer(group.app)
for name, group in (
    ("topic", topic),
    ("rejected", rejected),
    ("reconciliation", reconciliation),
    ("lost", lost),
    ("model", model),
    ("baseline", baseline),
):
    app.add_typer(group.app, name=name)


def main() -> None:
    """Run the command line: one line for an expected error, and exit code 1."""
    try:
        app()
    except PlatformError as error:
        print_error(str(error))
        sys.exit(1)
    except ValidationError as error:
        for problem in error.errors(include_input=False):
            variable = _variable(error.title, ".".join(map(str, problem["loc"])))
            message = problem["msg"].removeprefix("Value error, ")
            print_error(f"{variable}: {message}" if variable else message)
        sys.exit(1)


def _variable(title: str, name: str) -> str:
    """The environment variable of a settings field; empty for an error about several."""
    config = getattr(getattr(all_settings, title, None), "model_config", {})
    return (config.get("env_prefix", "") + name).upper() if name else ""


if __name__ == "__main__":
    main()
