"""The clients as Dagster resources.

Apart from the clients, so that the command line, the API and the dashboard use those without
importing Dagster. The resources have no fields: addresses and secrets come from `settings`, in the
process that uses them, and never appear in Dagster's run config or UI.
"""

from dagster import ConfigurableResource

from credit_risk_dagster.settings import KafkaSettings, LakeSettings, WarehouseSettings
from resources.kafka.broker import Broker
from resources.lake import Lake
from resources.postgres.connection import Warehouse


class BrokerResource(ConfigurableResource):
    """The broker and topic of `KAFKA_*`."""

    def client(self) -> Broker:
        return Broker(KafkaSettings())


class WarehouseResource(ConfigurableResource):
    """The Postgres schema of `DATABASE_URL` and `CREDIT_RISK_SCHEMA`."""

    def client(self) -> Warehouse:
        return Warehouse(WarehouseSettings())


class LakeResource(ConfigurableResource):
    """The bucket of `S3_*` and `AWS_*`."""

    def client(self) -> Lake:
        return Lake(LakeSettings())
