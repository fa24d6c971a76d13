"""The policy lab's comparison, against counting row by row."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_risk_dagster.domain import intervals
from credit_risk_dagster.domain.model.outcome import BUILTIN_OUTCOMES, load_outcome
from credit_risk_dagster.domain.policy import TIERS, Policy, parse_policy
from credit_risk_dagster.domain.policy_lab import (
    BAD,
    GOOD,
    UNKNOWN,
    Applications,
    compare,
    outcome_codes,
)
from tests.domain.test_scoring import INPUTS, oracle, policies, rows

Row = dict[str, float | None]


def applications(table: list[Row], amounts: list[int], outcomes: list[int]) -> Applications:
    columns: dict[str, Any] = {
        name: np.array([row[name] for row in table], np.float64) for name in INPUTS
    }
    columns |= {"loan_amnt": np.array(amounts, np.float64)}
    unknown = np.full(len(table), np.nan)
    return Applications(
        columns | {"dti_primary": unknown, "dti_joint": unknown},
        np.zeros(len(table), np.bool_),
        np.array(outcomes, np.int8),
    )


@given(policies(), policies(), rows(), st.data())
def test_a_comparison_counts_what_each_row_says(
    active: Policy, candidate: Policy, table: list[Row], data: st.DataObject
) -> None:
    def each(values: st.SearchStrategy[int]) -> list[int]:
        return data.draw(st.lists(values, min_size=len(table), max_size=len(table)))

    amounts, outcomes = each(st.integers(1, 40_000)), each(st.sampled_from([UNKNOWN, GOOD, BAD]))
    compared = compare(applications(table, amounts, outcomes), active, candidate)

    tiers = [tuple(oracle(p, row)["risk_tier"] for row in table) for p in (active, candidate)]
    moves = list(zip(*tiers, strict=True))
    flagged = [[tier == "Watchlist" for tier in side] for side in tiers]
    pairs = list(zip(*flagged, strict=True))
    assert compared.applications == len(table)
    for (before, i), (after, j) in (
        ((a, i), (b, j)) for i, a in enumerate(TIERS) for j, b in enumerate(TIERS)
    ):
        assert compared.moves[i, j] == Counter(moves)[before, after]
        assert compared.amounts[i, j] == sum(
            amount for amount, move in zip(amounts, moves, strict=True) if move == (before, after)
        )
    assert compared.entering.tolist() == [
        i for i, pair in enumerate(pairs) if pair == (False, True)
    ]
    assert compared.leaving.tolist() == [i for i, pair in enumerate(pairs) if pair == (True, False)]

    at = len(table) // 2  # day by day, as a rebuild compares
    parts = [(table[part], amounts[part], outcomes[part]) for part in (slice(at), slice(at, None))]
    first, second = (compare(applications(*part), active, candidate) for part in parts)
    assert np.array_equal((first + second).counts, compared.counts)
    assert np.array_equal((first + second).amounts, compared.amounts)
    assert same((first + second).flagged_change, compared.flagged_change)

    bads = outcomes.count(BAD)
    known = bads + outcomes.count(GOOD)
    assert (compared.bads, compared.known) == (bads, known)
    for verdict, mark in zip((compared.active, compared.candidate), flagged, strict=True):
        caught = sum(m and o == BAD for m, o in zip(mark, outcomes, strict=True))
        judged = sum(m and o != UNKNOWN for m, o in zip(mark, outcomes, strict=True))
        assert verdict.flagged == sum(mark)
        assert verdict.exposure == sum(a for a, m in zip(amounts, mark, strict=True) if m)
        assert same(verdict.flagged_share, intervals.share(sum(mark), len(table)))
        assert same(verdict.recall, intervals.share(caught, bads))
        assert same(verdict.precision, intervals.share(caught, judged))
    difference = compared.candidate.flagged_share.value - compared.active.flagged_share.value
    assert compared.flagged_change.value == pytest.approx(difference)
    if bads:
        difference = compared.candidate.recall.value - compared.active.recall.value
        assert compared.recall_change.value == pytest.approx(difference)


def same(one: intervals.Interval, other: intervals.Interval) -> bool:
    return np.array_equal([*vars(one).values()], [*vars(other).values()], equal_nan=True)


def test_a_policy_compared_with_itself_moves_nobody(policy: Policy) -> None:
    table: list[Row] = [
        dict(zip(INPUTS, values, strict=True))
        for values in ((35, None, 12, 1, 0), (10, 85, 12, 0, 2), (10, 10, 12, 0, 0))
    ]
    compared = compare(applications(table, [1, 2, 3], [BAD, GOOD, BAD]), policy, policy)
    assert not len(compared.entering)
    assert not len(compared.leaving)
    assert compared.moves.tolist() == np.diag([1, 0, 2]).tolist()
    assert compared.active.recall.value == 0.5


def test_without_applications_there_is_nothing_to_say(policy: Policy) -> None:
    compared = compare(applications([], [], []), policy, policy)
    assert compared.applications == 0
    assert compared.candidate.exposure == 0
    assert math.isnan(compared.candidate.flagged_share.value)
    assert math.isnan(compared.candidate.precision.value)


@pytest.mark.parametrize("name", BUILTIN_OUTCOMES)
def test_an_outcome_says_which_statuses_are_bad(name: str) -> None:
    outcome = load_outcome(name)
    statuses = [*outcome.bad, "Issued", *outcome.good, ""]
    expected = [BAD] * len(outcome.bad) + [UNKNOWN] + [GOOD] * len(outcome.good) + [UNKNOWN]
    assert outcome_codes(outcome, statuses).tolist() == expected


@given(policies())
def test_a_policy_is_the_same_after_it_was_written_as_a_file(policy: Policy) -> None:
    again = parse_policy(policy.yaml, "again.yaml")
    assert again == policy
    assert again.content_hash == policy.content_hash
