"""How numbers and codes are written."""

import math

import pytest

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.settings import DEFAULT_POLICY
from dashboard.parts import formats


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1434, "143 ms"),
        (1.44, "1.4 s"),
        (59, "59 s"),
        (119, "119 s"),
        (720, "12 min"),
        (5 * 3_600, "5 h"),
        (3 * 86_400, "3 d"),
        (math.nan, "–"),
    ],
)
def test_a_duration_has_the_unit_that_fits(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


def test_an_age_of_moments_is_not_counted() -> None:
    assert formats.age(0.2) == "just now"
    assert formats.age(12.9) == "12 s ago"


def test_shares_and_rates() -> None:
    assert formats.share(1, 8) == "12.5 %"
    assert formats.share(0, 0) == "–"
    assert formats.rate(9.83) == "9.8"
    assert formats.rate(12_345.6) == "12,346"


def test_every_reason_of_the_policy_can_be_read() -> None:
    assert [formats.reason(code) for code in load_policy(DEFAULT_POLICY).reason_codes] == [
        "DTI ≥ 30 %",
        "Utilization ≥ 80 %",
        "Delinquencies > 0",
        "Inquiries ≥ 2",
        "Annual income = 0 $",
        *("Missing: Annual income", "Missing: Delinquencies", "Missing: DTI", "Missing: Inquiries"),
        "Missing: Utilization",
    ]


def test_an_unknown_reason_is_shown_as_it_is() -> None:
    assert formats.reason("FICO<600") == "FICO<600"


def test_words() -> None:
    assert formats.words("debt_consolidation") == "Debt consolidation"
    assert formats.words(None) == "–"


def test_shares_of_one_and_their_differences() -> None:
    assert [formats.percent(share) for share in (0, 0.0004, 0.0999, 1, math.nan)] == [
        *("0.0 %", "0.04 %", "10.0 %", "100.0 %", "–")
    ]
    # Some is neither none nor all.
    assert [formats.share(part, 10_000) for part in (0, 1, 9_899, 9_950, 9_999, 10_000)] == [
        *("0.0 %", "0.01 %", "99.0 %", "99.50 %", "99.99 %", "100.0 %")
    ]
    assert (formats.share(1, 10**6), formats.share(10**6 - 1, 10**6)) == ("< 0.01 %", "> 99.99 %")
    assert formats.points(0.0123) == "+1.23 points"
    assert formats.points(-0.5) == "-50.00 points"
    assert formats.points(math.nan) == "–"


def test_an_interval_repeats_no_unit() -> None:
    assert formats.interval(0.057, 0.056, 0.059) == "5.7 % (5.6 to 5.9)"
    change = formats.interval(-0.01, -0.02, 0.001, formats.points)
    assert change == "-1.00 points (-2.00 to +0.10)"
    assert formats.interval(math.nan, math.nan, math.nan) == "–"


def test_amounts_have_three_digits() -> None:
    amounts = (0, 950, 12_345, 4_560_000, 967_400_000, 1_094_000_000)
    assert [formats.dollars(amount) for amount in amounts] == [
        *("$0", "$950", "$12.3 K", "$4.56 M", "$967 M", "$1.09 B")
    ]
    assert formats.dollars(1_500, signed=True) == "+$1.50 K"
    assert formats.dollars(-1_500) == "−$1.50 K"


def test_features_have_names() -> None:
    assert formats.feature("inq_last_6mths") == "Inquiries"
    assert formats.feature("home_ownership") == "Home ownership"


def test_units() -> None:
    assert formats.term(36.0) == "36 months"
    assert formats.term(None) == formats.term(0) == "–"
    assert formats.milliseconds(-0.0124) == "-12 ms"
    assert formats.size(999) == "999 bytes"
    assert formats.size(12_345_678) == "12.3 MB"
    assert formats.size(3.2e13) == "32.0 TB"
    assert formats.usd(12_500.4) == "$12,500"
    assert formats.number(3.0) == "3"
    assert formats.number_percent(12.54) == "12.5 %"
    assert formats.years(15.26) == "15.3 years"


def test_a_name_is_no_markup() -> None:
    assert formats.plain("Ada *L* [x](y) $1$") == r"Ada \*L\* \[x\]\(y\) \$1\$"
