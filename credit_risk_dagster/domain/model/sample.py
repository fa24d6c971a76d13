"""A sample to train and measure on: applications whose outcome is known, each loan once."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.features import FEATURES
from credit_risk_dagster.domain.model.observed import NONE, OBSERVED, UNDECIDED, resolve
from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.errors import PlatformError

# Of each outcome. With fewer, five folds have too few of them for a figure to mean something.
MIN_OF_EACH = 30
# What is read of `scored_applications`; `issue_d` orders a sample in time, and is no feature.
COLUMNS = ("loan_id", "issue_d", *FEATURES)
TEXTS = ("loan_id", "purpose", "home_ownership", "grade")


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
        left_out: loans without an outcome, by why.
    """

    name: str
    outcome: str
    rows: pa.Table
    bad: npt.NDArray[np.bool_]
    content_hash: str
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.bad)

    @property
    def bads(self) -> int:
        return int(self.bad.sum())

    @property
    def left_out_words(self) -> str:
        """`12 left out: immature 7, status 'Issued' 5`; empty when none is."""
        if not self.left_out:
            return ""
        each = ", ".join(f"{why} {count:,}" for why, count in self.left_out.items())
        return f"{sum(self.left_out.values()):,} left out: {each}"

    def by_month(self) -> list[tuple[str, int, int]]:
        """Month of issue, loans and bad loans, in order; NaT is the last."""
        months = self.rows["issue_d"].to_numpy().astype("datetime64[M]")
        found, at = np.unique(months, return_inverse=True)
        loans, bads = np.bincount(at), np.bincount(at, self.bad)
        return list(zip(found.astype(str), loans.tolist(), bads.astype(int).tolist(), strict=True))


@dataclass(frozen=True)
class Loans:
    """Loans as the first decision saw them, and what was observed of them since.

    Attributes:
        name: where they came from.
        rows: `COLUMNS`, each loan once, by loan id.
        keys: of each loan, as `observed` names it.
        observed: `OBSERVED`, as they were recorded.
        unobserved: loans beside these of which nothing was observed.
        undecided: loans of which something was observed, and no decision is known.
    """

    name: str
    rows: pa.Table
    keys: pa.Array
    observed: pa.Table
    unobserved: int = 0
    undecided: int = 0

    @property
    def decided(self) -> npt.NDArray[np.datetime64]:
        """The day of each first decision."""
        return self.rows["issue_d"].to_numpy().astype("datetime64[D]")


def first_decisions(
    name: str,
    rows: pa.Table,
    observed: pa.Table | None = None,
    unobserved: int = 0,
    undecided: int = 0,
) -> Loans:
    """The loans of rows that are in order of time, each by its first row: what was known when it
    was decided. Rows without a loan id are loans of their own.

    Args:
        rows: `COLUMNS` at least; without `observed` also `loan_status` and, if known,
            `observed_at`: rows of a file, which say themselves what became of a loan.
        observed, unobserved, undecided: as of `Loans`.
    """
    if not len(rows):
        none = pa.array([], pa.string()), OBSERVED.empty_table()
        return Loans(name, rows.select(COLUMNS), *none, unobserved, undecided)
    ids = rows["loan_id"].combine_chunks()
    keys = ids
    if ids.null_count:
        keys = pc.coalesce(ids, pa.array([f"row {at}" for at in range(len(ids))]))
    order = pc.sort_indices(keys)  # stable
    ordered = keys.take(order)
    another = pc.not_equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)
    at = order.filter(pa.array(np.append(True, another)))
    if observed is None:
        observed = _told_by_rows(keys, rows)
    firsts = rows.select(COLUMNS).take(at).combine_chunks()
    return Loans(name, firsts, keys.take(at), observed, unobserved, undecided)


def _told_by_rows(keys: pa.Array, rows: pa.Table) -> pa.Table:
    columns = {"loan_id": keys, "status": rows["loan_status"].cast(pa.string())}
    if "observed_at" in rows.column_names:
        columns["observed_at"] = rows["observed_at"].cast(OBSERVED.field("observed_at").type)
    table = pa.table(
        {field.name: columns.get(field.name, pa.nulls(len(rows), field.type)) for field in OBSERVED}
    )
    return table.filter(table["status"].is_valid())


def make_sample(outcome: Outcome, loans: Loans) -> Sample:
    """The loans that have an outcome, and how many have none, by why.

    Raises:
        SampleTooSmall: there are less than `MIN_OF_EACH` bad or good loans.
    """
    found = resolve(outcome, loans.keys, loans.decided, loans.observed)
    left_out = dict(found.left_out)
    for why, count in ((NONE, loans.unobserved), (UNDECIDED, loans.undecided)):
        if count:
            left_out[why] = left_out.get(why, 0) + count
    rows, bad = loans.rows.filter(pa.array(found.known)), found.bad[found.known]
    sample = Sample(
        loans.name, outcome.version, rows.combine_chunks(), bad, _hash(rows, bad), left_out
    )
    if min(sample.bads, len(bad) - sample.bads) < MIN_OF_EACH:
        goods, said = len(bad) - sample.bads, sample.left_out_words
        raise SampleTooSmall(
            f"sample {loans.name} has {sample.bads:,} bad and {goods:,} good loans by "
            f"{outcome.version}{said and f' ({said})'}; at least {MIN_OF_EACH} of each are needed: "
            "give a larger sample or another outcome"
        )
    return sample


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
