"""The servers hang, crash and come back, while events flow."""

import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from pydantic import SecretStr

from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from infra.embedded.servers import Broker, Postgres
from resources.postgres.migrate import migrate
from tests.conftest import create_topic
from tests.platform.dagster import PATIENCE_SECONDS, Platform
from tests.platform.start import StartPlatform
from tests.platform.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OUTAGE_SECONDS = 10.0


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker of the test's own, instead of the session's."""
    with Broker() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A Postgres of the test's own."""
    with TemporaryDirectory(prefix="credit-risk-") as folder, Postgres(Path(folder)) as server:
        yield server


@pytest.fixture
def warehouse_settings(own_postgres: Postgres) -> WarehouseSettings:
    """A migrated database in the test's own Postgres."""
    own_postgres.create_database("credit_risk")
    settings = WarehouseSettings(DATABASE_URL=SecretStr(own_postgres.uri("credit_risk")))
    migrate(settings)
    return settings


@pytest.fixture
def database_url(own_postgres: Postgres) -> str:
    """Dagster's own database, in the same Postgres as in the product."""
    own_postgres.create_database("dagster")
    return own_postgres.uri("dagster")


def outage() -> None:
    """Let the clients wait for a server that is away."""
    threading.Event().wait(OUTAGE_SECONDS)


def test_the_broker_hangs_and_is_replaced(
    broker: Broker, kafka_settings: KafkaSettings, start_platform: StartPlatform
) -> None:
    platform = start_platform()
    unreachable = f"Kafka broker at {broker.bootstrap_servers} does not answer"
    with platform.streaming(rate=200):
        platform.wait_for_commits(500)
        process = psutil.Process(broker.pid)
        process.suspend()
        try:
            outage()
            wait_until(
                lambda: unreachable in platform.why_not(),
                PATIENCE_SECONDS,
                "a tick says that the broker does not answer",
            )
        finally:
            process.resume()
        platform.wait_for_commits(platform.committed() + 500)
    platform.wait_for_commits(platform.sent)
    platform.check_exactly_once()

    # Another cluster appears at the same address, while the last events of the first one are read.
    platform.send(500)
    first_loans = platform.sent
    broker.kill()
    broker.start(cluster_id="another")
    create_topic(kafka_settings)
    with platform.streaming(rate=200):
        second = wait_until(
            lambda: sources(platform).get("another"), PATIENCE_SECONDS, "the new cluster is read"
        )
    second_loans = list(range(first_loans, platform.sent))
    wait_until(
        lambda: len(platform.loans(second)) >= len(second_loans),
        PATIENCE_SECONDS,
        "everything of the new cluster is committed",
    )
    assert platform.loans(second) == second_loans

    # What was not read of the first one is gone with it; the rest is still there, once.
    (first,) = set(sources(platform).values()) - {second}
    committed = platform.loans(first)
    assert committed == sorted(set(committed))
    assert set(committed) <= set(range(first_loans))
    assert len(committed) >= first_loans - 500
    assert platform.pipeline.unreconciled() == 0


def sources(platform: Platform) -> dict[str, int]:
    """The id of each cluster's source."""
    rows = platform.pipeline.query("SELECT cluster_id, source_id FROM sources")
    return {row["cluster_id"]: row["source_id"] for row in rows}


def test_postgres_crashes(own_postgres: Postgres, start_platform: StartPlatform) -> None:
    platform = start_platform()
    with platform.streaming(rate=200):
        platform.wait_for_commits(500)
        # A crash and an immediate restart; then one that lasts longer than a run can wait.
        own_postgres.restart()
        platform.wait_for_commits(platform.committed() + 500)
        own_postgres.stop("immediate")
        outage()
        own_postgres.start()
        platform.wait_for_commits(platform.committed() + 500)
    platform.wait_for_commits(platform.sent)
    platform.check_exactly_once()
