"""Champion and challenger: a split deals loans to two arms, each decided by a policy of its own.

By a hash of the salt and the loan's id, so that a loan is always in the same arm, and whoever is a
challenger at a small share stays one at a larger share of the same salt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import Assessment, Batch, answers

CHAMPION, CHALLENGER = "champion", "challenger"
ARMS = (CHAMPION, CHALLENGER)

# Of FNV-1a, 64 bits: draft-eastlake-fnv. Of MurmurHash3's finaliser: A. Appleby, `fmix64`.
_FNV_BASIS, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
_MIX: Final = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_WORD = 2**64


@dataclass(frozen=True)
class Split:
    """A split that runs.

    Attributes:
        policy, policy_id: the challenger.
        salt: deals the loans, and names the arms.
        share: percent of the loans that the challenger decides, 1 to 99.
    """

    policy: Policy
    policy_id: int
    salt: str
    share: int

    def arms(self, loan_ids: pa.StringArray) -> pa.StringArray:
        """The arm of each loan, as rows have it; null without an id."""
        names = pa.array([f"{self.salt}/{arm}" for arm in ARMS], pa.string())
        codes = pa.array(
            challenged(loan_ids, self.salt, self.share).astype(np.int8),
            mask=loan_ids.is_null().to_numpy(zero_copy_only=False),
        )
        return names.take(codes)


def challenged(loan_ids: pa.StringArray, salt: str, share: int) -> npt.NDArray[np.bool_]:
    """Which loans are the challenger's; never one without an id."""
    dealt: npt.NDArray[np.bool_] = hashed(loan_ids, salt) < np.uint64(_WORD * share // 100)
    return dealt & loan_ids.is_valid().to_numpy(zero_copy_only=False)


def hashed(texts: pa.StringArray, salt: str) -> npt.NDArray[np.uint64]:
    """A number of 64 bits for each text: FNV-1a of the UTF-8 of the salt, a zero byte and the text,
    then MurmurHash3's finaliser, without which ids in sequence would have hashes in sequence."""
    seed = _FNV_BASIS
    for byte in (*salt.encode(), 0):
        seed = (seed ^ byte) * _FNV_PRIME % _WORD
    _, ends, content = texts.buffers()
    count = len(texts)
    offsets = np.frombuffer(ends, np.int32, count + 1, texts.offset * 4) if count else np.zeros(1)
    data = np.frombuffer(content or b"", np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    found = np.full(count, seed, np.uint64)
    for at in range(int(lengths.max(initial=0))):
        longer = slice(None) if (lengths > at).all() else np.flatnonzero(lengths > at)
        found[longer] = (found[longer] ^ data[starts[longer] + at]) * np.uint64(_FNV_PRIME)
    for factor in _MIX:
        found = (found ^ (found >> np.uint64(33))) * factor
    return found ^ (found >> np.uint64(33))


def assess_by_arm(
    batch: Batch, champion: Policy, champion_id: int, split: Split | None
) -> Assessment:
    """What the policy of each loan's arm makes of a batch; `scored` has `policy_id` and `arm`, too.
    One without an id is the champion's, and of no arm; without a split, all are."""
    if split is None:
        return batch.assess(champion)
    of_challenger = challenged(batch.loan_ids, split.salt, split.share)
    arms = split.arms(batch.loan_ids)
    parts = []
    for policy, policy_id, mine in (
        (champion, champion_id, ~of_challenger),
        (split.policy, split.policy_id, of_challenger),
    ):
        part = batch.assess(policy).only(mine)
        ids = pa.repeat(pa.scalar(policy_id, pa.int32()), len(part.scored))
        named = part.scored.append_column("policy_id", ids)
        named = named.append_column("arm", arms.take(pa.array(part.scored_at)))
        parts.append(replace(part, scored=named))
    return _together(*parts)


def answers_by_arm(
    values: Sequence[bytes | None],
    champion: Policy,
    model: PdModel | None = None,
    split: Split | None = None,
) -> list[dict[str, Any]]:
    """As `answers`, each by the policy of its loan's arm; with a split, it has `arm`, too."""
    found = answers(values, champion, model)
    if split is None:
        return found
    loan_ids = pa.array([one["loan_id"] for one in found], pa.string())
    challenger = answers(values, split.policy, model)
    dealt = zip(
        *(found, challenger, challenged(loan_ids, split.salt, split.share)),
        split.arms(loan_ids).to_pylist(),
        strict=True,
    )
    return [(other if mine else one) | {"arm": arm} for one, other, mine, arm in dealt]


def _together(one: Assessment, other: Assessment) -> Assessment:
    """Two assessments of parts of a batch as one, in the order of the batch."""
    scored_at = np.concatenate([one.scored_at, other.scored_at])
    rejected_at = np.concatenate([one.rejected_at, other.rejected_at])
    order, rejected = np.argsort(scored_at), np.argsort(rejected_at)
    # A model that fails for one part leaves only that one without its columns.
    tables = [pa.Table.from_batches([part.scored]) for part in (one, other)]
    both = pa.concat_tables(tables, promote_options="default").combine_chunks()
    (scored,) = both.to_batches() or [pa.RecordBatch.from_pylist([], both.schema)]
    return Assessment(
        loan_ids=one.loan_ids,
        scored=pc.take(scored, pa.array(order)),
        scored_at=scored_at[order],
        tiers=np.concatenate([one.tiers, other.tiers])[order],
        rejected_at=rejected_at[rejected],
        reasons=np.concatenate([one.reasons, other.reasons])[rejected],
        model_error=one.model_error or other.model_error,
    )
