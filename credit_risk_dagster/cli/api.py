"""`credit-risk api` and `credit-risk api-key`: serving the API, and making its keys."""

import re
import socket
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from credit_risk_dagster.cli.console import err, out
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import CLIENT

app = typer.Typer()
key_app = typer.Typer(help="Keys of the API.", no_args_is_help=True)
app.add_typer(key_app, name="api-key")


@app.command()
def api(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default CREDIT_RISK_API_HOST.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port; default CREDIT_RISK_API_PORT.")
    ] = None,
) -> None:
    """Serve the API: submit and score applications, decisions, watchlist, health and metrics.

    The documentation is at /docs. Beyond loopback it needs keys: see `credit-risk api-key new`.
    """
    import uvicorn

    from credit_risk_dagster import logs
    from credit_risk_dagster.api.app import create_app
    from credit_risk_dagster.settings import ApiSettings, LogSettings, Settings

    given: dict[str, Any] = {"host": host, "port": port}
    settings = Settings()
    settings.api = ApiSettings(**{name: value for name, value in given.items() if value})
    logs.configure()
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,  # ours
        log_level=LogSettings().level.lower(),
        access_log=False,  # it would have the paths, which name loans
        server_header=False,
    )
    ports = filter(None, (settings.api.port, settings.api.operations_port))
    with ExitStack() as stack:
        sockets = [stack.enter_context(_listen(settings.api.host, port)) for port in ports]
        uvicorn.Server(config).run(sockets=sockets)


def _listen(host: str, port: int) -> socket.socket:
    """Opened here, since uvicorn tells an address that it cannot have in its log alone."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], port), family=family, backlog=2048)
    except OSError as error:
        raise PlatformError(
            f"cannot listen on {host}:{port} (CREDIT_RISK_API_HOST, CREDIT_RISK_API_PORT, "
            "CREDIT_RISK_API_OPERATIONS_PORT): "
            f"{error.strerror}"
        ) from error


@key_app.command("new")
def new(
    client: Annotated[
        str,
        typer.Argument(
            help="Who will use it, as the log names it, e.g. loan-origination: letters, digits, "
            "dots, dashes."
        ),
    ],
) -> None:
    """Make a key. It is shown once and stored nowhere: only its hash goes into the configuration.

    The first line is the key, for the client; the second is the entry for CREDIT_RISK_API_KEYS.
    Several clients' entries are separated by commas.
    """
    from credit_risk_dagster.api.guards import new_key

    if not re.fullmatch(CLIENT, client):
        raise PlatformError(f"client {client!r} is not 1 to 64 letters, digits, dots and dashes")
    key, digest = new_key()
    out.print(key, soft_wrap=True)
    out.print(f"{client}:{digest}", soft_wrap=True)
    err.print(
        f"Give the first line to {client}; add the second one to CREDIT_RISK_API_KEYS.",
        soft_wrap=True,
    )
