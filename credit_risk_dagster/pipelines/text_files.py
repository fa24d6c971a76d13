"""Text files as people have them: compressed or not, in any usual encoding, also from a pipe.

What a file is, its first bytes say; its name may say something else.
"""

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_HEAD_BYTES = 2**12  # enough to tell UTF-16 by its zeros
_LAYERS = 3  # a .csv.gz in a .zip, and one more
_MAGIC: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second one is empty
_OTHERS = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls): save it as CSV",
    b"PAR1": "a Parquet file: write it as CSV",
    b"SQLite format 3": "an SQLite database: export its table as CSV",
    b"%PDF": "a PDF document",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it (`zstd -d`)",
    b"\x04\x22\x4d\x18": "compressed with lz4: unpack it (`lz4 -d`)",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!": "a rar archive: unpack it",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
}
_TAR = slice(257, 262)
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose BOM it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# RuntimeError is what an encrypted .zip raises, and one of a method that Python has not.
_DAMAGED = (
    *(OSError, EOFError, ValueError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


class Unreadable(Exception):
    """Why a file cannot be read; who opened it knows its name and the line."""


@contextmanager
def reading() -> Iterator[None]:
    """Turn what opening and reading a file raises into Unreadable."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unreadable("no such file") from error
    except IsADirectoryError as error:
        raise Unreadable("this is a directory: name a file in it") from error
    except EOFError as error:
        raise Unreadable(f"{error}: it is cut off, fetch it again") from error
    except _DAMAGED as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Unreadable(said or type(error).__name__) from error


def open_text(path: Path, stack: ExitStack) -> io.TextIOWrapper:
    """Open a file as text; ends of lines stay as they are.

    Bytes that are no UTF-8 count as Windows-1252: a foreign letter in a job title ends nothing.

    Args, Raises: as `unpacked`.
    """
    file, encoding = unpacked(path, stack)
    errors = "windows-1252" if encoding.startswith("utf-8") else "replace"
    return stack.enter_context(io.TextIOWrapper(file, encoding, errors=errors, newline=""))


def utf8_lines(path: Path | BinaryIO) -> Iterator[bytes]:
    """The lines of a file or a stream, in UTF-8 whatever it has; other bytes stay as they are.

    Raises:
        Unreadable: as `unpacked`; also while iterating, when the file is damaged.
    """
    with ExitStack() as stack, reading():
        file, encoding = unpacked(path, stack)
        if encoding.startswith("utf-8"):
            yield from file
        else:
            text = stack.enter_context(io.TextIOWrapper(file, encoding, errors="replace"))
            yield from (line.encode() for line in text)


def unpacked(path: Path | BinaryIO, stack: ExitStack) -> tuple[Any, str]:
    """Open a file: plain, or by gzip, bzip2, xz or in a .zip by itself; and its encoding.

    It is UTF-8, UTF-16 or UTF-32, with or without byte order mark.

    Args:
        path: the file, or a pipe; or a stream, which stays open.
        stack: closes what was opened.

    Raises:
        Unreadable: it is something else; the message says what, and what to do.
        OSError, EOFError, ValueError, ...: as `reading` expects.
    """
    file: Any = stack.enter_context(path.open("rb")) if isinstance(path, Path) else path
    seekable = file.seekable()
    for layer in range(_LAYERS):
        head = file.read(_HEAD_BYTES)
        if seekable:
            file.seek(0)
        else:
            file = io.BufferedReader(_LookedAt(head, file))
        unpack = next((unpack for magic, unpack in _MAGIC.items() if head.startswith(magic)), None)
        if head.startswith(_ZIP):
            if layer or not seekable:
                raise Unreadable("a .zip in a pipe or in another archive: unpack it first")
            file = _only_member(stack.enter_context(zipfile.ZipFile(file)))
        elif unpack:
            file = stack.enter_context(unpack(file))
        else:
            break
    else:
        raise Unreadable(f"it is packed {_LAYERS} times or more: unpack it")
    _refuse_others(head)
    return file, _encoding(head)


class _LookedAt(io.RawIOBase):
    """A pipe whose first bytes were taken out to look at: it gives them only once."""

    def __init__(self, head: bytes, rest: io.BufferedIOBase) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._head:
            return self._rest.readinto1(buffer)
        size = min(len(buffer), len(self._head))
        buffer[:size], self._head = self._head[:size], self._head[size:]
        return size


def _only_member(archive: zipfile.ZipFile) -> Any:
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if "[Content_Types].xml" in names:
        raise Unreadable("this is an Excel workbook (.xlsx): save it as CSV")
    if "content.xml" in names:
        raise Unreadable("this is an OpenDocument spreadsheet: save it as CSV")
    # A Mac adds files of its own.
    members = [n for n in names if not n.startswith("__MACOSX/") and "/." not in f"/{n}"]
    if len(members) != 1:
        few = ", ".join(members[:4]) + (", ..." if len(members) > 4 else "")
        raise Unreadable(
            f"a .zip must have one file in it, this one has {len(members)}"
            + (f" ({few}): unpack the one that is meant" if members else "")
        )
    return archive.open(members[0])


def _refuse_others(head: bytes) -> None:
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise Unreadable(f"this is {what}")
    if head[_TAR] == b"ustar":
        raise Unreadable("this is a tar archive: unpack it")
    if head.lstrip().lower().startswith(_MARKUP):
        raise Unreadable("this is a web page (HTML or XML), as a refused download saves it")


def _encoding(head: bytes) -> str:
    for bom, encoding in _BOMS.items():
        if head.startswith(bom):
            return encoding
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) / 8 and min(even, odd) < max(even, odd) / 4:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def _windows_1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # noqa: S101 (only decoding has this handler)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("windows-1252", _windows_1252)
