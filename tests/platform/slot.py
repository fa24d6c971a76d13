"""One platform at a time: two daemons on a small machine are slow, and their limits on time mean
nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

T = TypeVar("T")


class Slot:
    """What runs now, shared by the tests that ask for it one after another."""

    def __init__(self) -> None:
        self._open: Callable[..., Any] | None = None
        self._running: Any = None
        self._exit = ExitStack()

    def take(self, open_one: Callable[[], AbstractContextManager[T]]) -> T:
        """What `open_one` opens: it runs already, or in place of what ran before."""
        if self._open is not open_one:
            self.clear()
            self._running = self._exit.enter_context(open_one())
            self._open = open_one
        running: T = self._running
        return running

    def last_words(self) -> list[str]:
        """The end of the log of what runs, which is gone with it."""
        log = getattr(self._running, "log", None)
        return log.read_text(errors="replace").splitlines()[-50:] if log else []

    def clear(self) -> None:
        """End what runs."""
        self._open = self._running = None
        self._exit.close()
