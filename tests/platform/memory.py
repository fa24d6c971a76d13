"""Where the data of servers lies that are thrown away with their test."""

import shutil
from contextlib import suppress
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 2 << 30  # a container may have 64 MB


def in_memory() -> str | None:
    """The directory for temporary ones that are in memory; None, the usual one, without enough.

    A database is 600 files. A disk's file system took up to half a second to make and delete them.
    """
    with suppress(OSError):
        if shutil.disk_usage(_MEMORY).free >= _ENOUGH_BYTES:
            return str(_MEMORY)
    return None
