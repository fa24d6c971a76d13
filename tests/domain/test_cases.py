"""Figures of cases, against Wilson's intervals and counts by hand."""

import math

import pytest

from credit_risk_dagster.domain.cases import Closed, bad_rates, overridden, precisions
from credit_risk_dagster.domain.intervals import wilson_interval

CLOSED = [
    Closed("", "ada", "confirmed", 6),
    Closed("", "ada", "override_up", 1),
    Closed("", "bo", "false_positive", 2),
    Closed("", "bo", "override_down", 1),
    Closed("", "bo", "escalated", 5),
    Closed("DTI>=30", "ada", "confirmed", 6),
    Closed("DTI>=30", "bo", "override_down", 1),
    Closed("X", "bo", "escalated", 5),
]


def test_precision_is_of_what_was_right_or_wrong() -> None:
    every, dti, x = precisions(CLOSED)
    assert (every.rule, every.right, every.wrong, every.undecided) == ("", 7, 3, 5)
    assert (every.share.low, every.share.high) == wilson_interval(7, 10)
    assert every.share.value == pytest.approx(0.7)
    assert (dti.rule, dti.right, dti.wrong) == ("DTI>=30", 6, 1)
    assert (x.rule, x.undecided) == ("X", 5)
    assert math.isnan(x.share.value)
    assert precisions([]) == []


def test_overrides_are_of_each_case_once_by_reviewer_and_by_each_rule() -> None:
    assert [(o.of, o.closed, o.up, o.down) for o in overridden(CLOSED, "reviewer")] == [
        ("bo", 8, 0, 1),
        ("ada", 7, 1, 0),
    ]
    assert [(o.of, o.closed, o.down) for o in overridden(CLOSED, "rule")] == [
        ("DTI>=30", 7, 1),
        ("X", 5, 0),
    ]


def test_bad_rates_of_overridden_and_of_others() -> None:
    outcomes = [("confirmed", True)] * 8 + [("false_positive", False)] * 32
    outcomes += [("override_down", False)] * 9 + [("override_down", True), ("override_up", True)]
    rates, difference = bad_rates(outcomes)
    assert [(r.of, r.loans, r.bads, r.few) for r in rates] == [
        ("not overridden", 40, 8, False),
        ("overridden", 11, 2, True),
        ("overridden down", 10, 1, True),
        ("overridden up", 1, 1, True),
    ]
    assert difference.value == pytest.approx(0.1)
    assert difference.low < 0 < 0.1 < difference.high
    assert math.isnan(bad_rates([("confirmed", True)])[1].value)
