"""What the tests of the models share: a topic for real loans, and models of them."""

import logging

import msgspec
import pytest

from credit_risk_dagster.domain.features import CLASSIC_FEATURES, select_features
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.modelling import Modelling, Stored
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.domain.modelling import builtin_sample
from tests.lake.conftest import LakePipeline, pipeline

__all__ = ["pipeline"]


@pytest.fixture(scope="session")
def trained() -> Modelling:
    """Models of the built-in loans, measured and not stored; trained once."""
    return modelling.model(
        builtin_sample(),
        select_features(CLASSIC_FEATURES),
        load_policy(DEFAULT_POLICY),
        0,
        logging.getLogger("test"),
    )


@pytest.fixture
def stored(trained: Modelling, pipeline: LakePipeline) -> Stored:
    """The same models, stored in the test's database."""
    return modelling.store(pipeline.warehouse, trained, "run")


def loans(count: int) -> list[bytes | None]:
    """Built-in loans as events."""
    return [msgspec.json.encode(row) for row in builtin_loans()[:count]]
