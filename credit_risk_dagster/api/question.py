"""Asking a server again and again, without ever waiting for it longer than agreed."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

# So many questions in a row fail, and for so long, before a server counts as down.
DOWN_AFTER_FAILURES = 3
DOWN_AFTER_SECONDS = 15.0
# One that is under way for so long will not be answered any more.
HUNG_SECONDS = 30.0


class Unanswered(Exception):
    """There is no answer, or none within the time; the log has said why."""


@dataclass(frozen=True)
class Told(Generic[T]):
    """What a server told last.

    Attributes:
        answer: None when it never answered.
        at: when it gave it (Unix time).
        up: false when it never answered, or failed again and again since: slow is not down.
    """

    answer: T | None
    at: float
    up: bool


class Question(Generic[T]):
    """A question to a server, over a connection that stays, in a thread of its own.

    One at most is under way: who asks meanwhile gets the same answer. A server that hangs keeps
    only that thread; everybody else waits until the time of the one question is over, and from then
    on not at all.

    Args:
        name: of the server, for the log.
        connect: opens the connection; its value is the function that asks.
        timeout: most seconds that an answer is waited for.
        fresh_for: seconds for which an answer is given again.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], AbstractContextManager[Callable[[], T]]],
        *,
        timeout: float,
        fresh_for: float = 0.0,
    ) -> None:
        self._name = name
        self._connect = connect
        self._timeout = timeout
        self._fresh_for = fresh_for
        self._lock = threading.Lock()
        self._asked: SimpleQueue[Future[T] | None] = SimpleQueue()
        self._newest: Future[T] | None = None
        self._asked_at = 0.0
        self._thread: threading.Thread | None = None
        self._trouble = ""
        # The last answer and when it came; and how many questions failed since.
        self._last: tuple[T, float] | None = None
        self._failures = 0

    def ask(self) -> Callable[[], T]:
        """Ask, without waiting; the result waits for the answer, and raises Unanswered."""
        with self._lock:
            now = time.monotonic()
            newest = self._newest
            if newest is None or (newest.done() and now - self._asked_at >= self._fresh_for):
                newest = self._newest = Future()
                self._asked_at = now
                if self._thread is None:
                    # A daemon: a server that hangs must not keep this process from ending.
                    self._thread = threading.Thread(
                        target=self._answer, name=f"ask {self._name}", daemon=True
                    )
                    self._thread.start()
                self._asked.put(newest)
            until = self._asked_at + self._timeout
        return lambda: self._wait(newest, until)

    def ask_for_the_last(self) -> Callable[[], Told[T]]:
        """Ask, without waiting; the result waits for the answer, and is the one before when it does
        not come in time."""
        answer = self.ask()

        def wait() -> Told[T]:
            with suppress(Unanswered):  # the log has said why
                answer()
            return self._told()

        return wait

    def close(self) -> None:
        """Close the connection, when what is under way has its answer; it is not waited for.

        Whoever asks afterwards waits in vain.
        """
        self._asked.put(None)

    def _told(self) -> Told[T]:
        last = self._last
        if last is None:
            return Told(None, 0.0, up=False)
        silent = time.time() - last[1]
        failed = self._failures >= DOWN_AFTER_FAILURES and silent > DOWN_AFTER_SECONDS
        pending = self._newest is not None and not self._newest.done()
        hung = pending and time.monotonic() - self._asked_at > HUNG_SECONDS
        return Told(*last, up=not failed and not hung)

    def _wait(self, future: "Future[T]", until: float) -> T:
        try:
            answer = future.result(max(until - time.monotonic(), 0.0))
        except TimeoutError as error:
            trouble = f"no answer within {self._timeout:g} s"
            cause: BaseException = error
        except Exception as error:  # noqa: BLE001 (whatever it is, there is no answer)
            trouble = " ".join(str(error).split()) or type(error).__name__
            cause = error
        else:
            self._tell("")
            return answer
        self._tell(trouble)
        raise Unanswered(trouble) from cause

    def _tell(self, trouble: str) -> None:
        """Log what is wrong when it begins and when it ends, not at each question."""
        with self._lock:
            before, self._trouble = self._trouble, trouble
        if trouble and not before:
            log.warning("%s does not answer: %s", self._name, trouble)
        elif before and not trouble:
            log.info("%s answers again", self._name)

    def _answer(self) -> None:
        future = self._asked.get()
        while future is not None:
            answered = False
            try:
                with self._connect() as question:
                    while future is not None:
                        answer = question()
                        self._last, self._failures = (answer, time.time()), 0
                        future.set_result(answer)
                        answered = True
                        future = self._asked.get()
            except Exception as error:  # noqa: BLE001 (it is the answer)
                if answered:  # the server may have been replaced since: ask anew
                    continue
                self._failures += 1
                if future is not None:
                    future.set_exception(error)
                future = self._asked.get()
