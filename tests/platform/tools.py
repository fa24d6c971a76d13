"""Programs of the system that some tests need; the rest of the project does without them."""

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """The path of a program. Without it the test is skipped; in CI (CI=true) it fails."""
    if path := shutil.which(name):
        return path
    missing = f"{name} is not installed: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
