"""How the Python interpreter and Arrow work while a run works on columns."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Settings of the interpreter that suit a session; the old ones return with its end.

    A batch makes a hundred thousand containers and hardly a cycle. By default the garbage collector
    walks all of them, and everything that was imported, dozens of times: half of decoding's time.
    So the drain calls it now and then instead. And the thread that writes needs Python's lock for
    microseconds at a time: by default it waits 5 ms for each of them while the other one works.
    """
    interval = sys.getswitchinterval()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.enable()
        gc.unfreeze()


@contextmanager
def memory_of_the_system() -> Iterator[None]:
    """Arrow takes its memory where Python does. What is free is then really given back, and not
    kept by an allocator of its own: 20 MB of 320 while a topic is archived."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
