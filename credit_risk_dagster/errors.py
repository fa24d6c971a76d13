"""The base of every error that a user can meet and mend."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class PlatformError(Exception):
    """An expected failure. Its message names the thing, the value and the fix, in one line: the
    command line prints it, the run and the sensor's tick show it, none of them with a traceback.
    """


class DiskFull(PlatformError):
    """A file could not be written."""


@contextmanager
def full_disk_named() -> Iterator[None]:
    """A disk that is full in this block is an error that says which."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"{error.filename or tempfile.gettempdir()}: {os.strerror(error.errno).lower()}. Free "
            "some, or let TMPDIR name a larger disk for what is written in passing"
        ) from error
