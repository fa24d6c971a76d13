"""Outcomes into the warehouse: of files, and of the loans that a producer has sent."""

import csv
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from credit_risk_dagster.domain.outcomes import (
    NAMES,
    Observation,
    OutcomeRefused,
    observation,
)
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.loans import Row
from credit_risk_dagster.pipelines.text_files import Unreadable, open_text, reading
from credit_risk_dagster.settings import LakeSettings
from resources.lake import Lake
from resources.postgres.connection import Warehouse
from resources.postgres.outcomes import Added, Outcomes

_S3 = "s3://"
_PARQUET = b"PAR1"
_DELIMITERS = ",;\t|"
_LOAN = frozenset({"loan_id", "id"})
_FLUSH_LOANS, _FLUSH_SECONDS = 5_000, 10.0


class OutcomesUnreadable(PlatformError):
    """A file of outcomes that cannot be read; the message says which row, and why."""


@dataclass
class Loaded:
    """What became of a file: rows added, known before in every value, and left out as damaged."""

    added: int = 0
    known: int = 0
    damaged: int = 0
    first_damaged: str = ""


def load_outcomes(
    warehouse: Warehouse,
    file: str,
    *,
    source: str | None = None,
    observed_at: datetime | None = None,
    skip_bad: bool = False,
    lake: LakeSettings | None = None,
) -> Loaded:
    """Load a file of outcomes, all of it or nothing. Safe to repeat: what is known is not added.

    Args:
        file: CSV in any usual encoding, plain or compressed, or Parquet; `s3://bucket/key` of the
            configured store; `-` is stdin. Columns as of `NAMES`, either name of each.
        source: of rows that do not say it; else the file's name.
        observed_at: of rows that do not say it.
        skip_bad: leave out rows that are no outcomes, and count them.
        lake: how to reach the store.

    Raises:
        OutcomesUnreadable: the file, or a row of it.
        LakeUnavailable, LakeRefused, ObjectMissing, WarehouseUnavailable, NotMigrated.
    """
    loaded = Loaded()
    with ExitStack() as stack:
        path = _local(file, lake, stack)
        named = source or file.rpartition("/")[2][:200]

        def rows() -> Iterator[Observation]:
            for place, row in _rows(path, file):
                try:
                    yield observation(row, source=named, observed_at=observed_at)
                except OutcomeRefused as error:
                    if not skip_bad:
                        raise OutcomesUnreadable(
                            f"{file}: {place}: {error}; correct it, or leave out such rows with "
                            "--skip-bad"
                        ) from error
                    loaded.damaged += 1
                    loaded.first_damaged = loaded.first_damaged or f"{place}: {error}"

        with warehouse.session("outcomes") as connection:
            added = Outcomes(connection).add(rows())
    loaded.added, loaded.known = added.added, added.known
    return loaded


def _local(file: str, settings: LakeSettings | None, stack: ExitStack) -> Path:
    if not file.startswith(_S3):
        return Path("/dev/stdin" if file == "-" else file)
    bucket, _, key = file.removeprefix(_S3).partition("/")
    if not bucket or not key:
        raise OutcomesUnreadable(f"{file} names no object: write s3://bucket/key")
    settings = (settings or LakeSettings()).model_copy(update={"bucket": bucket})
    path = Path(stack.enter_context(TemporaryDirectory(prefix="outcomes-"))) / "object"
    with path.open("wb") as copy:
        Lake(settings).get(key, copy)
    return path


def _rows(path: Path, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row of a file, and where it is."""
    try:
        with reading():
            if _is_parquet(path):
                yield from _parquet_rows(path)
            else:
                yield from _csv_rows(path)
    except (Unreadable, csv.Error) as error:
        raise OutcomesUnreadable(f"{name}: {error}") from error


def _is_parquet(path: Path) -> bool:
    if not os.path.isfile(path):
        return False  # a pipe can be read only once
    with path.open("rb") as opened:
        return opened.read(len(_PARQUET)) == _PARQUET


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import ParquetFile

    at = 0
    try:
        with ParquetFile(path) as opened:
            wanted = _wanted(opened.schema_arrow.names)
            for batch in opened.iter_batches(columns=list(wanted)):
                named = batch.rename_columns([wanted[name] for name in batch.schema.names])
                for row in named.to_pylist():
                    at += 1
                    yield f"row {at:,}", row
    except ArrowException as error:
        raise Unreadable(f"it is no whole Parquet file: {' '.join(str(error).split())}") from error


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with ExitStack() as stack:
        text = open_text(path, stack)
        first = text.readline(2**16)
        delimiter = max(_DELIMITERS, key=first.count)
        header = next(csv.reader([first], delimiter=delimiter), [])
        wanted = _wanted(header)
        at = [(place, wanted[name]) for place, name in enumerate(header) if name in wanted]
        rows = csv.reader(text, delimiter=delimiter)
        for values in rows:
            if any(value.strip() for value in values):
                last = len(values)
                row = {name: values[place] for place, name in at if place < last}
                yield f"line {rows.line_num + 1:,}", row


def _wanted(columns: Iterable[str]) -> dict[str, str]:
    """Of a file's columns those that tell an outcome, by the name that is known."""
    known = {*NAMES, *NAMES.values()}
    squashed = {name: name.strip("\ufeff ").lower().replace(" ", "_") for name in columns}
    found = {name: plain for name, plain in squashed.items() if plain in known}
    if not _LOAN & set(found.values()):
        raise Unreadable(f"it has no column loan_id or id; there are: {', '.join(columns)[:200]}")
    return found


class OutcomesLater:
    """Loans to send, and what became of them, told once they were sent: every few seconds, and the
    rest by `flush`.

    Args:
        loans: LendingClub rows.
        warehouse: where the outcomes go.
    """

    def __init__(self, loans: Iterable[Row], warehouse: Warehouse) -> None:
        self._loans = loans
        self._warehouse = warehouse
        self._sent: list[Row] = []
        self._due = time.monotonic() + _FLUSH_SECONDS
        self.added = 0

    def __iter__(self) -> Iterator[Row]:
        for loan in self._loans:
            if len(self._sent) >= _FLUSH_LOANS or time.monotonic() > self._due:
                self.flush()
            self._sent.append(loan)
            yield loan

    def flush(self) -> Added:
        """Store what is known of the loans that were sent so far."""
        sent, self._sent = self._sent, []
        self._due = time.monotonic() + _FLUSH_SECONDS
        found = list(outcomes_of(sent, "producer"))
        if not found:
            return Added(0, 0)
        with self._warehouse.session("outcomes") as connection:
            added = Outcomes(connection).add(found)
        self.added += added.added
        return added


def outcomes_of(loans: Iterable[Row], source: str) -> Iterator[Observation]:
    """What LendingClub rows say of how the loans went; rows that say nothing are left out. Where a
    row does not say when that was, it is now."""
    now = datetime.now(UTC).replace(microsecond=0)
    for loan in loans:
        try:
            yield observation(loan, source=source, observed_at=now)
        except OutcomeRefused:
            continue
