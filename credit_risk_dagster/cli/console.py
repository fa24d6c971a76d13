"""What the commands print, and how."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


class _Output(Console):
    """Of an empty table it says that there is nothing in it."""

    def print(self, *objects: Any, **options: Any) -> None:
        told = ("none" if isinstance(one, Table) and not one.rows else one for one in objects)
        super().print(*told, **options)


INTERRUPTED: Final = 130  # as shells have it: 128 and the signal's number

# What is printed has paths and messages in it: a [ in them is no markup.
out: Console = _Output(markup=False, highlight=False)
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


@contextmanager
def stopped_by_interrupt() -> Iterator[Event]:
    """Let the first Ctrl-C only set the event; another one ends the process as ever."""
    stop = Event()
    before = signal.getsignal(signal.SIGINT)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def print_json(value: Any) -> None:
    """Print it on stdout as JSON; arrays as lists, and what else JSON does not know, as text."""
    import msgspec

    def plain(other: Any) -> Any:
        return other.tolist() if hasattr(other, "tolist") else str(other)

    encoded = msgspec.json.encode(value, enc_hook=plain)
    sys.stdout.buffer.write(msgspec.json.format(encoded, indent=2) + b"\n")


def print_warning(message: str) -> None:
    """Print one line on stderr, of what ends nothing."""
    err.print(Text("warning: ", "yellow").append(message, ""), soft_wrap=True)


def print_error(message: str) -> None:
    """Print one line on stderr."""
    err.print(Text("error: ", "red").append(message, ""), soft_wrap=True)
