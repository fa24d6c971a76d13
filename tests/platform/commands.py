"""What the tests of commands share."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CREDIT_RISK = [str(Path(sys.executable).with_name("credit-risk"))]


@dataclass(frozen=True)
class Result:
    """What a command did: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


def error(message: str) -> Result:
    """A failure that says one line and nothing else."""
    return Result(1, "", f"error: {message}\n")


def one_line(result: Result) -> str:
    """The only line of a failure."""
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")
