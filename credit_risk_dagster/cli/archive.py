"""`credit-risk archive`: what fills the lake."""

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import lake, warehouse
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.settings import KafkaSettings

app = typer.Typer()
archive_app = typer.Typer(help="What fills the lake.", no_args_is_help=True)
app.add_typer(archive_app, name="archive")


@archive_app.command("run")
def run() -> None:
    """Archive what is committed and not archived yet, as the scheduled run does."""
    import logging
    import uuid

    from credit_risk_dagster.pipelines.archive import archive
    from credit_risk_dagster.settings import ArchiveSettings
    from resources.kafka.broker import Broker

    report = archive(
        Broker(KafkaSettings()),
        warehouse(),
        lake(),
        ArchiveSettings(),
        run_id=uuid.uuid4().hex,
        log=logging.getLogger(__name__),
    )
    out.print(
        f"{counted(report.rows, 'event')} in {counted(len(report.objects), 'object')}, "
        f"{counted(report.bytes, 'byte')}, {counted(report.decisions.rows, 'decision')}"
        + ("; another run archives" if report.busy else "")
    )
