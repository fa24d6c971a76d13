"""What a shadow says beside what was decided, without any server."""

import msgspec
import numpy as np
import pytest

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import Batch
from credit_risk_dagster.domain.shadow import STATES, Shadow, beside, opinion
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY

DEFAULT = load_policy(DEFAULT_POLICY)
V1 = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
VALUES = [*(msgspec.json.encode(loan) for loan in builtin_loans()[:3_000]), b"junk", None]


@pytest.mark.parametrize("candidate", [DEFAULT, V1])
def test_the_matrix_and_the_rows_are_of_both_alone(candidate: object) -> None:
    batch = Batch(decode(VALUES))
    assert isinstance(candidate, type(DEFAULT) | type(V1))
    decided, alone = batch.assess(DEFAULT), Batch(decode(VALUES)).assess(candidate)
    found = beside(opinion(Shadow(1, candidate), batch, decided), decided)
    pairs = []
    for one in (decided, alone):
        tiers = np.full(len(VALUES), len(STATES) - 2)
        tiers[one.scored_at] = one.tiers
        pairs.append(np.take(STATES, tiers).tolist())
    both = list(zip(*pairs, strict=True))
    cells = zip(found.decided, found.candidate, strict=True)
    assert dict(zip(cells, found.applications, strict=True)) == {
        pair: both.count(pair) for pair in set(both)
    }
    assert sum(found.loan_amnt) == pytest.approx(sum(decided.tier_amounts()))
    others = {at for at, (was, says) in enumerate(both) if was != says}
    assert others <= set(found.differing.tolist())
    assert bool(others) == (candidate is not DEFAULT)
    if candidate is DEFAULT:
        assert not len(found.differing)
    assert len(found.rows) == len(found.differing)


def test_what_no_policy_rejected_is_not_compared() -> None:
    """Applications that were sent twice, and those that Postgres cannot store."""
    batch = Batch(decode(VALUES))
    decided = batch.assess(DEFAULT)
    said = opinion(Shadow(1, DEFAULT), batch, decided)
    fewer = decided.repeating(decided.scored_at[:7], np.zeros((7, 3), np.int64))
    fewer = fewer.rejecting({0: "unstorable:data"})
    found = beside(said, fewer)
    assert sum(found.applications) == len(VALUES) - 8
    assert not len(found.differing)
