"""Waiting for a condition, instead of sleeping for as long as it might take."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float, what: str, *, every: float = 0.05) -> T:
    """The first true value of the condition; a failure that says `what` was missed after `timeout`
    seconds. The condition is asked at least once, and once more at the end.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        if value := condition():
            return value
        if late:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(every)
