"""The clients and the configuration as Dagster resources.

Apart from the clients, so that the command line, the API and the dashboard use those without
importing Dagster. The resources have no fields: addresses and secrets come from `settings`, in the
process that uses them, and never appear in Dagster's run config or UI.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import dagster as dg

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import Settings
from resources.kafka.broker import Broker
from resources.lake import Lake
from resources.postgres.connection import Warehouse


class _Unusable:
    """A client whose settings are wrong. Who uses it is told, in the one line: of a resource that
    cannot be made, Dagster tells a traceback."""

    def __init__(self, error: PlatformError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(name) if name.startswith("__") else self._error


def resources(settings: Callable[[], Settings] = Settings) -> dict[str, dg.ResourceDefinition]:
    """What assets, jobs and sensors work with, made anew for each run and each tick.

    Args:
        settings: what they are configured with; without it, the environment.
    """

    def made(make: Callable[[Settings], object], description: str) -> dg.ResourceDefinition:
        def made_or_told(_: object) -> Any:
            try:
                return make(settings())
            except PlatformError as error:
                return _Unusable(error)

        return dg.ResourceDefinition(made_or_told, description=description)

    return {
        "settings": made(lambda it: it, "Configuration and credit policy: docs/configuration.md."),
        "broker": made(lambda it: Broker(it.kafka), "The broker and topic of `KAFKA_*`."),
        "warehouse": made(
            lambda it: Warehouse(it.warehouse),
            "The Postgres schema of `DATABASE_URL` and `CREDIT_RISK_SCHEMA`.",
        ),
        "lake": made(lambda it: Lake(it.lake), "The bucket of `S3_*` and `AWS_*`."),
    }
