"""The compose file's services on embedded servers, started once for the tests of this folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from infra.embedded.servers import Postgres
from infra.embedded.stack import Stack
from tests.platform.compose import INFRA, Composed, secrets
from tests.platform.memory import in_memory
from tests.platform.slot import Slot

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


@contextmanager
def open_composed() -> Iterator[Composed]:
    """Every service, started and healthy."""
    with (
        TemporaryDirectory(prefix="credit-risk-", dir=in_memory()) as folder,
        Stack(Path(folder)) as stack,
    ):
        create_roles(stack.postgres)
        with Composed(stack, SETTINGS) as platform:
            yield platform


@pytest.fixture
def composed(slot: Slot) -> Composed:
    """The compose file's services on embedded servers, shared by the tests that ask for them."""
    return slot.take(open_composed)
