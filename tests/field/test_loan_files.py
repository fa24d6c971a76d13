"""LendingClub's files as people have them, each after a public report; the values are made up."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from credit_risk_dagster.pipelines.loan_files import LoanFile, csv_loans
from credit_risk_dagster.pipelines.loans import LoansUnavailable, Row
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.broker import Broker as Topic
from tests.platform.commands import CREDIT_RISK, Run, one_line

FILES = Path(__file__).parent / "files"
ACCEPTED = FILES / "accepted.csv"


@pytest.fixture(scope="module")
def accepted() -> list[Row]:
    """The three loans that most of the files have."""
    return list(csv_loans(ACCEPTED))


def refused(path: Path, *, skip_bad: bool = False) -> str:
    """Why a file cannot be read: one line, which names it."""
    with pytest.raises(LoansUnavailable) as caught:
        list(csv_loans(path, skip_bad=skip_bad))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# --- joined, with notes in it -------------------------------------------------------------------


def test_quarters_joined_with_cat(accepted: list[Row]) -> None:
    """Kaggle, wordsforthewise/lending-club (how its files were made: the quarters, one after the
    other); github.com/warner121/monteloanco drops the 33 rows of accepted_2007_to_2018Q4.csv that
    have no issue date, which are LendingClub's footers."""
    assert list(csv_loans(FILES / "joined_quarters.csv")) == accepted


def test_quarters_whose_columns_differ(accepted: list[Row]) -> None:
    """emmanuel-r8.github.io/project/lendingclub: papers count 110, 115 or 145 columns, by the day
    of the download."""
    rows = list(csv_loans(FILES / "joined_other_columns.csv"))
    assert rows[:2] == accepted[:2]
    same = rows[2].keys() & accepted[2].keys()
    assert {name: rows[2][name] for name in same} == {name: accepted[2][name] for name in same}
    assert (rows[2]["funded_amnt"], rows[2]["member_id"]) == ("12000", None)


def test_the_first_quarter_has_no_end_of_line(accepted: list[Row]) -> None:
    """Stack Overflow, "cat: merge CSV files, header and last row on one line"."""
    assert list(csv_loans(FILES / "joined_without_newline.csv")) == accepted


def test_compressed_quarters_joined_with_cat(tmp_path: Path, accepted: list[Row]) -> None:
    """A gzip of several members, as `cat 2015.csv.gz 2016.csv.gz` makes it: RFC 1952, 2.2."""
    header, *loans = ACCEPTED.read_text().splitlines(keepends=True)
    path = tmp_path / "both.csv.gz"
    path.write_bytes(gzip.compress((header + loans[0]).encode(), mtime=0))
    with path.open("ab") as file:
        file.write(gzip.compress("".join([header, *loans[1:]]).encode(), mtime=0))
    assert list(csv_loans(path)) == accepted


def test_joined_exports_of_windows(tmp_path: Path, accepted: list[Row]) -> None:
    """`copy a.csv+b.csv` of files with byte order marks: the second stands in the middle."""
    header, *loans = ACCEPTED.read_text().splitlines(keepends=True)
    path = tmp_path / "joined.csv"
    path.write_text(f"\ufeff{header}{loans[0]}\ufeff{header}{loans[1]}{loans[2]}", newline="\r\n")
    assert list(csv_loans(path)) == accepted


def test_notes_and_dividers_between_loans(accepted: list[Row]) -> None:
    """LoanStats3a.csv of lendingclub.com has "Loans that do not meet the credit policy" in its
    middle (pandas-dev/pandas#13879 is about such footers)."""
    assert list(csv_loans(FILES / "divider_in_the_middle.csv")) == accepted


def test_notes_after_pandas_has_saved_them(accepted: list[Row]) -> None:
    """The same, read with pandas and written with its index: the note is in the second cell, and
    what is missing may be written nan."""
    assert list(csv_loans(FILES / "notes_by_pandas.csv")) == accepted


@pytest.mark.parametrize(
    "line",
    ["77,,,,,,,,Current,18.1,", ",,36 months,12.5,Some Job,51000,,,,,", "x 1,abc,,,,,,,,,12.0"],
)
def test_a_loan_with_gaps_is_no_note(tmp_path: Path, line: str) -> None:
    """An event that cannot be scored is for the stream to reject, where somebody sees it."""
    path = tmp_path / "loans.csv"
    path.write_text(ACCEPTED.read_text() + line + "\n")
    assert len(list(csv_loans(path))) == 4


# --- columns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["trailing_commas", "trailing_commas_in_rows", "semicolons", "tabs", "pipes"]
)
def test_how_the_cells_are_separated(name: str, accepted: list[Row]) -> None:
    """pandas-dev/pandas#2886 (a delimiter at the end of each row); chriswarrick.com, "CSV is not a
    standard" (semicolons where the comma is the decimal mark); pandas-dev/pandas#22140 (pipes)."""
    assert list(csv_loans(FILES / f"{name}.csv")) == accepted


def test_decimal_commas(accepted: list[Row]) -> None:
    """chase-seibert.github.io, "International CSV files": European Excel writes 27,65 beside its
    semicolons. Without care each such loan is rejected."""
    assert list(csv_loans(FILES / "decimal_commas.csv")) == accepted


@pytest.mark.parametrize("name", ["index_column", "capitals", "spaces_in_header", "camel_case"])
def test_how_the_columns_are_named(name: str, accepted: list[Row]) -> None:
    """Stack Overflow, "How to get rid of Unnamed: 0 column"; names as databases (LOAN_AMNT), R
    (Loan Amnt) and LendingClub's own API (loanAmnt) write them."""
    known = ("id", "loan_amnt", "annual_inc", "dti", "int_rate", "earliest_cr_line", "revol_util")
    rows = list(csv_loans(FILES / f"{name}.csv"))
    for row, expected in zip(rows, accepted, strict=True):
        assert {column: row[column] for column in known} == {c: expected[c] for c in known}
        assert not any(column.startswith("unnamed") for column in row)


@pytest.mark.parametrize("name", ["no_id_column", "empty_ids"])
def test_loans_without_ids_get_one_that_stays(name: str, accepted: list[Row]) -> None:
    """emmanuel-r8.github.io/project/lendingclub: in the published files the ids were deleted, so
    the column is empty, and most people drop it."""
    loans = csv_loans(FILES / f"{name}.csv")
    ids = [row["id"] for row in loans]
    assert len(set(ids)) == 3
    assert [row["id"] for row in loans] == ids
    assert [row["id"] for row in csv_loans(FILES / "no_id_column.csv")] == ids
    assert loans.left_out() == "3 loans have no id and got one made of its values"
    without = [{k: v for k, v in row.items() if k != "id"} for row in loans]
    assert without == [{k: v for k, v in row.items() if k != "id"} for row in accepted]


def test_the_loan_id_of_another_export(tmp_path: Path, accepted: list[Row]) -> None:
    """The dashboard's own watchlist, and LendingClub's payments, call it loan_id."""
    path = tmp_path / "loans.csv"
    path.write_text(ACCEPTED.read_text().replace("id,", "LOAN_ID,", 1))
    assert list(csv_loans(path)) == accepted


def test_a_column_that_is_there_twice() -> None:
    """pandas calls them loan_amnt and loan_amnt.1; which one is meant, nobody can know."""
    assert refused(FILES / "duplicate_columns.csv") == (
        "line 1: column loan_amnt is there 2 times: keep one"
    )


def test_quotes_around_ends_of_lines(accepted: list[Row]) -> None:
    """LendingClub's `desc` and `emp_title` have what borrowers typed, ends of lines included."""
    rows = list(csv_loans(FILES / "quoted_newlines.csv"))
    assert rows[0]["emp_title"] == 'Teacher\nof "music"\n\nand art'
    assert rows[1:] == accepted[1:]


def test_rejected_applications_are_told_for_what_they_are() -> None:
    """Kaggle, wordsforthewise/lending-club: rejected_2007_to_2018Q4.csv lies beside the accepted
    loans, with nine other columns (github.com/joram13/cs156 tells which)."""
    message = refused(FILES / "rejected_applications.csv")
    assert message.startswith("line 1: these are LendingClub's rejected applications")
    assert "outcome and cannot be replayed as accepted loans" in message
    assert refused(FILES / "joined_with_rejected.csv").startswith("line 3: these are LendingClub's")


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"], ids=repr)
def test_encodings_and_ends_of_lines(
    encoding: str, end: str, tmp_path: Path, accepted: list[Row]
) -> None:
    """chriswarrick.com, "CSV is not a standard" (Excel's Unicode text is UTF-16 with tabs);
    pandas-dev/pandas#9102 (a Mac's ends of lines); Stack Overflow, "line contains NULL byte"."""
    text = ACCEPTED.read_text().replace("Teacher", "Café Zoë")
    path = tmp_path / "loans.csv"
    path.write_bytes(text.replace("\n", end).encode(encoding))
    expected = [{**accepted[0], "emp_title": "Café Zoë"}, *accepted[1:]]
    assert list(csv_loans(path)) == expected


def test_two_encodings_in_one_file(tmp_path: Path) -> None:
    """document-data-automation.com, "Fixing UnicodeDecodeError": exports of several years."""
    header, *loans = ACCEPTED.read_text().splitlines(keepends=True)
    old, new = (loans[0].replace("Teacher", "Zoë – €").encode(code) for code in ("cp1252", "utf8"))
    path = tmp_path / "loans.csv"
    path.write_bytes(header.encode() + old + new)
    assert [row["emp_title"] for row in csv_loans(path)] == ["Zoë – €", "Zoë – €"]


def zipped(data: bytes, name: str = "LoanStats.csv") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "gzip of a gzip": lambda data: gzip.compress(gzip.compress(data), mtime=0),
    "zip with a gzip": lambda data: zipped(gzip.compress(data, mtime=0), "LoanStats.csv.gz"),
}


@pytest.mark.parametrize("how", PACKED)
@pytest.mark.parametrize("name", ["loans.csv", "loans.gz", "loans.zip", "loans"])
def test_packed_whatever_the_name_says(
    how: str, name: str, tmp_path: Path, accepted: list[Row]
) -> None:
    """pandas-dev/pandas#21479, cytomining/pycytominer#95: a .csv that is a gzip; Kaggle's downloads
    are zips under any name, and browsers unpack a .gz without renaming it."""
    path = tmp_path / name
    path.write_bytes(PACKED[how](ACCEPTED.read_bytes()))
    assert list(csv_loans(path)) == accepted


def workbook() -> bytes:
    return zipped(b"<Types/>", "[Content_Types].xml")


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(ACCEPTED, "loans.csv")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (workbook(), "this is an Excel workbook (.xlsx): save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "this is an Excel workbook (.xls): save it as CSV"),
        (zipped(b"", "content.xml"), "this is an OpenDocument spreadsheet: save it as CSV"),
        ((FILES / "saved_web_page.csv").read_bytes(), "this is a web page (HTML or XML)"),
        ((FILES / "git_lfs_pointer.csv").read_bytes(), "this is a Git LFS pointer"),
        (b"PAR1\x15\x04", "this is a Parquet file: write it as CSV"),
        (b"SQLite format 3\0", "this is an SQLite database: export its table as CSV"),
        (b"\x28\xb5\x2f\xfd\x04", "this is compressed with zstd: unpack it"),
        (tar(), "this is a tar archive: unpack it"),
        (gzip.compress(tar(), mtime=0), "this is a tar archive: unpack it"),
        (b'{"id": "1", "loan_amnt": 5000}\n', "not a LendingClub CSV"),
        (b"", "it is empty"),
        (b"\n\n  \r\n", "it is empty"),
        (gzip.compress(b"", mtime=0), "it is empty"),
        (codecs.BOM_UTF8, "it is empty"),
        (bytes(5_000), "it is empty"),
        ((FILES / "only_a_header.csv").read_bytes(), "it has a header and no loans"),
    ],
)
def test_what_is_no_csv_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    """deepwiki.com/jopetty/word-problem (an LFS pointer in the place of a CSV); Kaggle's login page
    saved by wget under the file's name; Kaggle's first edition, a database.sqlite."""
    path = tmp_path / "loans.csv"
    path.write_bytes(content)
    assert refused(path).startswith(message)


def test_a_zip_with_a_password(tmp_path: Path) -> None:
    """Lenders send files so. The flag is the whole of it here."""
    data = bytearray(zipped(ACCEPTED.read_bytes()))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path = tmp_path / "loans.zip"
    path.write_bytes(data)
    assert "is encrypted, password required" in refused(path)


# --- damaged rows -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line", "what", "left"),
    [
        ("unclosed_quote", 3, "opens a quote that it does not close", 3),
        ("unclosed_quote_at_the_end", 4, "opens a quote that is never closed", 2),
        ("backslash_quote", 3, "has text after a closing quote", 2),
        ("backslash_quote_same_width", 3, "has text after a closing quote", 2),
        ("unquoted_comma", 3, "has 12 fields, the header has 11", 2),
        ("cut_off", 4, "has 5 fields, the header has 11", 2),
    ],
)
def test_a_damaged_row(name: str, line: int, what: str, left: int) -> None:
    r"""pandas-dev/pandas#22661 and #22140 (an unclosed quote swallows rows, or is told a million
    rows later), #47073 (nor can it be skipped), #5686 (a comma in a job title)."""
    path = FILES / f"{name}.csv"
    message = refused(path)
    assert message.startswith(f"line {line} {what}")
    assert message.endswith("or leave out such rows with --skip-bad (in Dagster: skip_bad)")
    loans = csv_loans(path, skip_bad=True)
    assert len(list(loans)) == left
    assert loans.left_out() == f"1 damaged row was left out, the first in line {line}"


def test_a_quote_that_swallows_the_rest_of_a_large_file(tmp_path: Path) -> None:
    """The same, ten thousand rows before the end: the rows after it are there."""
    header, good, *_ = ACCEPTED.read_text().splitlines(keepends=True)
    path = tmp_path / "loans.csv"
    path.write_text(header + good + good.replace("Teacher", '"Teacher') + 10_000 * good)
    assert refused(path).startswith("line 3 has a field without an end, as after a quote")
    loans = csv_loans(path, skip_bad=True)
    assert len(list(loans)) == 10_001


def test_rows_that_are_counted_after_ends_of_lines_within_rows(tmp_path: Path) -> None:
    """The line is the one that an editor shows."""
    text = (FILES / "quoted_newlines.csv").read_text()
    path = tmp_path / "loans.csv"
    path.write_text(text + "1,2,3\n" + text.splitlines(keepends=True)[-1] + "1,2,3\n")
    assert refused(path).startswith("line 8 has 3 fields")
    loans = csv_loans(path, skip_bad=True)
    assert len(list(loans)) == 4
    assert loans.left_out() == "2 damaged rows were left out, the first in line 8"


@pytest.mark.parametrize(
    "tail", [bytes(4_096), b"9100004,50\x0000,36,9,x,1,Jan-2016,Current,1,Jan-1999,\n"]
)
def test_zeros_in_a_file(tail: bytes, tmp_path: Path) -> None:
    """Stack Overflow, "_csv.Error: line contains NULL byte": after a full disk or a crash, the end
    of a file is zeros."""
    path = tmp_path / "loans.csv"
    path.write_bytes(ACCEPTED.read_bytes() + tail)
    assert refused(path).startswith("line 5 has NUL bytes, as a file that was not written to its")
    assert len(list(csv_loans(path, skip_bad=True))) == 3


def test_nothing_but_damaged_rows(tmp_path: Path) -> None:
    """A file in a format of its own is no file with a few bad rows."""
    path = tmp_path / "loans.csv"
    path.write_text(ACCEPTED.read_text().splitlines()[0] + "\n1,2\n3,4\n")
    assert refused(path, skip_bad=True) == "it has a header and no loans, 2 damaged rows"


# --- pipes --------------------------------------------------------------------------------------


@contextmanager
def fifo(path: Path, data: bytes) -> Iterator[Path]:
    """A named pipe that somebody writes into."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    writer.start()
    try:
        yield path
    finally:
        writer.join(10)
    assert not writer.is_alive()


@pytest.mark.parametrize("how", ["plain", "gzip", "xz"])
def test_a_pipe(how: str, tmp_path: Path, accepted: list[Row]) -> None:
    """wireservice/csvkit#1268, apache/arrow#41694: `tool <(zcat ...)` ends in "not seekable"."""
    data = PACKED.get(how, bytes)(ACCEPTED.read_bytes())
    with fifo(tmp_path / "pipe", data) as path:
        loans = csv_loans(path)
        assert list(loans) == accepted
    with pytest.raises(LoansUnavailable, match="a pipe can be read only once"):
        iter(loans)
    with pytest.raises(LoansUnavailable, match="a pipe can be read only once: save it to a file"):
        csv_loans(path, again=True)


def test_a_zip_in_a_pipe(tmp_path: Path) -> None:
    """A zip's directory is at its end."""
    with fifo(tmp_path / "pipe", PACKED["zip"](ACCEPTED.read_bytes())) as path:
        assert refused(path) == "a .zip in a pipe or in another archive: unpack it first"


def test_a_pipe_gives_its_loans_as_they_come(tmp_path: Path, accepted: list[Row]) -> None:
    """wireservice/csvkit#707: who waits for the end of a live pipe never begins."""
    header, *rest = ACCEPTED.read_bytes().splitlines(keepends=True)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    go_on = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(header + rest[0] * 100)
            go_on.wait(10)
            file.write(rest[1])

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    rows = iter(csv_loans(path))
    assert next(rows) == accepted[0]
    assert writer.is_alive()
    go_on.set()
    assert [*rows][-1] == accepted[1]
    writer.join()


@pytest.mark.usefixtures("servers")
def test_produce_reads_what_a_shell_hands_over(
    kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    """`credit-risk produce --csv <(zcat loans.csv.gz)`, and `-` for stdin."""
    path = tmp_path / "loans.csv.gz"
    path.write_bytes(gzip.compress(ACCEPTED.read_bytes(), mtime=0))
    command = f"'{CREDIT_RISK[0]}' produce --rate 0 --csv"
    for shell in (
        f"{command} <(zcat '{path}')",
        f"{command} - < '{path}'",
        f"cat '{path}' | {command} -",
    ):
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
        assert done.stdout.startswith("3 events in topic"), done.stderr
    assert sent(kafka_settings) == 9


# --- what the commands say ----------------------------------------------------------------------


def sent(settings: KafkaSettings) -> int:
    return sum(end for _, end in Topic(settings).inspect().offsets.values())


@pytest.mark.usefixtures("servers")
def test_produce_tells_how_many_were_sent(kafka_settings: KafkaSettings, run: Run) -> None:
    """pandas-dev/pandas#47073 again: where it was, and how to go on."""
    path = FILES / "unclosed_quote.csv"
    assert one_line(run("produce", "--csv", path, "--rate", 0)) == (
        f"{path}: line 3 opens a quote that it does not close, in '9100009,2500, 60 months,...': "
        "correct it, or leave out such rows with --skip-bad (in Dagster: skip_bad) "
        "(events sent before it: 1)"
    )
    assert sent(kafka_settings) == 1
    done = run("produce", "--csv", path, "--rate", 0, "--skip-bad")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("3 events in topic")
    assert done.out.endswith("; 1 damaged row was left out, the first in line 3\n")
    assert sent(kafka_settings) == 4


@pytest.mark.usefixtures("servers")
def test_produce_keys_what_has_no_id(kafka_settings: KafkaSettings, run: Run) -> None:
    """An event without a key has no partition of its own, and nobody can ask for its decision."""
    done = run("produce", "--csv", FILES / "no_id_column.csv", "--rate", 0)
    assert done.out.endswith("; 3 loans have no id and got one made of its values\n")


def test_a_baseline_and_a_model_refuse_rejected_applications(run: Run) -> None:
    """They have no outcome, so nothing can be learnt of them."""
    path = FILES / "rejected_applications.csv"
    for command in (["baseline", "freeze", "--csv"], ["model", "benchmark", "--sample"]):
        assert "these are LendingClub's rejected applications" in one_line(run(*command, path))


def test_python_sees_the_same(accepted: list[Row]) -> None:
    """A reading does not depend on the interpreter's UTF-8 mode."""
    code = (
        "from pathlib import Path; from credit_risk_dagster.pipelines.loan_files import csv_loans;"
        f"print(len(list(csv_loans(Path({str(ACCEPTED)!r})))))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{len(accepted)}\n"
    assert isinstance(csv_loans(ACCEPTED), LoanFile)
