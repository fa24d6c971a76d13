"""What processes cost while they work: processor time, and memory."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from infra.embedded.servers import Server


@dataclass(frozen=True)
class Cost:
    """Of some processes over some time: percent of one core, and the memory at its end in millions
    of bytes, where what several of them share counts once."""

    core_percent: float
    memory_mb: float


def cost(find: Callable[[], Iterable[psutil.Process]], seconds: float) -> Cost:
    """Of the processes that are found, for so long from now on.

    Args:
        find: looks for them, before and after: those that come meanwhile count from their
            beginning, and those that end are in what their parent waited for.
        seconds: for how long.
    """
    before, started = _processor_seconds(find()), time.monotonic()
    time.sleep(seconds)
    processes = [*find()]
    spent = _processor_seconds(processes) - before
    took, memory = time.monotonic() - started, 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            memory += process.memory_full_info().pss
    return Cost(100 * spent / took, memory / 1e6)


def whole(dagster: Server) -> list[psutil.Process]:
    """A server's process, and all that came of it."""
    root = psutil.Process(dagster.pid)
    return [root, *root.children(recursive=True)]


def runs_of(dagster: Server) -> list[psutil.Process]:
    """The runs of Dagster that are under way: what the fork server of its code server forked."""
    found = []
    for process in whole(dagster):
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if parent and _forks(process) and _forks(parent):
                found.append(process)
    return found


def _forks(process: psutil.Process) -> bool:
    return any("multiprocessing.forkserver" in word for word in process.cmdline())


def _processor_seconds(processes: Iterable[psutil.Process]) -> float:
    seconds = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
