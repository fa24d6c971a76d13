"""Waiting for a condition, instead of sleeping for as long as it might take.

Limits on time are for the machine that the platform is measured on, when it does nothing else. One
that is slower, or busy, is given as many times longer as it takes for a known piece of work.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_WORK = [sys.executable, "-c", "import json, asyncio; sum(i * i for i in range(1_000_000))"]
_USUAL_SECONDS = 0.25


def slowness() -> float:
    """How many times longer than usual this machine takes just now to start a process that works
    for a moment; 1 at least."""
    started = time.monotonic()
    subprocess.run(_WORK, check=True)
    return max(1.0, (time.monotonic() - started) / _USUAL_SECONDS)


def wait_until(condition: Callable[[], T], timeout: float, what: str, *, every: float = 0.05) -> T:
    """The first true value of the condition; a failure that says `what` was missed after `timeout`
    seconds, or as many times more as the machine is slow when they are over. The condition is asked
    at least once, and once more at the end.
    """
    started = time.monotonic()
    deadline = started + timeout
    while True:
        late = time.monotonic() >= deadline
        if value := condition():
            return value
        if late:
            deadline = started + timeout * slowness()
            if time.monotonic() >= deadline:
                raise AssertionError(f"not within {deadline - started:.0f} s: {what}")
        time.sleep(every)
