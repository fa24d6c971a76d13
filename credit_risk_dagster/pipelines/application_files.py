"""Files of applications as people have them: JSON lines, a JSON array, JSON over several lines, or
a CSV of loans; compressed or not, also from a pipe. What a file is, its first lines say."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec
import numpy as np

from credit_risk_dagster.domain.decoding import decode, reason_code
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.loan_files import LoansUnavailable, csv_loans
from credit_risk_dagster.pipelines.text_files import Unreadable, utf8_lines

_LOOKED_AT = 20  # lines
_NO_OBJECT = [reason_code("invalid_json"), reason_code("not_an_object")]


class UnreadableApplications(PlatformError):
    """A file that has no applications which could be read."""


def read_applications(file: str) -> Iterator[bytes]:
    """The applications of a file, each as JSON of its own; blank lines are none.

    Args:
        file: its path; - is stdin.

    Raises:
        UnreadableApplications: it cannot be read, or is something else; the message says what.
    """
    try:
        yield from _read(file)
    except Unreadable as error:
        raise UnreadableApplications(f"cannot read {file}: {error}") from error


def _read(file: str) -> Iterator[bytes]:
    source = sys.stdin.buffer if file == "-" else Path(file)
    lines: Iterator[bytes]
    lines = (text for line in utf8_lines(source) if (text := line.rstrip(b"\r\n")).strip())
    first = list(islice(lines, _LOOKED_AT))
    lines = chain(first, lines)
    if not first:
        return
    begins = first[0].lstrip(b"\xef\xbb\xbf \t")[:1]
    are_objects = ~np.isin(decode(first).reasons, _NO_OBJECT)
    whole = {b"[": _array, b"{": _objects}.get(begins)
    if whole and len(first) > 1 - (begins == b"[") and not are_objects[0]:
        text = b"\n".join(lines)
        try:
            lines = iter(whole(text))
        except Unreadable:
            if not are_objects.any():
                raise
            lines = iter(text.split(b"\n"))
    elif not (whole or are_objects.any()):
        lines = _loans(file, lines)
    yield from lines


def _array(text: bytes) -> list[bytes]:
    try:
        return [bytes(one) for one in msgspec.json.decode(text, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, RecursionError, ValueError):
        # NaN, Infinity and a BOM are no JSON, and are written all the same.
        try:
            return [_json(one) for one in json.loads(_text(text))]
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"it begins like a JSON array, and is none: {error}") from error


def _objects(text: bytes) -> list[bytes]:
    """JSON objects one after the other, with any space between."""
    written, found, at = _text(text).rstrip(), [], 0
    decoder = json.JSONDecoder()
    while at < len(written):
        try:
            one, at = decoder.raw_decode(written, at)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"it begins like a JSON object, and is none: {error}") from error
        found.append(_json(one))
        while at < len(written) and written[at] in " \t\r\n,":
            at += 1
    return found


def _text(text: bytes) -> str:
    return text.decode("utf-8-sig", "surrogateescape")


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _loans(file: str, lines: Iterator[bytes]) -> Iterator[bytes]:
    """The rows of a CSV; one from stdin is written to a file first, because its header may be told
    by later lines."""
    with ExitStack() as stack:
        path = Path(file)
        if file == "-":
            spooled = stack.enter_context(NamedTemporaryFile(prefix="credit-risk-", suffix=".csv"))
            spooled.writelines(line + b"\n" for line in lines)
            spooled.flush()
            path = Path(spooled.name)
        try:
            for row in csv_loans(path):
                yield msgspec.json.encode(row)
        except LoansUnavailable as error:
            said = str(error).removeprefix(f"{path}: ")
            raise Unreadable(f"it has no JSON objects, and as a CSV: {said}") from error
