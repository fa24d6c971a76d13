"""Drift on demand."""

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from credit_risk_dagster.domain.shifts import ShiftRefused, parse_shift, shifted
from credit_risk_dagster.pipelines.loans import builtin_loans, endless

LOANS = list(builtin_loans())


def shift(loans: Any, *texts: str, after: int = 0) -> list[Any]:
    return list(shifted(loans, [parse_shift(text) for text in texts], after))


@pytest.mark.parametrize(
    ("text", "before", "now"),
    [
        ("dti=+8", 18.01, 26.01),
        ("dti=-8", 18.01, 10.01),
        ("dti=+8", None, None),
        ("dti=+8", 3, 11.0),
        ("dti=x0.5", 18.01, 9.005),
        ("int_rate=+2", " 14.07%", " 16.07%"),
        ("int_rate=x2", "14.07", "28.14"),
        ("term=+12", " 36 months", " 48 months"),
        ("dti=+8", "n/a", "n/a"),
    ],
)
def test_numbers_change_in_their_own_notation(text: str, before: Any, now: Any) -> None:
    column = text.split("=")[0]
    (changed,) = shift([{column: before, "id": "1"}], text)
    assert changed == {column: now, "id": "1"}


def test_what_comes_before_stays_as_it_is() -> None:
    changed = shift(LOANS[:50], "dti=+8", after=30)
    assert changed[:30] == LOANS[:30]
    for before, now in zip(LOANS[30:50], changed[30:], strict=True):
        assert now["dti"] == (
            before["dti"] if before["dti"] is None else pytest.approx(before["dti"] + 8)
        )
        assert {**now, "dti": None} == {**before, "dti": None}


@pytest.mark.parametrize(("times", "factor"), [("3", 3), ("0.5", 0.5), ("1.25", 1.25), ("0", 0)])
def test_a_value_becomes_more_or_less_frequent(times: str, factor: float) -> None:
    before = Counter(loan["purpose"] for loan in LOANS)
    changed = shift(LOANS, f"purpose:small_business=x{times}")
    now = Counter(loan["purpose"] for loan in changed)
    assert now.pop("small_business", 0) == int(factor * before.pop("small_business"))
    assert now == before
    # Evenly, and each loan whole.
    assert {id_ for loan in changed if (id_ := loan["id"])} <= {loan["id"] for loan in LOANS}


def test_several_shifts_of_an_endless_replay() -> None:
    shifts = [parse_shift("dti=+8"), parse_shift("grade:G=x5"), parse_shift("grade:A=x0")]
    found = list(islice(shifted(endless(LOANS[:100]), shifts, 100), 500))
    assert found[:100] == LOANS[:100]
    assert "A" not in {loan["grade"] for loan in found[100:]}


@pytest.mark.parametrize(
    "text", ["dti", "dti=8", "dti=+", "dti=+x", "=+8", "purpose:car=+3", "dti=*2", "dti=+8,term=+1"]
)
def test_what_is_no_shift_is_refused(text: str) -> None:
    with pytest.raises(ShiftRefused, match="is not like dti="):
        parse_shift(text)


def test_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(ShiftRefused, match="no column 'dty' to shift"):
        shift(LOANS[:5], "dty=+8")
