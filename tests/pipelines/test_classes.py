"""A file that says to which class people belong."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from credit_risk_dagster.pipelines.classes import Classes, ClassesUnreadable, read_classes

ROWS = pa.table({"loan_id": ["1", "2", "3", None], "addr_state": ["PA", "NY", "PA", "TX"]})


def read(folder: Path, text: str) -> Classes:
    (folder / "classes.csv").write_text(text)
    return read_classes(folder / "classes.csv")


def test_a_class_by_loan(tmp_path: Path) -> None:
    found = read(tmp_path, "id,class\n1.0,women\n 2 ,men\n7,men\n8,\n")
    weights = {name: given.tolist() for name, given in found.of(ROWS).items()}
    assert weights == {"men": [0, 1, 0, 0], "women": [1, 0, 0, 0]}
    assert found.words(ROWS) == "2 of 4 applications have a class, by loan_id"


def test_probabilities_by_loan_and_by_segment(tmp_path: Path) -> None:
    by_loan = read(tmp_path, "loan_id,white,black\n1,0.7,0.25\n3,,1\n")
    assert by_loan.of(ROWS)["white"].tolist() == [0.7, 0, 0, 0]
    assert by_loan.of(ROWS)["black"].tolist() == [0.25, 0, 1, 0]
    by_state = read(tmp_path, "addr_state,hispanic,other\nPA,0.08,0.92\nNY,0.2,0.8\n")
    assert by_state.of(ROWS)["hispanic"].tolist() == [0.08, 0.2, 0.08, 0]
    assert by_state.words(ROWS).endswith("by addr_state")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the columns  are not one of loan_id"),
        ("name,class\nAnn,women\n", "the columns name, class are not one of loan_id"),
        ("loan_id,addr_state,class\n1,PA,a\n", "are not one of loan_id"),
        ("loan_id\n1\n", "are not one of"),
        ("loan_id,a,b\n1,0.5\n", "line 2 does not have 3 columns"),
        ("loan_id,a,b\n1,0.5,0.5\n2,0.7,0.7\n", "line 3: the probabilities add up to more than 1"),
        ("loan_id,a,b\n1,x,0.5\n", "line 2: a is no probability"),
        ("loan_id,a,b\n1,0.5,-0.1\n", "line 2: b is no probability"),
        ("loan_id,a,b\n1,0.5,nan\n", "line 2: b is no probability"),
        ("loan_id,class\n1,\n", "there are 0 classes"),
        ("loan_id,class\n" + "".join(f"{i},{i}\n" for i in range(21)), "there are 21 classes"),
    ],
)
def test_what_says_no_classes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ClassesUnreadable, match=re.escape(message)):
        read(tmp_path, text)
    with pytest.raises(ClassesUnreadable, match="no such file"):
        read_classes(tmp_path / "nothing.csv")
