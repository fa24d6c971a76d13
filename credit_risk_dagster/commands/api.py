"""`credit-risk api`: serving the API."""

from typing import Annotated, Any

import typer

app = typer.Typer()


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

    from credit_risk_dagster.api.app import create_app
    from credit_risk_dagster.settings import ApiSettings, Settings

    given: dict[str, Any] = {"host": host, "port": port}
    settings = Settings()
    settings.api = ApiSettings(**{name: value for name, value in given.items() if value})
    uvicorn.run(
        create_app(settings), host=settings.api.host, port=settings.api.port, log_config=None
    )
