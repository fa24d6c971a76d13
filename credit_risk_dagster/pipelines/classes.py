"""A file that says to which class people belong, or how probably: for fair lending, and for nothing
else. It is read when the report is made, and of it only sums are kept."""

import csv
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.loans import normal_id
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.text_files import Unreadable, open_text, reading

Floats = npt.NDArray[np.float64]
KEYS = ("loan_id", "addr_state", "purpose", "home_ownership", "grade", "application_type")
CLASS = "protected class"  # what the attribute is called
_CLASS = "class"
_MOST_CLASSES = 20
_ROUNDING = 0.01  # of probabilities that are written with few digits


class ClassesUnreadable(PlatformError):
    """A file that says no classes; the message says where and why, and never of whom."""


@dataclass(frozen=True)
class Classes:
    """Who belongs to which class.

    Attributes:
        key: of `KEYS`, what the file names people by.
        values: of the key, each once.
        weights: class to the probability of each value, shape (values,).
    """

    key: str
    values: pa.Array
    weights: dict[str, Floats]

    def of(self, rows: pa.Table) -> dict[str, Floats]:
        """Class to the probability of each row, which is 0 where the file does not name it."""
        at = pc.index_in(rows[self.key].cast(pa.string()), value_set=self.values)
        found = at.fill_null(len(self.values)).to_numpy()
        return {name: np.append(given, 0.0)[found] for name, given in self.weights.items()}

    def words(self, rows: pa.Table) -> str:
        """Of how many rows the file says something, by what."""
        said = np.sum(list(self.of(rows).values()), axis=0) > 0
        return f"{int(np.sum(said)):,} of {len(rows):,} applications have a class, by {self.key}"


def read_classes(path: Path) -> Classes:
    """Read a CSV: a column of `KEYS` (or `id`), and either `class`, or a column of probabilities
    for each class, as BISG gives them.

    Raises:
        ClassesUnreadable: it is none of these, or a probability is none.
    """
    try:
        with ExitStack() as stack, reading():
            reader = csv.reader(open_text(path, stack))
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (Unreadable, csv.Error) as error:
        raise ClassesUnreadable(f"{path}: {error}") from error
    header = ["loan_id" if name == "id" else name for name in header]
    keys = [name for name in header if name in KEYS]
    if len(keys) != 1 or len(header) < 2 or len(set(header)) < len(header):
        raise ClassesUnreadable(
            f"{path}: the columns {', '.join(header)[:200]} are not one of {', '.join(KEYS)}, and "
            f"{_CLASS} or a column of probabilities for each class"
        )
    at = header.index(keys[0])
    wrong = next((line for line, row in rows if len(row) != len(header)), None)
    if wrong is not None:
        raise ClassesUnreadable(f"{path}: line {wrong} does not have {len(header)} columns")
    names = [row[at].strip() for _, row in rows]
    values = [normal_id(name) or "" for name in names] if keys[0] == "loan_id" else names
    others = {name: place for place, name in enumerate(header) if place != at}
    found: dict[str, dict[str, float]] = {}
    for value, (line, row) in zip(values, rows, strict=True):
        if list(others) == [_CLASS]:
            name = row[others[_CLASS]].strip()
            found[value] = {name: 1.0} if name else {}
        else:
            texts = {name: row[place] for name, place in others.items()}
            found[value] = _probabilities(path, line, texts)
    return _classes(path, keys[0], found)


def _probabilities(path: Path, line: int, texts: dict[str, str]) -> dict[str, float]:
    found = {}
    for name, text in texts.items():
        try:
            found[name] = float(text) if text.strip() else 0.0
        except ValueError:
            found[name] = -1.0
    wrong = next((name for name, p in found.items() if not 0 <= p <= 1), None)
    if wrong is not None or sum(found.values()) > 1 + _ROUNDING:
        said = f"{wrong} is no probability" if wrong else "the probabilities add up to more than 1"
        raise ClassesUnreadable(f"{path}: line {line}: {said}")
    return found


def _classes(path: Path, key: str, values: dict[str, dict[str, float]]) -> Classes:
    names = sorted({name for found in values.values() for name in found})
    if not names or len(names) > _MOST_CLASSES:
        raise ClassesUnreadable(
            f"{path}: there are {len(names)} classes, and 1 to {_MOST_CLASSES} can be compared"
        )
    weights = {
        name: np.array([found.get(name, 0.0) for found in values.values()]) for name in names
    }
    return Classes(key, pa.array(list(values), pa.string()), weights)
