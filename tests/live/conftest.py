"""The platform that the tests of this folder look at."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.platform.live import Live, run_platform
from tests.platform.start import start_platform

__all__ = ["start_platform"]


@pytest.fixture(scope="package")
def live() -> Iterator[Live]:
    """The whole platform at work, with a stream of loans; shared, see platform.py. It ends with
    this folder's tests, because it keeps the machine busy."""
    with (
        TemporaryDirectory(prefix="credit-risk-live-") as folder,
        run_platform(Path(folder)) as platform,
    ):
        yield platform
