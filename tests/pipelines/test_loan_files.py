"""LendingClub's CSV files as they should be, and the way they are read; the others: tests/field."""

import csv
import gzip
import subprocess
import sys
import zipfile
from io import StringIO
from pathlib import Path

import pytest

from credit_risk_dagster.pipelines.loan_files import REQUIRED_COLUMNS, csv_loans
from credit_risk_dagster.pipelines.loans import LoansUnavailable

HEADER = ("id", *REQUIRED_COLUMNS, "term", "emp_title", "emp_length")
LINES: list[tuple[str, ...]] = [
    ("1077501", "5000", "24000.0", "27.65", " 10.65%", "Jan-1985", " 36 months", "", "10+ years"),
    ("1077430", "2500", "", "999", "15.27", "Apr-99", " 60 months", 'Ryder, "Inc"', "n/a"),
    ("7.0", "12000", "5e4", "-1", "13.56%", "3-Sep", " 36 months", "Zoë\nDesigner", "< 1 year"),
]
NOTE_ABOVE = "Notes offered by Prospectus (https://www.lendingclub.com/info/prospectus.action)"
NOTES_BELOW = (
    "Total amount funded in policy code 1: 460296150",
    "Total amount funded in policy code 2: 0",
)


def expected_rows() -> list[dict[str, str | None]]:
    return [
        {name: value or None for name, value in zip(HEADER, line, strict=True)} for line in LINES
    ]


def csv_text(*, notes: bool = False) -> str:
    file = StringIO(newline="")
    writer = csv.writer(file)
    if notes:
        file.write(NOTE_ABOVE + "\n")
    writer.writerow(HEADER)
    writer.writerows(LINES)
    if notes:
        file.write("\n\n")
        writer.writerow([NOTES_BELOW[0], *[""] * (len(HEADER) - 1)])
        writer.writerow([NOTES_BELOW[1]])
    return file.getvalue()


def write_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("notes", [False, True], ids=["bare", "with notes"])
@pytest.mark.parametrize("kind", ["loans.csv", "loans.csv.gz", "LOANS.CSV.ZIP"])
def test_csv_rows_come_as_they_are(tmp_path: Path, kind: str, notes: bool) -> None:
    path = tmp_path / kind
    text = csv_text(notes=notes)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    elif path.suffix == ".ZIP":
        write_zip(path, {"x/LoanStats.csv": text, "__MACOSX/x/._LoanStats.csv": "junk"})
    else:
        path.write_text(text, newline="")
    loans = csv_loans(path)
    assert list(loans) == expected_rows()
    assert list(loans) == expected_rows(), "a second reading begins at the beginning"
    assert loans.left_out() == ""


def test_csv_without_the_required_columns(tmp_path: Path) -> None:
    path = tmp_path / "loans.csv"
    path.write_text("id,loan_amnt,annual_inc,int_rate\n1,2,3,4\n")
    with pytest.raises(LoansUnavailable, match=r"loans\.csv.* no column dti, earliest_cr_line;"):
        csv_loans(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other.csv", b"a,b\n1,2\n" * 100, "not a LendingClub CSV.* it begins with 'a,b'"),
        ("noise.csv", bytes(range(256)) * 2_000, "noise.csv: not a LendingClub CSV"),
        ("noise.gz", bytes(range(256)) * 10, "noise.gz: not a LendingClub CSV"),
        ("noise.zip", bytes(range(256)) * 10, "noise.zip: not a LendingClub CSV"),
        ("half.gz", gzip.compress(csv_text().encode(), mtime=0)[:9], "half.gz: .*it is cut off"),
        ("half.zip", b"PK\x03\x04 and no more", "half.zip: File is not a zip file"),
    ],
)
def test_no_csv(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LoansUnavailable, match=message) as caught:
        csv_loans(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(LoansUnavailable, match=r"missing\.csv: no such file"):
        csv_loans(tmp_path / "missing.csv")
    with pytest.raises(LoansUnavailable, match="this is a directory: name a file in it"):
        csv_loans(tmp_path)


def test_a_zip_with_several_files(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "loans.zip", {"a.csv": csv_text(), "b.csv": csv_text()})
    with pytest.raises(
        LoansUnavailable, match=r"must have one file in it, .* 2 \(a\.csv, b\.csv\)"
    ):
        csv_loans(path)


def test_a_truncated_gz(tmp_path: Path) -> None:
    path = tmp_path / "loans.csv.gz"
    lines = "".join(f"{number},1,2,3,4,Jan-1999,,,\n" for number in range(100_000))
    whole = gzip.compress((",".join(HEADER) + "\n" + lines).encode())
    path.write_bytes(whole[: len(whole) // 2])
    read: list[object] = []
    with pytest.raises(LoansUnavailable, match="ended before the end-of-stream marker") as caught:
        read.extend(csv_loans(path))
    assert len(read) > 40_000
    assert f"line {len(read) + 2:,}: " in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", ".gz", " without an end of line"])
def test_a_csv_is_never_loaded_whole(tmp_path: Path, kind: str) -> None:
    """Reading 200 MB takes no more memory than reading 1 MB."""
    header = ",".join(HEADER) + "\n"
    line = ",".join([*LINES[0][:-2], "x" * 20_000, "1 year"]) + "\n"
    small, big = tmp_path / f"small.csv{kind}", tmp_path / f"big.csv{kind}"
    for path, count in ((small, 50), (big, 10_000)):
        with gzip.open(path, "wt", compresslevel=1) if kind == ".gz" else path.open("w") as file:
            file.write(header)
            if kind.startswith(" "):
                file.write(line)
                file.truncate(count * 20_000)  # the rest is zeros
                continue
            for _ in range(count):
                file.write(line)
    code = """
import resource, sys
from pathlib import Path
from credit_risk_dagster.pipelines.loan_files import csv_loans
for path in sys.argv[1:]:
    rows = sum(1 for _ in csv_loans(Path(path), skip_bad=True))
    print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    command = [sys.executable, "-c", code, str(small), str(big)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (few, before), (many, after) = (map(int, out.split()) for out in done.stdout.splitlines())
    assert (few, many) == ((1, 1) if kind.startswith(" ") else (50, 10_000))
    room = 32 if kind.startswith(" ") else 4  # a line is read up to four million characters
    assert after - before < room * 1024, "kilobytes"
