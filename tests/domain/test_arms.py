"""Who is in which arm: dealt by chance, the same for ever, and each decided by its own policy."""

import math

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from credit_risk_dagster.domain.arms import Split, assess_by_arm, challenged, hashed
from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.policy import Policy, load_policy, validate_policy
from credit_risk_dagster.domain.scoring import Batch
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.malformed import event

DEFAULT = load_policy(DEFAULT_POLICY)
V1 = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
LOANS = 100_000
SHARES = (1, 10, 50, 99)


def by_hand(salt: str, loan_id: str) -> int:
    """The hash as it is told in docs/policy.md, a byte at a time."""
    found = 0xCBF29CE484222325
    for byte in (*salt.encode(), 0, *loan_id.encode()):
        found = (found ^ byte) * 0x100000001B3 % 2**64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        found = (found ^ (found >> 33)) * factor % 2**64
    return found ^ (found >> 33)


def test_the_hash_is_the_one_that_is_told() -> None:
    # Known of FNV-1a: without the finaliser, of "foobar" it is 85944171f73967e8.
    ids = ["1", "127000001", "", "A-b_c.d 9", "ü", *map(str, range(9_990, 10_010))]
    texts = pa.array(["left", *ids, None]).slice(1)
    assert hashed(texts, "salt")[:-1].tolist() == [by_hand("salt", one) for one in ids]
    assert len(hashed(pa.array([], pa.string()), "salt")) == 0
    assert not challenged(texts, "salt", 99)[-1]  # what has no id is never the challenger's


@pytest.mark.parametrize("first", [1, 127_000_001])
def test_the_share_is_what_was_asked_for_and_the_arms_depend_on_nothing(first: int) -> None:
    """100,000 loans in sequence, the hardest ids there are, with grades and states of real ones:
    the share in its binomial 99 % interval, chi-square of arm against grade, state and the arm of
    another salt."""
    loans = builtin_loans()
    ids = pa.array([str(first + at) for at in range(LOANS)])
    grades, states = (
        np.resize([loan[name] for loan in loans], LOANS) for name in ("grade", "addr_state")
    )
    other = challenged(ids, "another", 50)
    smaller = np.zeros(LOANS, np.bool_)
    for share in SHARES:
        arm = challenged(ids, "salt", share)
        low, high = stats.binom.interval(0.99, LOANS, share / 100)
        assert low <= arm.sum() <= high, share
        for name, values in (("grade", grades), ("state", states), ("another salt", other)):
            table = [np.unique(values[arm == side], return_counts=True) for side in (0, 1)]
            counts = [dict(zip(*found, strict=True)) for found in table]
            # Cells of fewer than five expected say nothing.
            names = [n for n, all_ in counts[0].items() if min(all_, counts[1].get(n, 0)) >= 5]
            cells = [[side.get(value, 0) for value in names] for side in counts]
            assert stats.chi2_contingency(cells).pvalue > 0.001, (share, name)
        assert not (smaller & ~arm).any()  # a larger share keeps who is in
        smaller = arm
    assert math.isclose(arm.mean(), 0.99, abs_tol=0.002)


def only_joint_and_large() -> Policy:
    return validate_policy(
        {
            "name": "challenger",
            "joint": "primary",
            "bands": {"dti": [20, 30, 40], "revol_util": [30, 60, 80], "int_rate": [10, 15, 20]},
            "rules": [
                {"id": "r", "when": {"loan_amnt": ">= 20000"}, "tier": "Watchlist", "words": "Much"}
            ],
        },
        "test",
    )


@pytest.mark.parametrize("challenger", [V1, only_joint_and_large()])
def test_each_arm_is_decided_by_its_own_policy(challenger: Policy) -> None:
    """Row by row what each policy alone makes of the same events, with those that only one of them
    rejects: joint applications whose first borrower's figures are unknown."""
    values = [msgspec.json.encode(loan) for loan in builtin_loans()[:3_000]]
    values += [b"junk", event(id=None), event(id="n/a", dti=None)]
    events = decode(values)
    split = Split(challenger, 7, "salt", 30)
    found = assess_by_arm(Batch(events), DEFAULT, 3, split)
    rows = dict(zip(found.scored_at.tolist(), found.scored.to_pylist(), strict=True))
    rejected = dict(zip(found.rejected_at.tolist(), found.reasons.tolist(), strict=True))
    assert sorted([*rows, *rejected]) == list(range(len(values)))
    assert (np.diff(found.scored_at) > 0).all()
    assert (np.diff(found.rejected_at) > 0).all()
    arm = challenged(found.loan_ids, "salt", 30)
    for policy, policy_id, name, mine in (
        (DEFAULT, 3, "champion", ~arm),
        (challenger, 7, "challenger", arm),
    ):
        alone = Batch(events).assess(policy)
        for at, row in zip(alone.scored_at.tolist(), alone.scored.to_pylist(), strict=True):
            if mine[at]:
                dealt = f"salt/{name}" if found.loan_ids[at].as_py() else None
                assert rows[at] == row | {"policy_id": policy_id, "arm": dealt}
        for at, reason in zip(alone.rejected_at.tolist(), alone.reasons.tolist(), strict=True):
            assert not mine[at] or rejected[at] == reason
    assert set(found.scored["arm"].to_pylist()) == {"salt/champion", "salt/challenger", None}
    assert sum(found.tier_counts().values()) == len(rows)
    empty = assess_by_arm(Batch(decode([])), DEFAULT, 3, split)
    assert len(empty.scored) == 0


def test_a_batch_of_one_arm_alone_is_whole() -> None:
    events = decode([event(id=str(number)) for number in range(40)])
    for share, least in ((1, 0), (99, 30)):
        split = Split(DEFAULT, 2, "salt", share)
        found = assess_by_arm(Batch(events), DEFAULT, 1, split)
        assert len(found.scored) == 40
        assert found.scored["arm"].to_pylist().count("salt/challenger") >= least
