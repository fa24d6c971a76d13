"""Which records are the same application, sent again.

A record has a mark of 128 bits: of the key that its sender gave it, or of its bytes. Two records
with one mark are one application.
"""

import hashlib
import zlib
from collections.abc import Sequence
from itertools import repeat
from operator import contains
from typing import Any, Literal

import crc32c
import numpy as np
import numpy.typing as npt

Deduplicate = Literal["off", "key", "content"]
Marks = npt.NDArray[np.uint64]

KEY_HEADER = "Idempotency-Key"
CLIENT_HEADER = "Idempotency-Client"
"""Who chose the key: two clients of the API that choose the same one mean two applications."""

# A key's mark has the highest bit; a content's has its length there, which is smaller.
_KEYED = np.uint64(2**63)
_ID = b'"id"'


def marks(
    by: Deduplicate,
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    headers: Sequence[Sequence[tuple[str, bytes | None]] | None],
) -> Marks | None:
    """The mark of each record, shape (n, 2), zeros for a record without; None when none has one.

    By content, records without a key are marked by two CRCs of their bytes (CRC-32 and CRC-32C) and
    their length: among two million records, two different ones share a mark once in ten million
    times. One that names its loan by the record's key alone is marked by that, too.
    """
    keyed = {} if by == "off" or not any(headers) else _keyed(headers)
    if by != "content" and not keyed:
        return None
    found = np.zeros((len(values), 2), np.uint64)
    if by == "content":
        found = _of_contents(keys, values)
    for at, mark in keyed.items():
        found[at] = mark
    return found


def are_keyed(found: Marks) -> npt.NDArray[np.bool_]:
    """Which marks are of a key."""
    return found[:, 1] >= _KEYED


def _keyed(
    headers: Sequence[Sequence[tuple[str, bytes | None]] | None],
) -> dict[int, npt.NDArray[np.uint64]]:
    found = {}
    for at in [at for at, of_one in enumerate(headers) if of_one]:
        named: dict[str, Any] = {name.lower(): value for name, value in headers[at] or ()}
        if key := named.get(KEY_HEADER.lower()):
            client = named.get(CLIENT_HEADER.lower()) or b""
            digest = hashlib.sha256(len(client).to_bytes(8, "big") + client + key).digest()
            mark = np.frombuffer(digest[:16], "<u8").astype(np.uint64)
            mark[1] |= _KEYED
            found[at] = mark
    return found


def _of_contents(keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Marks:
    count = len(values)
    known = [value or b"" for value in values]
    found = np.empty((count, 2), np.uint64)
    found[:, 0] = np.fromiter(map(zlib.crc32, known), np.uint64, count) << np.uint64(32)
    found[:, 0] |= np.fromiter(map(crc32c.crc32c, known), np.uint64, count)
    found[:, 1] = np.fromiter(map(len, known), np.uint64, count)
    named = np.fromiter(map(contains, known, repeat(_ID)), np.bool_, count)
    for at in np.flatnonzero(~named).tolist():
        key = keys[at]
        if not known[at] or key is None:  # of which loan, nobody knows
            found[at] = 0
        else:
            found[at, 0] ^= np.uint64(zlib.crc32(key) << 32 | crc32c.crc32c(key))
    return found
