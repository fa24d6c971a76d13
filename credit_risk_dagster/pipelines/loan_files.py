"""LendingClub's CSV files as people have them: docs/files.md says which can be replayed."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from itertools import chain, compress, islice, tee
from pathlib import Path

from credit_risk_dagster.domain.decoding import Event
from credit_risk_dagster.pipelines.loans import LoansUnavailable, Row
from credit_risk_dagster.pipelines.text_files import Unreadable, open_text, reading

REQUIRED_COLUMNS = ("loan_amnt", "annual_inc", "dti", "int_rate", "earliest_cr_line")
_AMOUNT = REQUIRED_COLUMNS[0]
_HEADER_WITHIN_LINES = 20
_LONGEST_LINE = 2**22  # characters, of which a broken file may have any number without an end
_DELIMITERS = ",;\t|"
_SHOWN = 24  # characters of a line that cannot be read

# Names that the platform knows, however they are written: "Loan Amnt", LOAN_AMNT, loanAmnt.
_SQUASH = re.compile(r"[\W_]+")
_KNOWN = {_SQUASH.sub("", name): name for name in Event.__struct_fields__}
_INDEX = re.compile(r"(unnamed: ?\d.*)?", re.IGNORECASE)
_REJECTED = {"amount_requested", "risk_score", "debt_to_income_ratio"}

_NOTHING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat"})
_SENTENCE = re.compile(r"[^\W\d_]{2,}\S*\s+\S")  # two words: an id has none
_DIVIDER = re.compile(r"[-=_*#~+.:\s]+")
_NUMBER = re.compile(r"\s*[-+$]?[\d.]")
_HEADING = re.compile(r"int.?rate|risk.?score", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d{1,2}\s*%?\s*")

_DAMAGE = {
    "unexpected end of data": "opens a quote that is never closed",
    "field larger": "has a field without an end, as after a quote that is never closed",
    "expected after": 'has text after a closing quote (within a field, a quote is written "")',
}


class LoanFile:
    """The loans of a LendingClub CSV; iterating reads it, from the beginning each time.

    A loan's values are the strings that the file has, under LendingClub's own column names. One
    that has no id gets one made of its values, the same in each reading. Headers that come again
    are taken for what they are; LendingClub's notes, dividers and empty lines are left out.

    Attributes:
        damaged: rows that the last reading left out, with `skip_bad`; the first is in line
            `first_damaged`.
        made_ids: loans of the last reading that have a made id.
    """

    def __init__(self, path: Path, skip_bad: bool) -> None:
        self._path = path
        self._skip_bad = skip_bad
        self._begun: Iterator[Row] | None = self._read()
        next(self._begun)  # up to the header

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    def __iter__(self) -> Iterator[Row]:
        rows, self._begun = self._begun, None
        if rows is None:
            _refuse_pipe(self._path)
            rows = self._read()
            next(rows)
        return rows

    def left_out(self) -> str:
        """What is to be said of the last reading; empty when nothing is."""
        told = []
        if self.damaged:
            rows = "row was" if self.damaged == 1 else "rows were"
            told.append(
                f"{self.damaged:,} damaged {rows} left out, the first in line "
                f"{self.first_damaged:,}"
            )
        if self.made_ids:
            loans = "loan has" if self.made_ids == 1 else "loans have"
            told.append(f"{self.made_ids:,} {loans} no id and got one made of its values")
        return "; ".join(told)

    def _read(self) -> Iterator[Row]:
        """Yields an empty row once the header is found, then the loans."""
        self.damaged = self.first_damaged = self.made_ids = 0
        self._line = 0  # that is read next
        try:
            with ExitStack() as stack, reading():
                yield from self._loans(open_text(self._path, stack))
        except Unreadable as error:
            place = f"line {self._line:,}: " if self._line else ""
            raise LoansUnavailable(f"{self._path}: {place}{error}") from error

    def _loans(self, text: io.TextIOWrapper) -> Iterator[Row]:
        self._lines = iter(partial(text.readline, _LONGEST_LINE), "")
        header: _Header | None = self._find_header()
        self._empty = True
        yield {}
        while header:
            header = yield from self._section(header)
        if self._empty:
            self._line = 0
            rows = f", {self.damaged:,} damaged rows" if self.damaged else ""
            raise Unreadable(f"it has a header and no loans{rows}")

    def _section(self, header: "_Header") -> Generator[Row, None, "_Header | None"]:
        """The loans up to a row after which another reader is needed.

        Returns:
            The header of the loans that follow; None at the end of the file.
        """
        # Lines come twice: to the reader, and row by row, so that those after the first one of a
        # damaged row are read again.
        ahead, self._lines = tee(self._lines)
        lines, start, used, some = self._lines, self._line, 0, False
        reader = csv.reader(ahead, delimiter=header.delimiter, strict=True)
        columns, width, amount = header.columns, len(header.cells), header.amount
        plain = header.plain
        try:
            for values, line in zip(reader, lines, strict=False):
                if not (len(values) == width and "0" <= values[amount] < ":" and "\0" not in line):
                    found = header.judge(values, line)
                    if isinstance(found, _Header):
                        used += 1
                        return found
                    values = found
                if values:
                    cells = values if plain else header.own(values)
                    # They are as many; `strict` would take 2 % of the time.
                    row = dict(zip(columns, [cell or None for cell in cells]))  # noqa: B905
                    if row.get("id") is None:
                        row["id"] = _made_id(cells)
                        self.made_ids += 1
                    some = True
                    yield row
                used += 1
                if used != reader.line_num:  # there are ends of lines within the row
                    next(islice(lines, reader.line_num - used - 1, None))
                    used = reader.line_num
            return None
        except csv.Error as error:
            damage, line = _damage(error, reader.line_num - used), next(lines)
        except _DamagedRow as error:
            damage = str(error)
        finally:
            self._line = start + used
            self._empty &= not some
        self._leave_out(line, damage)
        return header

    def _find_header(self) -> "_Header":
        first = list(islice(self._lines, _HEADER_WITHIN_LINES))
        for self._line, line in enumerate(first, 1):
            if header := _Header.of(line):
                self._lines = chain(first[self._line :], self._lines)
                self._line += 1
                return header
        self._line = 0
        if not any(line.strip("\0\r\n\ufeff \t") for line in first):
            raise Unreadable("it is empty")
        missing = min((_missing(line) for line in first), key=len)
        begin = next(line for line in first if line.strip())
        raise Unreadable(
            f"not a LendingClub CSV, it has no column {', '.join(missing)}; it begins with "
            f"{_shown(begin)}"
        )

    def _leave_out(self, line: str, problem: str) -> None:
        if not self._skip_bad:
            number, self._line = self._line, 0
            raise Unreadable(
                f"line {number} {problem}, in {_shown(line)}: correct it, or leave out such rows "
                "with --skip-bad (in Dagster: skip_bad)"
            )
        self.damaged += 1
        self.first_damaged = self.first_damaged or self._line
        self._line += 1


def csv_loans(path: Path, *, skip_bad: bool = False, again: bool = False) -> LoanFile:
    """The loans of a LendingClub CSV; see docs/files.md for what it may look like.

    The file is streamed, so its size does not matter.

    Args:
        path: the file, or a pipe; `-` is stdin.
        skip_bad: leave out rows that are damaged, and count them.
        again: they will be read more than once.

    Raises:
        LoansUnavailable: no such file, not a CSV, or required columns are not there. While
            iterating: the file is damaged, or has no loans.
    """
    path = Path("/dev/stdin") if str(path) == "-" else path
    if again:
        _refuse_pipe(path)
    return LoanFile(path, skip_bad)


def _refuse_pipe(path: Path) -> None:
    if os.path.exists(path) and not (path.is_file() or path.is_dir()):
        raise LoansUnavailable(f"{path}: a pipe can be read only once: save it to a file")


class _DamagedRow(Exception):
    """What is wrong with a row, after "line 5"."""


@dataclass(frozen=True)
class _Header:
    """A header: its cells as they are, and the columns that they name, None for none."""

    cells: list[str]
    names: list[str | None]
    delimiter: str

    @staticmethod
    def of(line: str) -> "_Header | None":
        """The header that a line is; None if it is none.

        Raises:
            Unreadable: it is one of another file, or has a column twice.
        """
        for delimiter in _DELIMITERS:
            cells = _split(line, delimiter)
            while cells and not cells[-1].strip():
                cells.pop()  # a comma at the end
            names = [_column(cell) for cell in cells]
            if "id" not in names:
                names = ["id" if name == "loan_id" else name for name in names]
            if names.count("id") < 2 and _REJECTED.issubset(names):
                raise Unreadable(
                    "these are LendingClub's rejected applications (Amount Requested, Risk_Score, "
                    "...): they have no interest rate, income or outcome and cannot be replayed as "
                    "accepted loans; take a file of accepted loans"
                )
            if set(REQUIRED_COLUMNS).issubset(names):
                for name, times in Counter(filter(None, names)).items():
                    if times > 1:
                        raise Unreadable(f"column {name} is there {times} times: keep one")
                return _Header(cells, names, delimiter)
        return None

    @cached_property
    def amount(self) -> int:
        """Position of the amount, which is a number in every loan and in nothing else."""
        return self.names.index(_AMOUNT)

    @cached_property
    def columns(self) -> list[str]:
        """The columns that have a name."""
        return [name for name in self.names if name is not None]

    @cached_property
    def plain(self) -> bool:
        """Whether `own` changes nothing."""
        return None not in self.names and self.delimiter != ";"

    @cached_property
    def _kept(self) -> list[bool]:
        return [name is not None for name in self.names]

    def own(self, values: Sequence[str]) -> list[str]:
        """The values of `columns`, numbers with a decimal point."""
        kept = compress(values, self._kept)
        return [*map(_point, kept)] if self.delimiter == ";" else [*kept]

    def judge(self, values: list[str], line: str) -> "list[str] | _Header":
        """What a row is that looks like no loan: its values after all, none of a note, or a header.

        Args:
            values: its fields.
            line: the first of its lines.

        Raises:
            _DamagedRow: it is broken.
        """
        if "\0" in line:
            raise _DamagedRow("has NUL bytes, as a file that was not written to its end")
        width = len(self.cells)
        if not any(values[width:]):
            del values[width:]
        if _HEADING.search(line):
            if values[1:] == self.cells[1:] and values[0].endswith(self.cells[0]):
                return []  # this one again, maybe after the end of a file that had no last newline
            if values[width:] == self.cells[1:] and values[width - 1].endswith(self.cells[0]):
                last = values[width - 1].removesuffix(self.cells[0]).rstrip("\ufeff")
                return [*values[: width - 1], last]
            if header := _Header.of(line):
                return header
        if self._is_note(values):
            return []
        if len(values) != width:
            raise _DamagedRow(f"has {len(values)} fields, the header has {width}")
        return values

    def _is_note(self, values: Sequence[str]) -> bool:
        filled = [at for at, value in enumerate(values) if value.strip().lower() not in _NOTHING]
        lead = self.names.index(self.columns[0])  # an index stands before it
        if len(filled) > 1 and filled[0] < lead:
            filled = filled[1:]
        if not filled:
            return True
        text = values[filled[0]].strip()
        if filled[0] > lead:
            return False
        if len(filled) == 1:
            return True
        if not (_SENTENCE.search(text) or _DIVIDER.fullmatch(text)):
            return False
        if len(values) < len(self.names):
            return True  # a sentence with commas
        return not any(_NUMBER.match(values[self.names.index(name)]) for name in REQUIRED_COLUMNS)


def _made_id(cells: Sequence[str]) -> str:
    """An id for a loan that has none: equal loans have equal ones, wherever they stand."""
    content = "\x1f".join(cells).strip("\x1f")  # an empty column of ids is none
    return "made-" + blake2b(content.encode(), digest_size=8).hexdigest()


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _column(cell: str) -> str | None:
    """The column that a header's cell names; None for the index of a data frame."""
    cell = cell.strip().strip("\ufeff").strip()
    if _INDEX.fullmatch(cell):
        return None
    words = _SQUASH.sub("_", cell.lower()).strip("_")
    return _KNOWN.get(words.replace("_", "")) or words or None


def _missing(line: str) -> list[str]:
    every = ([_column(cell) for cell in _split(line, delimiter)] for delimiter in _DELIMITERS)
    return min(([n for n in REQUIRED_COLUMNS if n not in names] for names in every), key=len)


def _point(value: str) -> str:
    """A number with a decimal comma, as they are where semicolons separate, with a point."""
    if "," in value and _DECIMAL_COMMA.fullmatch(value):
        return value.replace(",", ".")
    return value


def _damage(error: csv.Error, lines: int) -> str:
    said = str(error)
    if lines > 1 and "expected after" in said:
        return "opens a quote that it does not close"
    return next(
        (words for part, words in _DAMAGE.items() if part in said), f"cannot be read: {said}"
    )


def _shown(line: str) -> str:
    line = line.strip()
    return repr(line if len(line) <= _SHOWN else line[:_SHOWN] + "...")
