"""Every malformed event gets its reason, and harms no other event of its batch."""

from collections import Counter
from typing import Any

import pytest

from credit_risk_dagster.domain.decoding import DUPLICATE, REASONS, UNSTORABLE
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import answers
from tests.malformed import CATALOGUE, Malformed, event

GOOD = [event(id=1), event(id=2, dti=10, revol_util=50), event(id=3, revol_util=None)]


def test_the_catalogue_is_rich_and_names_are_unique() -> None:
    assert len(CATALOGUE) >= 100
    assert [name for name, count in Counter(c.name for c in CATALOGUE).items() if count > 1] == []
    assert {case.reason for case in CATALOGUE} == {None, *REASONS} - {*UNSTORABLE, DUPLICATE}


@pytest.fixture(scope="module")
def alone(policy: Policy) -> list[dict[str, Any]]:
    """The answers to the good events."""
    return answers(GOOD, policy)


@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_its_reason(case: Malformed, policy: Policy, alone: list[dict[str, Any]]) -> None:
    before, answer, after = answers([GOOD[0], case.value, GOOD[1]], policy)
    assert answer["reject_reason"] == case.reason
    assert answer["outcome"] == ("scored" if case.reason is None else "rejected")
    assert [before, after] == alone[:2]


def test_good_events_between_all_of_them_are_as_if_alone(
    policy: Policy, alone: list[dict[str, Any]]
) -> None:
    values: list[bytes | None] = []
    for number, case in enumerate(CATALOGUE):
        values += [GOOD[number % 3], case.value]
    replies = answers(values, policy)
    assert replies[::2] == [alone[number % 3] for number in range(len(CATALOGUE))]
    assert [reply["reject_reason"] for reply in replies[1::2]] == [c.reason for c in CATALOGUE]
