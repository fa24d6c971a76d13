"""What the tests of the pure functions share."""

import os

import pytest
from hypothesis import HealthCheck, settings

from credit_risk_dagster.domain.policy import Policy, load_policy
from credit_risk_dagster.settings import DEFAULT_POLICY

# The same examples each time; `HYPOTHESIS_EXAMPLES=5000 pytest tests/domain` tries new ones.
_EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", 0))
settings.register_profile(
    "domain",
    max_examples=_EXAMPLES or 60,
    derandomize=not _EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("domain")


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load_policy(DEFAULT_POLICY)
