"""Bringing the schema to the version that this code needs."""

from credit_risk_dagster.settings import WarehouseSettings
from resources.postgres.connection import Warehouse
from resources.postgres.migrations import SCHEMA_VERSION, SCRIPTS
from resources.postgres.readers import grant_readers_again


def migrate(settings: WarehouseSettings, version: str = "head") -> str:
    """Bring the schema to the newest version, or to that one if it is older, and return the
    version. Safe to run at any time, by any number of processes. Readers (see
    `resources.postgres.readers`) are granted what is new.

    Raises:
        WarehouseUnavailable: Postgres does not answer.
    """
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["schema"] = settings.db_schema
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: Warehouse(settings).connect(autocommit=False)
    )
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()
    if version != "head":
        return version  # of the past, when there may have been no readers
    grant_readers_again(settings)
    return SCHEMA_VERSION
