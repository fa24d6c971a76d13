"""The platform of an end-to-end test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.platform.dagster import Platform
from tests.platform.pipeline import Pipeline

__all__ = ["start_platform"]

StartPlatform = Callable[..., Platform]


@pytest.fixture
def start_platform(
    pipeline: Pipeline,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[StartPlatform]:
    """Starts `dagster dev` on the test's servers, with more variables if some are given; it is
    stopped after the test."""
    for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL"):
        monkeypatch.setenv(name, environment[name])
    with ExitStack() as stack:

        def start(**variables: object) -> Platform:
            values = {name: str(value) for name, value in variables.items()}
            platform = Platform(pipeline, environment | values, tmp_path / "dagster.log")
            return stack.enter_context(platform)

        yield start
