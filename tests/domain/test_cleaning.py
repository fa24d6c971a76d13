"""Cleaning: every shape in which LendingClub's values come, and what they mean."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_risk_dagster.domain.cleaning import CleanApplications, clean
from credit_risk_dagster.domain.decoding import ACCEPTED, REASONS, decode
from tests.malformed import GOOD

DATA = Path(__file__).parents[1] / "data"
SAMPLE = (DATA / "lendingclub_raw_sample.jsonl").read_bytes().splitlines()
# What is expected of the sample; `slow_clean` below says the same in other words.
CLEANED = json.loads((DATA / "lendingclub_sample_cleaned.json").read_text())

REJECTED = object()


def cleaned(*rows: dict[str, Any], keys: Sequence[bytes | None] | None = None) -> CleanApplications:
    """Rows on top of the good application, decoded from JSON and cleaned."""
    return clean(decode([json.dumps({**GOOD, **row}).encode() for row in rows], keys))


def reason(applications: CleanApplications) -> str | None:
    code = applications.reasons[0]
    return None if code == ACCEPTED else REASONS[code]


def number(field: str, value: Any) -> Any:
    """The cleaned number; None where it is missing, `REJECTED` where it is impossible."""
    column = {"term": "term_months", "emp_length": "emp_length_yrs"}.get(field, field)
    applications = cleaned({field: value})
    if reason(applications) == f"invalid_value:{field}":
        return REJECTED
    result = float(applications.numbers[column][0])
    return None if math.isnan(result) else result


def text(field: str, value: Any) -> Any:
    """The cleaned text; None where it is missing, `REJECTED` where it is impossible."""
    column = {"id": "loan_id"}.get(field, field)
    applications = cleaned({field: value})
    if reason(applications) == f"invalid_value:{field}":
        return REJECTED
    assert reason(applications) is None
    return applications.texts[column][0].as_py()


def history(earliest_cr_line: Any, issue_d: Any = "Mar-2018", event_time: Any = None) -> Any:
    """Years of credit history; None where missing, `REJECTED` where it is impossible."""
    applications = cleaned(
        {"earliest_cr_line": earliest_cr_line, "issue_d": issue_d, "event_time": event_time}
    )
    if reason(applications) == "invalid_value:earliest_cr_line":
        return REJECTED
    years = float(applications.numbers["credit_history_years"][0])
    assert reason(applications) == ("missing_required:credit_history" if years != years else None)
    return None if math.isnan(years) else years


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["int_rate", "revol_util", "dti"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("13.56%", 13.56),
        ("13.56", 13.56),
        (13.56, 13.56),
        (" 13.56%", 13.56),
        ("13.56 % ", 13.56),
        ("+13.56", 13.56),
        ("17%", 17),
        ("17", 17),
        (17, 17),
        ("17.", 17),
        (".5%", 0.5),
        ("1e1", 10),
        (0, 0),
        ("0.00%", 0),
        (100, 100),
        (None, None),
        (math.nan, None),
        *((word, None) for word in ("", "  ", "n/a", "N/A", "NA", "nan", "NaN", "null", "None")),
        *((word, None) for word in ("-", "--", "NaT", "%", "nan%", "n/a %")),
        *((word, REJECTED) for word in ("13,56", "13.56%%", "% 13", "abc", "13 56", "1.2.3")),
        *((word, REJECTED) for word in ("1e999", "inf", "0x1F", "1_0", "١٣", ".", "e5", "9" * 65)),
        *((junk, REJECTED) for junk in (True, False, [], [13.56], {}, math.inf, 10**400)),
    ],
)
def test_percentages(field: str, value: Any, expected: Any) -> None:
    assert number(field, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (10000, 10000),
        (10000.5, 10000.5),
        ("10000", 10000),
        ("10,000", 10000),
        ("1,234,567.89", 1234567.89),
        ("1e4", 10000),
        ("0.01", 0.01),
        (2**53 + 2, REJECTED),  # of dollars
        *((word, REJECTED) for word in ("10,00", "1,0000", "0,500", ",500", "1,000,00", "1 000")),
        *((word, REJECTED) for word in ("$10,000", "10k", "10000%", "(500)", 0, -1, "-500")),
    ],
)
def test_money(value: Any, expected: Any) -> None:
    assert number("loan_amnt", value) == expected


def test_an_income_may_be_nothing() -> None:
    assert number("annual_inc", 0) == 0
    assert number("annual_inc", "-0.01") is REJECTED


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((dti, dti) for dti in (0, 5e-324, 20, 99.99, 100, 100.01, 100.5, 998.99, 999.01, 1000)),
        *((dti, dti) for dti in (9_998, 10_000, 100_000)),
        *((dti, None) for dti in (-1, -1.0, "-1", 999, 999.0, "999", "999%", 9999, "9999.00")),
        *((dti, REJECTED) for dti in (-0.01, -2, -999, 100_000.01, 1e300)),
    ],
)
def test_only_minus_1_and_999_and_9999_are_no_dti(value: Any, expected: Any) -> None:
    assert number("dti", value) == expected
    if expected is None:
        assert reason(cleaned({"dti": value})) == "missing_required:dti"
    joint = cleaned({"dti_joint": value})
    assert (reason(joint) == "invalid_value:dti_joint") is (expected is REJECTED)


# --- joint applications -------------------------------------------------------------------------

PRIMARY = {"dti": 40.0, "annual_inc": 30_000.0}
BOTH = {"dti_joint": 18.0, "annual_inc_joint": 95_000.0}
NOBODY = {"dti_joint": None, "annual_inc_joint": None}
JOINT = {**PRIMARY, **BOTH, "application_type": "Joint App"}


@pytest.mark.parametrize(
    ("row", "combined", "primary"),
    [
        (JOINT, ("combined", 18, 95_000), ("primary", 40, 30_000)),
        (
            JOINT | {"application_type": " JOINT "},
            ("combined", 18, 95_000),
            ("primary", 40, 30_000),
        ),
        (JOINT | {"application_type": None}, ("combined", 18, 95_000), ("primary", 40, 30_000)),
        (JOINT | {"dti_joint": None}, ("mixed", 40, 95_000), ("primary", 40, 30_000)),
        (JOINT | {"dti_joint": 999}, ("mixed", 40, 95_000), ("primary", 40, 30_000)),
        (JOINT | {"annual_inc_joint": ""}, ("mixed", 18, 30_000), ("primary", 40, 30_000)),
        (JOINT | NOBODY, ("fallback", 40, 30_000), ("primary", 40, 30_000)),
        (JOINT | {"dti": None}, ("combined", 18, 95_000), ("primary", None, 30_000)),
        (JOINT | {"dti_joint": 101.5}, ("combined", 101.5, 95_000), ("primary", 40, 30_000)),
        (JOINT | {"application_type": "Individual"}, (None, 40, 30_000), (None, 40, 30_000)),
        (JOINT | {"application_type": "DIRECT_PAY"}, (None, 40, 30_000), (None, 40, 30_000)),
        (PRIMARY | {"application_type": None}, (None, 40, 30_000), (None, 40, 30_000)),
    ],
)
def test_whose_figures_decide(
    row: dict[str, Any], combined: tuple[Any, ...], primary: tuple[Any, ...]
) -> None:
    events = decode([json.dumps({**GOOD, **row}).encode()])
    for joint, (figures, dti, income) in (("combined", combined), ("primary", primary)):
        found = clean(events, joint)  # type: ignore[arg-type]
        assert found.columns()["figures"].tolist() == [figures]
        assert [None if math.isnan(found.numbers["dti"][0]) else found.numbers["dti"][0]] == [dti]
        assert found.numbers["annual_inc"].tolist() == [income]
        assert (reason(found) == "missing_required:dti") is (dti is None)
        for name, value in (("dti", row["dti"]), ("annual_inc", row["annual_inc"])):
            own = found.numbers[f"{name}_primary"][0]  # whoever decided, both are kept
            assert math.isnan(own) if figures is None or value is None else own == value
        kept = row.get("annual_inc_joint") or math.nan
        assert found.numbers["annual_inc_joint"][0] == pytest.approx(kept, nan_ok=True)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("int_rate", 100.01, 100.01),  # dearer is no reason to look away
        ("int_rate", 1000.01, REJECTED),
        ("dti", 100.01, 100.01),
        ("dti", 100_001, REJECTED),
        ("int_rate", -0.01, REJECTED),
        ("revol_util", 892.3, 892.3),  # over the limit: it happens
        ("revol_util", -0.01, REJECTED),
        ("revol_util", 100_001, REJECTED),
        *((field, 2, 2) for field in ("delinq_2yrs", "inq_last_6mths")),
        *((field, "2.0", 2) for field in ("delinq_2yrs", "inq_last_6mths")),
        *((field, 1.5, REJECTED) for field in ("delinq_2yrs", "inq_last_6mths")),
        *((field, -1, REJECTED) for field in ("delinq_2yrs", "inq_last_6mths")),
        *((field, 1001, REJECTED) for field in ("delinq_2yrs", "inq_last_6mths")),
    ],
)
def test_limits(field: str, value: Any, expected: Any) -> None:
    assert number(field, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" 36 months", 36),
        (" 60 months", 60),
        ("36 Months ", 36),
        ("36months", 36),
        ("1 month", 1),
        ("36", 36),
        ("36.0", 36),
        (36, 36),
        (36.0, 36),
        (None, None),
        ("n/a", None),
        *((junk, REJECTED) for junk in (0, 601, 36.5, "36.5", "3 years", "36 weeks", True, [36])),
    ],
)
def test_terms(value: Any, expected: Any) -> None:
    assert number("term", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10+ years", 10),
        ("10+", 10),
        ("10 + years", 10),
        ("< 1 year", 0),
        ("<1 year", 0),
        ("< 1", 0),
        ("1 year", 1),
        ("2 years", 2),
        ("7.5 YEARS", 7.5),
        ("3", 3),
        (3, 3),
        (0, 0),
        (None, None),
        ("n/a", None),
        (math.nan, None),
        *((junk, REJECTED) for junk in (-1, 101, "ten years", "< 5 years", "> 1 year", "1 day")),
        *((junk, REJECTED) for junk in (True, {}, "123 years")),
    ],
)
def test_employment_lengths(value: Any, expected: Any) -> None:
    assert number("emp_length", value) == expected


@given(st.floats(0.01, 1e9))
def test_any_amount_survives_its_notation(amount: float) -> None:
    for notation in (amount, repr(amount), f" {amount!r} "):
        assert number("loan_amnt", notation) == amount


@given(st.integers(1, 10**9))
def test_thousands_separators_change_nothing(amount: int) -> None:
    assert number("loan_amnt", f"{amount:,}") == number("loan_amnt", f"{amount}") == amount


# --- months and times ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("earliest_cr_line", "expected"),
    [
        *((shape, 14.5) for shape in ("Sep-2003", "sep-2003", "SEP-2003", "September-2003")),
        *((shape, 14.5) for shape in ("Sept 2003", "Sep 2003", "Sep/2003", " Sep-2003 ")),
        *((shape, 14.5) for shape in ("2003-Sep", "Sep-03", "Sep 03", "03-Sep")),
        *((shape, 14.5) for shape in ("3-Sep", "Sep-3")),  # what a spreadsheet makes of Sep-03
        *((shape, 14.5) for shape in ("2003-09", "2003-09-01", "2003-09-30", "20030930")),
        *((shape, 14.5) for shape in ("2003-09-01T00:00:00", "2003-09-01 00:00:00Z")),
        ("Sep-94", 23.5),  # a year, never a day
        ("94-Sep", 23.5),
        ("Sep-1994", 23.5),
        ("Mar-2018", 0),  # the month of the application
        ("Mar-18", 0),
        ("Feb-18", 1 / 12),
        ("Apr-18", 99 + 11 / 12),  # not yet in 2018, so of 1918
        ("Dec-19", 98.25),
        ("Jan-00", 18 + 2 / 12),
        ("Jan-1900", 118 + 2 / 12),
        ("Apr-2018", REJECTED),  # after the application
        ("2018-04-01", REJECTED),
        ("Jan-2099", REJECTED),
        *((missing, None) for missing in (None, math.nan, "", " ", "n/a", "null", "NaT", "-")),
        *((junk, REJECTED) for junk in ("01/09/2003", "09/2003", "1-Sep-2003", "Sep-2003-01")),
        *((junk, REJECTED) for junk in ("2003-13", "2003-13-01", "2003-09-31", "2003-00-01")),
        *((junk, REJECTED) for junk in ("Foo-2003", "Se-2003", "Sepp-2003", "Marmot-2003", "2003")),
        *((junk, REJECTED) for junk in ("Sep", "Sep-", "-2003", "Sep-203", "Sep-20003", "Sep--")),
        *((junk, REJECTED) for junk in ("Sep-1899", "Sep-2101", "1899-12-31", "0003-09-01")),
        *((junk, REJECTED) for junk in (2003, 2003.0, 37865, 1.06e12, True, [], {}, math.inf)),
    ],
)
def test_credit_history_of_an_application_in_march_2018(
    earliest_cr_line: Any, expected: Any
) -> None:
    assert history(earliest_cr_line) == expected


@pytest.mark.parametrize(
    ("issue_d", "event_time", "expected"),
    [
        ("Mar-2018", "2026-02-14T10:00:00Z", 14.5),  # its own date first
        ("Mar-18", "2026-02-14T10:00:00Z", 14.5),
        ("18-Mar", None, 14.5),
        ("2018-03-01", None, 14.5),
        (None, "2018-03-31T23:59:59Z", 14.5),
        ("n/a", "2018-03-31T23:59:59Z", 14.5),
        (None, "2018-03-31T23:59:59-02:00", 14 + 7 / 12),  # April in UTC
        ("Dec-68", None, 65.25),
        ("Jan-69", None, REJECTED),  # 1969, before the credit line
        (None, None, None),
        ("", "n/a", None),
    ],
)
def test_credit_history_ends_with_the_application(
    issue_d: Any, event_time: Any, expected: Any
) -> None:
    assert history("Sep-2003", issue_d, event_time) == expected


def test_the_century_depends_on_the_application() -> None:
    assert history("Sep-15", "Mar-2018") == 2.5
    assert history("Sep-15", "Mar-2014") == 98.5
    assert history("Sep-15", None, "2026-02-14") == 10 + 5 / 12


@given(
    month=st.integers(1, 12),
    year=st.integers(1950, 2049),
    since=st.integers(0, 99 * 12),
    two_digits=st.sampled_from(["{name}-{year:02}", "{year:02}-{name}", "{year}-{name}"]),
)
def test_two_digits_mean_the_latest_such_year_before_the_application(
    month: int, year: int, since: int, two_digits: str
) -> None:
    names = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    opened_year, opened_month = divmod(year * 12 + month - 1 - since, 12)
    line = two_digits.format(name=names[opened_month], year=opened_year % 100)
    if opened_year >= 1900:
        assert history(line, f"{names[month - 1]}-{year}") == since / 12


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-02-14T10:00:38.241496+00:00", "2026-02-14T10:00:38.241496"),
        ("2026-02-14T10:00:38Z", "2026-02-14T10:00:38"),
        ("2026-02-14T10:00:38", "2026-02-14T10:00:38"),  # without a zone: UTC
        ("2026-02-14 10:00:38", "2026-02-14T10:00:38"),
        (" 2026-02-14T10:00:38Z\n", "2026-02-14T10:00:38"),
        ("2026-02-14T10:00:38+05:30", "2026-02-14T04:30:38"),
        ("2026-02-14T10:00:38.5-08:00", "2026-02-14T18:00:38.5"),
        ("2026-02-14", "2026-02-14"),
        ("2026-02-14T10Z", "2026-02-14T10:00:00"),
        ("2026-02-14 10:00-08", "2026-02-14T18:00:00"),
        ("2026-02-14T10:00:38.1234567Z", "2026-02-14T10:00:38.123456"),
        ("20260214T100038Z", "2026-02-14T10:00:38"),
        ("1900-01-01T00:00:00Z", "1900-01-01"),
        ("2100-12-31T23:59:59.999999Z", "2100-12-31T23:59:59.999999"),
        *((missing, None) for missing in (None, math.nan, "", "n/a", "NaT", "null")),
        *((junk, REJECTED) for junk in ("14/02/2026", "2026-02-30", "2026-13-01", "now", "10:00")),
        *((junk, REJECTED) for junk in ("1899-12-31T23:59:59Z", "2101-01-01", "0001-01-01")),
        *(
            (junk, REJECTED)
            for junk in ("0000-01-01T00Z", "2026-02-14T24Z", "2026-02-14T10:00:60Z")
        ),
        *((junk, REJECTED) for junk in (1771063238, 1771063238000.0, True, [], {}, math.inf)),
    ],
)
def test_event_times(value: Any, expected: Any) -> None:
    for applications in (cleaned({"event_time": value}), beside_another_notation(value)):
        if expected is REJECTED:
            assert reason(applications) == "invalid_value:event_time"
        else:
            assert reason(applications) is None
            assert str(applications.event_time[0]) == str(np.datetime64(expected or "NaT", "us"))


def beside_another_notation(event_time: Any) -> CleanApplications:
    """In a batch that takes another way through the code: Python reads the times, not Arrow."""
    return cleaned({"event_time": event_time}, {"event_time": "20260214T100038Z"}, {})


@given(
    st.from_regex(
        r"(00|19|20)\d\d-[01]\d-[0-3]\d"
        r"([T ][0-2]\d(:[0-6]\d(:[0-6]\d([.,]\d{1,7})?)?)?)?(Z|z|[+-][0-2]\d(:?[0-6]\d){0,2})?",
        fullmatch=True,
    )
)
def test_arrow_reads_a_time_as_python_does(event_time: str) -> None:
    alone, beside = cleaned({"event_time": event_time}), beside_another_notation(event_time)
    assert reason(alone) == reason(beside)
    assert str(alone.event_time[0]) == str(beside.event_time[0])


# --- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (68407277, "68407277"),
        (68407277.0, "68407277"),
        ("68407277", "68407277"),
        ("68407277.0", "68407277"),
        (" 68407277 ", "68407277"),
        ("0012", "0012"),
        ("LC-7.a_b c", "LC-7.a_b c"),
        *((million, "1000000") for million in (1000000, 1e6, "1000000", "1000000.0", "1000000.00")),
        *((million, "1000000") for million in ("1e+06", "1E+06", "1e6", " 1e+06 ", "10e5")),
        *((exact, "68407277") for exact in ("6.8407277e+07", "6.8407277E7", "6.84072770e+07")),
        *((junk, REJECTED) for junk in ("LC-7/a", "<b>", "7,8", "é", "1.5e+00", "1e99")),
        ("b7f6f5d0-3c5e-4b8e-9a52-0d2f4a6b1c3d", "b7f6f5d0-3c5e-4b8e-9a52-0d2f4a6b1c3d"),
        (0, "0"),
        (-0.0, "0"),
        (2**70, str(2**70)),
        (2.0**53 - 1, str(2**53 - 1)),
        (None, None),
        (math.nan, None),
        ("", None),
        ("nan", None),
        *((junk, REJECTED) for junk in (True, 1.5, 2.0**53, math.inf, [], {}, "x" * 65, 10**64)),
        *((junk, REJECTED) for junk in ("a\0b", "a\nb", "\ud800", "\u202eb", "\x7f")),
    ],
)
def test_loan_ids(value: Any, expected: Any) -> None:
    assert text("id", value) == expected


@pytest.mark.parametrize("value", ["6.84E+07", "6.84e7", "1.00E+06", "6.84073e+07"])
def test_a_rounded_id_may_be_any_of_many_loans(value: str) -> None:
    for applications in (cleaned({"id": value}), cleaned({"id": value}, keys=[b"68407277"])):
        assert reason(applications) == "rounded:id"
    assert cleaned({"id": None}, keys=[value.encode()]).texts["loan_id"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("loan_id", "key", "expected"),
    [
        (7, b"8", "7"),
        (None, b"8", "8"),
        (None, b"8.0", "8"),
        ("", b"8", "8"),
        (math.nan, b"8", "8"),
        (None, None, None),
        (None, b"", None),
        (None, b"nan", None),
        (None, b"\x00\x00\x00\x08", None),  # a binary key is no id, and nothing wrong either
        (None, b"\xff", None),
        (None, b"8" * 65, None),
    ],
)
def test_the_key_stands_in_for_a_missing_id(
    loan_id: Any, key: bytes | None, expected: str | None
) -> None:
    applications = cleaned({"id": loan_id}, {"id": 9}, keys=[key, None])
    assert applications.texts["loan_id"].to_pylist() == [expected, "9"]
    assert (applications.reasons == ACCEPTED).all()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("purpose", "debt_consolidation", "debt_consolidation"),
        ("purpose", " Car ", "car"),
        ("purpose", "small.business-2 now", "small.business-2 now"),
        *(("purpose", junk, REJECTED) for junk in ("moving & more", "<b>", "a/b", "é", "🚗", "=1")),
        ("application_type", "Individual", "individual"),
        ("application_type", "Joint App", "joint"),
        ("application_type", "JOINT", "joint"),
        ("application_type", "<b>", REJECTED),
        ("purpose", "x" * 64, "x" * 64),
        ("purpose", "x" * 65, REJECTED),
        ("grade", "F", "F"),
        ("grade", "f", "F"),
        *(("grade", junk, REJECTED) for junk in ("H", "F4", "FF", "Ｆ")),
        ("addr_state", "CA", "CA"),
        ("addr_state", " ca", "CA"),
        *(("addr_state", junk, REJECTED) for junk in ("C", "CAL", "C1", "ß", "ﬁ", "ſa")),
        ("home_ownership", "MORTGAGE", "MORTGAGE"),
        ("home_ownership", "any", "ANY"),
        ("home_ownership", "NONE", None),
        ("home_ownership", "RENT1", REJECTED),
        ("loan_status", "Late (16-30 days)", "Late (16-30 days)"),
        (
            "loan_status",
            "Does not meet the credit policy. Status:Charged Off",
            "Does not meet the credit policy. Status:Charged Off",
        ),
        *((field, None, None) for field in ("purpose", "grade", "addr_state", "loan_status")),
        *((field, "n/a", None) for field in ("purpose", "grade", "addr_state", "loan_status")),
        *((field, math.nan, None) for field in ("purpose", "grade", "addr_state", "loan_status")),
        *((field, 1, REJECTED) for field in ("purpose", "grade", "addr_state", "loan_status")),
        *((field, True, REJECTED) for field in ("purpose", "grade", "addr_state", "loan_status")),
        *((field, ["A"], REJECTED) for field in ("purpose", "grade", "addr_state", "loan_status")),
        *((field, "\0", REJECTED) for field in ("purpose", "grade", "addr_state", "loan_status")),
    ],
)
def test_texts(field: str, value: Any, expected: Any) -> None:
    assert text(field, value) == expected


# --- a batch ------------------------------------------------------------------------------------


def test_an_empty_batch() -> None:
    applications = clean(decode([]))
    columns = [*applications.numbers.values(), *applications.texts.values(), applications.reasons]
    columns += [applications.event_time, applications.issue_d]
    assert {len(column) for column in columns} == {0}


def test_equal_keys_of_other_types_are_other_values() -> None:
    """1, 1.0 and True are equal in Python, and an id, an id and junk here."""
    for order in ([1, 1.0, True, "1"], [True, "1", 1.0, 1]):
        applications = cleaned(*({"id": value} for value in order))
        junk = order.index(True) if order[0] is True else 2
        ids = applications.texts["loan_id"].to_pylist()
        assert ids == [None if position == junk else "1" for position in range(4)]
        assert [REASONS[code] for code in applications.reasons if code != ACCEPTED] == [
            "invalid_value:id"
        ]


def test_issue_d_is_a_month() -> None:
    applications = cleaned({"issue_d": "Mar-18"}, {"issue_d": None}, {"issue_d": "2017-12-31"})
    assert applications.issue_d.astype(str).tolist() == ["2018-03", "NaT", "2017-12"]


# --- the 61 real rows ---------------------------------------------------------------------------


def slow_clean(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the sample, cleaned one value at a time: only the shapes that are in the sample."""

    def month(written: str) -> datetime:
        name, year = written.split("-")
        pattern = "%b %Y" if len(year) == 4 else "%b %y"
        return datetime.strptime(f"{name} {year}", pattern).replace(tzinfo=UTC)

    issued, opened = month(row["issue_d"]), month(row["earliest_cr_line"])
    assert opened < issued
    employed = {None: None, "< 1 year": 0.0, "10+ years": 10.0}
    employed |= {f"{n} year{'s' if n > 1 else ''}": float(n) for n in range(1, 10)}
    assert row["term"] in (" 36 months", " 60 months")
    joint = row["application_type"] == "Joint App"
    return {
        "loan_id": str(row["id"]),
        "event_time": datetime.fromisoformat(row["event_time"]).astimezone(UTC).isoformat(),
        "issue_d": issued.date().isoformat(),
        "loan_amnt": row["loan_amnt"],
        "annual_inc": row["annual_inc"],
        "dti": row["dti"],
        "int_rate": float(row["int_rate"].replace("%", "")),
        "revol_util": float(row["revol_util"].replace("%", "")),
        "delinq_2yrs": row["delinq_2yrs"],
        "inq_last_6mths": row["inq_last_6mths"],
        "credit_history_years": ((issued.year - opened.year) * 12 + issued.month - opened.month)
        / 12,
        "emp_length_yrs": employed[row["emp_length"]],
        "term_months": 36.0 if row["term"] == " 36 months" else 60.0,
        "purpose": row["purpose"],
        "grade": row["grade"],
        "addr_state": row["addr_state"],
        "home_ownership": row["home_ownership"],
        "loan_status": row["loan_status"],
        "application_type": "joint" if joint else "individual",
        "annual_inc_primary": row["annual_inc"] if joint else None,
        "annual_inc_joint": row["annual_inc_joint"],
        "dti_primary": row["dti"] if joint else None,
        "dti_joint": row["dti_joint"],
    }


def test_expected_values_of_the_sample() -> None:
    assert len(CLEANED) == 61
    assert [slow_clean(json.loads(line)) for line in SAMPLE] == CLEANED


@pytest.mark.parametrize("at_a_time", [1, 7, 61])
def test_the_sample(at_a_time: int) -> None:
    for first in range(0, len(SAMPLE), at_a_time):
        applications = clean(decode(SAMPLE[first : first + at_a_time]))
        assert (applications.reasons == ACCEPTED).all()
        for position, expected in enumerate(CLEANED[first : first + at_a_time]):
            numbers = {name: column[position] for name, column in applications.numbers.items()}
            got = {name: None if math.isnan(value) else value for name, value in numbers.items()}
            got |= {name: texts[position].as_py() for name, texts in applications.texts.items()}
            got["issue_d"] = f"{applications.issue_d[position]}-01"
            got["event_time"] = f"{applications.event_time[position]}+00:00"
            assert got == expected
