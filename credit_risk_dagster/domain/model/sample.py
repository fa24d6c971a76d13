"""A sample to train and measure on: applications whose outcome is known, each loan once."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.features import FEATURES
from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.errors import PlatformError

# Of each outcome. With fewer, five folds have too few of them for a figure to mean something.
MIN_OF_EACH = 30
# What is read of `scored_applications`; `issue_d` orders a sample in time, and is no feature.
COLUMNS = ("loan_id", "loan_status", "issue_d", *FEATURES)
TEXTS = ("loan_id", "loan_status", "purpose", "home_ownership", "grade")


class SampleTooSmall(PlatformError):
    """Too few good or bad loans; the message says how many there are."""


@dataclass(frozen=True)
class Sample:
    """Applications with an outcome.

    Attributes:
        name: where they came from.
        outcome: version of the definition by which they are good or bad.
        rows: `COLUMNS`, by loan id.
        bad: shape (n,).
        content_hash: SHA-256 of ids, features and outcomes.
    """

    name: str
    outcome: str
    rows: pa.Table
    bad: npt.NDArray[np.bool_]
    content_hash: str

    def __len__(self) -> int:
        return len(self.bad)

    @property
    def bads(self) -> int:
        return int(self.bad.sum())

    def by_month(self) -> list[tuple[str, int, int]]:
        """Month of issue, loans and bad loans, in order; NaT is the last."""
        months = self.rows["issue_d"].to_numpy().astype("datetime64[M]")
        found, at = np.unique(months, return_inverse=True)
        loans, bads = np.bincount(at), np.bincount(at, self.bad)
        return list(zip(found.astype(str), loans.tolist(), bads.astype(int).tolist(), strict=True))


def make_sample(name: str, outcome: Outcome, rows: pa.Table) -> Sample:
    """Keep the loans that have an outcome, each once.

    A loan that comes more than once counts with its last row: it cannot be in the training and the
    test part, and not twice in an interval. Rows without a loan id are loans of their own.

    Args:
        name: where the rows came from.
        outcome: what is bad and what is good.
        rows: `COLUMNS` at least, in order of time.

    Raises:
        SampleTooSmall: there are less than `MIN_OF_EACH` bad or good loans.
    """
    rows = rows.select(COLUMNS)
    rows = rows.filter(pc.is_in(rows["loan_status"], pa.array([*outcome.bad, *outcome.good])))
    rows = rows.take(pc.sort_indices(rows["loan_id"])).combine_chunks()
    ids = rows["loan_id"]
    if len(ids) > 1:
        same = pc.fill_null(pc.equal(ids[:-1], ids[1:]), False)
        last = np.append(~same.to_numpy(), True)
        rows = rows.filter(pa.array(last))
    status = pc.is_in(rows["loan_status"], pa.array(outcome.bad))
    bad = np.asarray(status.to_numpy(), dtype=np.bool_)
    bads, goods = int(bad.sum()), int((~bad).sum())
    if min(bads, goods) < MIN_OF_EACH:
        raise SampleTooSmall(
            f"sample {name} has {bads:,} bad and {goods:,} good loans by {outcome.version}; at "
            f"least {MIN_OF_EACH} of each are needed: give a larger sample or another outcome"
        )
    return Sample(name, outcome.version, rows, bad, _hash(rows, bad))


def _hash(rows: pa.Table, bad: npt.NDArray[np.bool_]) -> str:
    digest = hashlib.sha256(bad.tobytes())
    for name in ("loan_id", *FEATURES):
        column = rows[name]
        digest.update(f"\0{name}\0".encode())
        if pa.types.is_floating(column.type):
            digest.update(column.to_numpy().tobytes())
        else:
            digest.update("\0".join(text or "" for text in column.to_pylist()).encode())
    return digest.hexdigest()
