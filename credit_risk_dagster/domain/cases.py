"""Cases: what a reviewer may find of a loan on the Watchlist, in codes that can be counted, and
what they count up to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from credit_risk_dagster.domain.intervals import NOTHING, Interval, difference, share

State = Literal["open", "in_review", "closed"]

ACTIONS = ("assign", "start", "note", "close", "reopen")
DISPOSITIONS: dict[str, tuple[str, ...]] = {
    "confirmed": ("debt_burden", "delinquency", "income_unverified", "fraud_suspected", "other"),
    "false_positive": ("data_error", "income_verified", "debt_settled", "other"),
    "override_up": ("new_information", "policy_gap", "fraud_suspected", "other"),
    "override_down": ("compensating_factors", "new_information", "policy_exception", "other"),
    "escalated": ("fraud_suspected", "legal", "senior_approval", "other"),
}
"""What a case is closed as, and the reasons that each may have. An override decides other than the
policy did: up, the loan is riskier than its decision says; down, it is less risky."""


def check_disposition(disposition: str, reason_code: str) -> None:
    """Raises ValueError, with what there is to choose from: a case cannot be closed so."""
    reasons = DISPOSITIONS.get(disposition)
    if reasons is None:
        raise ValueError(f"a case is closed as one of {', '.join(DISPOSITIONS)}")
    if reason_code not in reasons:
        raise ValueError(f"{disposition} has one of the reasons {', '.join(reasons)}")


# --- figures --------------------------------------------------------------------------------------

RIGHT = ("confirmed", "override_up")
"""Dispositions that say the Watchlist was right; `escalated` says nothing yet."""
WRONG = ("false_positive", "override_down")
OVERRIDES = ("override_up", "override_down")
AGES = (1, 3, 7)
"""Days since a case was opened, between the bands of the ageing."""
AGE_WORDS = ("up to 1 day", "1 to 3 days", "3 to 7 days", "over 7 days")
FEWEST = 30
"""Loans of which a share says something."""


@dataclass(frozen=True)
class Closed:
    """How many cases were closed as what: of a rule ("" is of all cases, each once), by whom."""

    rule: str
    reviewer: str
    disposition: str
    cases: int


@dataclass(frozen=True)
class Precision:
    """Of a rule's closed cases those that were right, among those that were right or wrong."""

    rule: str
    right: int
    wrong: int
    undecided: int
    share: Interval


@dataclass(frozen=True)
class Overridden:
    """How many closed cases of a reviewer or a rule decided other than the policy did, up and down,
    and their share."""

    of: str
    closed: int
    up: int
    down: int
    share: Interval


@dataclass(frozen=True)
class BadRate:
    """Of the closed cases of a kind, by loan: those with a known outcome, and how many went bad."""

    of: str
    loans: int
    bads: int
    share: Interval

    @property
    def few(self) -> bool:
        """Whether there are too few to tell."""
        return self.loans < FEWEST


def precisions(closed: Sequence[Closed]) -> list[Precision]:
    """The precision of all cases and of each rule, the most cases first."""
    found = []
    for rule, cases in _by(closed, lambda one: one.rule).items():
        right, wrong = (_count(cases, which) for which in (RIGHT, WRONG))
        undecided = _count(cases, tuple(DISPOSITIONS)) - right - wrong
        found.append(Precision(rule, right, wrong, undecided, share(right, right + wrong)))
    return sorted(found, key=lambda p: (bool(p.rule), -(p.right + p.wrong), p.rule))


def overridden(closed: Sequence[Closed], by: Literal["reviewer", "rule"]) -> list[Overridden]:
    """The overrides of each reviewer, or of each rule, the most closed cases first."""
    found = []
    some = [one for one in closed if bool(one.rule) == (by == "rule")]
    for of, cases in _by(some, lambda one: getattr(one, by)).items():
        up, down = (_count(cases, (which,)) for which in OVERRIDES)
        every = _count(cases, tuple(DISPOSITIONS))
        found.append(Overridden(of, every, up, down, share(up + down, every)))
    return sorted(found, key=lambda o: (-o.closed, o.of))


def bad_rates(outcomes: Sequence[tuple[str, bool]]) -> tuple[list[BadRate], Interval]:
    """The bad rates of closed cases by what they were closed as, of overridden ones and of the
    others; and by how much the others' is higher than that of those overridden down (with the
    interval of `difference`).

    Args:
        outcomes: of each loan with a known outcome what its case was closed as, and whether it went
            bad.
    """
    kinds = {
        "not overridden": [name for name in DISPOSITIONS if name not in OVERRIDES],
        "overridden": OVERRIDES,
        "overridden down": OVERRIDES[1:],
        "overridden up": OVERRIDES[:1],
    }
    found = []
    for kind, names in kinds.items():
        bad = [went_bad for disposition, went_bad in outcomes if disposition in names]
        found.append(BadRate(kind, len(bad), sum(bad), share(sum(bad), len(bad))))
    others, _, down, _ = found
    known = others.loans and down.loans
    return found, difference(down.share, others.share) if known else NOTHING


def _by(closed: Sequence[Closed], of: Callable[[Closed], str]) -> dict[str, list[Closed]]:
    groups: dict[str, list[Closed]] = {}
    for one in closed:
        groups.setdefault(of(one), []).append(one)
    return groups


def _count(closed: Sequence[Closed], dispositions: Sequence[str]) -> int:
    return sum(one.cases for one in closed if one.disposition in dispositions)
