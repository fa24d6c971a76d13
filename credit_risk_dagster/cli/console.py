"""What the commands print, and how."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

# What is printed has paths and messages in it: a [ in them is no markup.
out = Console(markup=False, highlight=False)
err = Console(stderr=True, markup=False, highlight=False)


@contextmanager
def progress(verb: str, total: int | None) -> Iterator[Any]:
    """A progress bar on stderr; yields the function that takes how many are done."""
    with Progress(
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as progress:
        task = progress.add_task(verb, total=total, rate="")

        def show(done: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, rate=f"{speed:,.0f}/s" if speed else "")

        yield show


def print_json(value: Any) -> None:
    """Print it on stdout as JSON."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def print_warning(message: str) -> None:
    """Print one line on stderr, of what ends nothing."""
    err.print(Text("warning: ", "yellow").append(message, ""), soft_wrap=True)


def print_error(message: str) -> None:
    """Print one line on stderr."""
    err.print(Text("error: ", "red").append(message, ""), soft_wrap=True)
