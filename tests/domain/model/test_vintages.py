"""Vintages by age, against published and independent answers."""

import math

import numpy as np
import pyarrow as pa
import pytest

from credit_risk_dagster.domain.model.observed import OBSERVED, Exposure, exposure
from credit_risk_dagster.domain.model.sample import first_decisions
from credit_risk_dagster.domain.model.vintages import kaplan_meier, vintages
from tests.data import lifelines_answers
from tests.domain.model.samples import OUTCOME, builtin_rows


def test_kaplan_meier_is_the_published_one() -> None:
    """Remission in the 6-MP arm of E. Freireich et al., Blood 21 (1963), as in the books on
    survival: S(6) 0.857, S(10) 0.753, S(23) 0.448 with a standard error of 0.135."""
    bad = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    kept = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    ages = np.array(bad + kept)
    flags = np.arange(len(ages)) < len(bad)
    found = {age.months: age for age in kaplan_meier(ages, flags)}
    assert [found[6].watched, found[6].bads] == [21, 3]
    expected = {6: 0.857143, 7: 0.806723, 10: 0.752941, 13: 0.690196, 16: 0.627451, 22: 0.537815}
    expected[23] = 0.448179
    survived = {at: 1 - found[at].bad_rate.value for at in expected}
    assert survived == pytest.approx(expected, abs=1e-6)
    limits = found[10].bad_rate  # of R's survfit with conf.type "log-log"
    assert (1 - limits.high, 1 - limits.low) == pytest.approx((0.503, 0.889), abs=1e-3)
    last = found[23].bad_rate
    assert (1 - last.high, 1 - last.low) == pytest.approx((0.188, 0.680), abs=1e-3)


@pytest.mark.parametrize("size", lifelines_answers.SIZES)
@pytest.mark.parametrize("asked", ["as it was recorded", "now"])
def test_kaplan_meier_is_lifelines(size: int, asked: str) -> None:
    """An independent implementation: what it said, and where it is installed, what it says."""
    if asked == "now":
        pytest.importorskip("lifelines")
        expected = lifelines_answers.answers(size)
    else:
        expected = lifelines_answers.stored()[str(size)]
    found = {str(age.months): age for age in kaplan_meier(*lifelines_answers.drawn_loans(size))}
    assert expected.keys() - {"0"} == found.keys() - {"0"}
    for age, (survival, low, high) in expected.items():
        if age in found:
            rate = found[age].bad_rate
            assert 1 - rate.value == pytest.approx(survival)
            if low and high and not math.isnan(rate.low):
                assert (1 - rate.high, 1 - rate.low) == pytest.approx((low, high))


def test_without_anybody_leaving_it_is_the_share() -> None:
    ages = np.array([1, 2, 3, 3, 3, 3])
    bad = np.array([True, True, False, False, False, False])
    found = list(kaplan_meier(ages, bad))
    assert [age.bad_rate.value for age in found] == pytest.approx([1 / 6, 2 / 6, 2 / 6])
    assert math.isnan(next(kaplan_meier(ages, np.zeros(6, np.bool_))).bad_rate.low)


def test_the_builtin_vintages_and_that_they_are_of_different_ages() -> None:
    rows = builtin_rows()
    loans = first_decisions("builtin", rows)
    when = np.full(len(rows), np.datetime64("2018-06-01"), "datetime64[us]")
    field = OBSERVED.field("observed_at")
    observed = loans.observed.set_column(1, field, pa.array(when).cast(field.type))
    found = vintages(loans.decided, exposure(OUTCOME, loans.keys, loans.decided, observed))
    assert [(v.month, v.bads, v.loans, v.months, v.shorter) for v in found] == [
        ("2018-01", 79, 3_377, 5, False),
        ("2018-02", 49, 2_970, 4, True),
        ("2018-03", 49, 3_596, 3, True),
    ]
    for vintage in found:
        assert vintage.curve[-1].bad_rate.value == pytest.approx(vintage.bad_rate.value)


def test_who_was_never_observed_is_in_no_vintage() -> None:
    days = np.array(["2018-01-15", "NaT", "2018-02-01"], "datetime64[D]")
    watched = Exposure(np.array([3, 3, -1]), np.array([True, True, False]))
    (only,) = vintages(days, watched)
    assert (only.month, only.loans, only.bads) == ("2018-01", 1, 1)
    assert vintages(days[2:], Exposure(np.array([-1]), np.array([False]))) == []
