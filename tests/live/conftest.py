"""A browser, and a window in it."""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.live.browser import CHROMIUM, Visit, chromium, visit


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; without it these tests are skipped, but in continuous integration they fail."""
    if not CHROMIUM.exists():
        message = f"{CHROMIUM} is missing: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with chromium() as started:
        yield started


@pytest.fixture
def desk(browser: Browser) -> Iterator[Visit]:
    """A window; at the end nothing went wrong in it."""
    with visit(browser) as seen:
        yield seen
        assert seen.problems == []
