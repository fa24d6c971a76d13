"""What the tests of the pure functions share."""

import pytest

from credit_risk_dagster.domain.policy import Policy, load_policy
from credit_risk_dagster.settings import DEFAULT_POLICY


@pytest.fixture(scope="session")
def policy() -> Policy:
    """The older form, by whose description most tests decide."""
    return load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
