"""Errors in the platform's own words."""

import tempfile

import dagster as dg
import pytest

from assets_src.common import one_line_failures


def test_a_full_disk_is_one_line_that_says_which() -> None:
    with (
        pytest.raises(dg.Failure, match=tempfile.gettempdir()) as failure,
        one_line_failures(),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")
    assert "no space left on device" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_another_error_of_files_stays_what_it_is() -> None:
    with pytest.raises(FileNotFoundError), one_line_failures(), open("/nowhere/at/all"):
        pass
