"""The default policy and the one before: what is decided on real applications, and about whom."""

import json
from pathlib import Path
from typing import Any

import pytest

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import answers
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.domain.test_cleaning import SAMPLE
from tests.malformed import event

V1 = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
V2 = load_policy(DEFAULT_POLICY)
# A character for each built-in loan, as it was decided before there were tables: rejected, low,
# elevated, or of the Watchlist the reasons as a hexadecimal digit, the first one its lowest bit.
BEFORE = (
    (Path(__file__).parents[1] / "data" / "lendingclub_v1_decisions.txt")
    .read_text()
    .replace("\n", "")
)
REASONS = ("DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0", "INQ_LAST_6MTHS>=2")


@pytest.fixture(scope="module")
def loans() -> list[dict[str, Any]]:
    return [dict(loan) for loan in builtin_loans()]


@pytest.fixture(scope="module")
def by_v1(loans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return answers([json.dumps(loan).encode() for loan in loans], V1)


@pytest.fixture(scope="module")
def by_v2(loans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return answers([json.dumps(loan).encode() for loan in loans], V2)


def mark(answer: dict[str, Any]) -> str:
    if answer["risk_tier"] == "Watchlist":
        return f"{sum(1 << bit for bit, r in enumerate(REASONS) if r in answer['reasons']):X}"
    return {"Low": "l", "Elevated": "e", None: "r"}[answer["risk_tier"]]


def individuals(loans: list[dict[str, Any]]) -> list[int]:
    return [i for i, loan in enumerate(loans) if loan["application_type"] == "Individual"]


def test_the_first_version_decides_as_ever(
    loans: list[dict[str, Any]], by_v1: list[dict[str, Any]]
) -> None:
    """But for joint applications whose first borrower has a DTI above 100: they had none."""
    now = "".join(map(mark, by_v1))
    changed = [i for i, (a, b) in enumerate(zip(BEFORE, now, strict=True)) if a != b]
    assert not set(changed) & set(individuals(loans))
    assert len(changed) == 33
    assert all(BEFORE[i] == "r" and loans[i]["dti"] > 100 for i in changed)


def test_individuals_are_decided_as_before(
    loans: list[dict[str, Any]], by_v2: list[dict[str, Any]]
) -> None:
    assert len(individuals(loans)) == 8_505
    for i in individuals(loans):
        assert mark(by_v2[i]) == BEFORE[i], by_v2[i]
        assert by_v2[i]["figures"] is None
    told = (
        "risk_tier",
        "early_warning",
        "reasons",
        "dti_band",
        "util_band",
        "rate_band",
        "features",
    )
    for one, other in zip(answers(SAMPLE, V1), answers(SAMPLE, V2), strict=True):
        if other["figures"]:
            continue
        assert [one[name] for name in told] == [other[name] for name in told]


def test_joint_applications_are_decided_on_both_borrowers(
    loans: list[dict[str, Any]], by_v1: list[dict[str, Any]], by_v2: list[dict[str, Any]]
) -> None:
    joint = sorted(set(range(10_000)) - set(individuals(loans)))
    before, after = (
        {i for i in joint if found[i]["risk_tier"] == "Watchlist"} for found in (by_v1, by_v2)
    )
    assert {by_v2[i]["outcome"] for i in joint} == {"scored"}
    assert {by_v2[i]["figures"] for i in joint} == {"combined"}
    once = {i for i in joint if BEFORE[i] not in "ler"}
    assert (len(once), len(once - after), len(after - once)) == (144, 97, 13)
    assert (len(before - once), len(after)) == (5, 60)
    # Of the 13, 6 were rejected: 4 without a DTI of their own, 2 with one above 100.
    rejected = [i for i in after - once if BEFORE[i] == "r"]
    assert sorted(loans[i]["dti"] is not None for i in rejected) == [False] * 4 + [True] * 2
    scored = [i for i, found in enumerate(BEFORE) if found != "r"]
    for found, share in (
        ([BEFORE[i] not in "le" for i in scored], 0.04425),
        ([by_v2[i]["risk_tier"] == "Watchlist" for i in scored], 0.03520),
    ):
        assert sum(found) / len(scored) == pytest.approx(share, abs=1e-5)


def test_each_row_keeps_both_borrowers_figures() -> None:
    joint = {
        "application_type": "Joint App",
        "dti": 120.5,
        "dti_joint": 19,
        "annual_inc_joint": 1e5,
    }
    first, second = (answers([event(**joint)], policy)[0] for policy in (V1, V2))
    kept = {"dti_primary": 120.5, "dti_joint": 19.0}
    kept |= {"annual_inc_primary": 60_000.0, "annual_inc_joint": 1e5}
    for answer in (first, second):
        assert {name: answer["features"][name] for name in kept} == kept
    assert (first["figures"], first["dti_band"], first["features"]["dti"]) == (
        *("primary", "Very High", 120.5),
    )
    assert (second["figures"], second["dti_band"], second["features"]["dti"]) == (
        *("combined", "Low", 19.0),
    )
    (alone,) = answers([event(**joint | {"dti_joint": None, "annual_inc_joint": None})], V2)
    assert (alone["figures"], alone["features"]["dti"]) == ("fallback", 120.5)


@pytest.mark.parametrize("dti", [99.5, 100, 100.5, 150, 998, 1_000, 99_999])
def test_more_debt_is_never_less_attention(dti: float) -> None:
    for policy in (V1, V2):
        (answer,) = answers([event(dti=dti)], policy)
        assert (answer["risk_tier"], answer["dti_band"]) == ("Watchlist", "Very High")


@pytest.mark.parametrize(
    ("column", "worst_low"), [("revol_util", 30), ("delinq_2yrs", 0), ("inq_last_6mths", 1)]
)
def test_a_missing_figure_is_never_better_than_the_worst_of_its_low_band(
    column: str, worst_low: float
) -> None:
    others = {"dti": (10, 35), "revol_util": (10, 70, 90), "delinq_2yrs": (0, 2)}
    others["inq_last_6mths"] = (0, 1, 3)
    rows: list[dict[str, Any]] = [{}]
    for name, values in others.items():
        if name != column:
            rows = [row | {name: value} for row in rows for value in values]
    missing = answers([event(**row, **{column: None}) for row in rows], V2)
    worst = answers([event(**row, **{column: worst_low}) for row in rows], V2)
    tiers = ("Low", "Elevated", "Watchlist")
    for one, other in zip(missing, worst, strict=True):
        assert tiers.index(one["risk_tier"]) >= tiers.index(other["risk_tier"])
        told = f"MISSING:{column.upper()}" in one["reasons"]
        assert told is (one["recommendation"] == "refer")  # and says so
    assert any(answer["recommendation"] == "refer" for answer in missing)


def test_a_dti_of_no_income_is_for_a_person() -> None:
    (zero,), (one,) = (answers([event(annual_inc=income)], V2) for income in (0, 1))
    assert (zero["recommendation"], one["recommendation"]) == ("refer", None)
    assert "ANNUAL_INC=0" in zero["reasons"]
    assert zero["risk_tier"] == one["risk_tier"] == "Watchlist"
