"""The compose file's services on embedded servers, started once for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pydantic import SecretStr

from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from infra.embedded.servers import Postgres
from infra.embedded.stack import Stack
from resources.postgres.connection import Warehouse
from tests.platform.compose import INFRA, Composed, secrets
from tests.platform.pipeline import Pipeline

# Settings of infra/settings.env: small batches, so that one is always in the middle of something,
# and an archive that only the tests ask for.
SETTINGS = {
    "CREDIT_RISK_IDLE_SECONDS": "5",
    "CREDIT_RISK_POLL_INTERVAL_MS": "50",
    "CREDIT_RISK_MAX_BATCH_EVENTS": "500",
    "CREDIT_RISK_ARCHIVE_CRON": "0 0 1 1 *",
}


def create_roles(postgres: Postgres) -> None:
    """Run infra/postgres/roles.sql, as Postgres' image does when its volume is new."""
    passwords = {name: value for name, value in secrets().items() if name.endswith("_PASSWORD")}
    roles = str(INFRA / "postgres" / "roles.sql")
    postgres.run_client("psql", "-X", "-q", postgres.uri("postgres"), "-f", roles, **passwords)


@pytest.fixture(scope="module")
def composed() -> Iterator[Composed]:
    """Every service, started and healthy."""
    with TemporaryDirectory(prefix="credit-risk-") as folder, Stack(Path(folder)) as stack:
        create_roles(stack.postgres)
        kafka = KafkaSettings(bootstrap_servers=stack.broker.bootstrap_servers)
        url = SecretStr(stack.postgres.uri("credit_risk"))
        warehouse = Warehouse(WarehouseSettings(DATABASE_URL=url))
        pipeline = Pipeline(kafka, warehouse)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", stack.environment()["DAGSTER_HOME"])
            dagster_url = stack.postgres.uri("dagster").replace("postgres@", "dagster@", 1)
            patch.setenv("DAGSTER_POSTGRES_URL", dagster_url)
            with Composed(pipeline, stack, SETTINGS) as platform:
                yield platform
