"""What the Policy lab reads: the newest applications, as columns."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.model.outcome import BUILTIN_OUTCOMES, load_outcome
from credit_risk_dagster.domain.policy import Policy, parse_policy
from credit_risk_dagster.domain.unary import NUMBERS
from dashboard.data.connection import Snapshot, snapshot
from resources.postgres.columns import Columns, read_columns

# Those that a status decides; the lab asks for no horizon.
OUTCOME_DEFINITIONS = {
    name: found for name in BUILTIN_OUTCOMES if (found := load_outcome(name)).horizon_months is None
}
STATUSES = (
    "",
    *sorted({status for o in OUTCOME_DEFINITIONS.values() for status in (*o.bad, *o.good)}),
)
LAB_SIZES = (10_000, 100_000, 1_000_000)
LAB_ROWS = 100
SAMPLES = 2
_POSTGRES_EPOCH = pd.Timestamp("2000-01-01", tz="UTC")
_LAB_COLUMNS = {
    "loan": "i8",
    "of_two": "i2",
    "status": "i2",
    "source_id": "i4",
    "partition": "i4",
    "offset": "i8",
    "scored_at": "i8",
}


@dataclass(frozen=True)
class LabSample:
    """The newest applications, of each loan its newest one, for the policy lab; every array has
    shape (n,), newest first.

    Attributes:
        numbers, of_two: as `policy_lab.Applications` has them.
        status: positions in `STATUSES`; 0 is any other.
        keys: `source_id`, `partition`, `offset` and `scored_at` (microseconds since 2000).
    """

    as_of: pd.Timestamp
    numbers: Columns
    of_two: npt.NDArray[np.bool_]
    status: npt.NDArray[np.int16]
    keys: Columns

    def scored_at(self, position: int) -> pd.Timestamp:
        """When the application at a position was scored."""
        return _POSTGRES_EPOCH + pd.Timedelta(int(self.keys["scored_at"][position]), "us")


@st.cache_data(ttl=5, show_spinner=False)
def active_policy() -> Policy | None:
    """The active policy; None when nothing was scored yet."""
    with snapshot() as db:
        document = db.one("""
            SELECT (SELECT document FROM policies WHERE policy_id = coalesce(
                (SELECT subject_id FROM activations WHERE kind = 'policy'
                    AND effective_from <= now() AND (effective_to IS NULL OR effective_to > now())),
                (SELECT policy_id FROM batches ORDER BY committed_at DESC LIMIT 1)))
                AS document
        """)["document"]
    return document and parse_policy(document, "that is active")


@st.cache_resource(show_spinner=False)
def readings() -> list[int]:
    """How often somebody asked to read again; all viewers look at the same reading."""
    return [0]


@st.cache_resource(max_entries=SAMPLES, show_spinner="Reading the applications")
def lab_sample(applications: int, reading: int, numbers: frozenset[str]) -> LabSample:
    """Read the newest applications, once for each of `readings`, for all viewers.

    A loan that was sent again and again counts once: as many would make intervals too short. It
    takes about 110 bytes an application: with `SAMPLES` of the largest size that are kept, and one
    that is being read, 330 MB, however many look.

    Args:
        reading: as of `readings`.
        applications: so many are looked at.
        numbers: of which columns.
    """
    kinds = dict.fromkeys(sorted(numbers), "f8") | _LAB_COLUMNS
    read = ", ".join(f"coalesce({name}, 'NaN')" for name in sorted(numbers & NUMBERS.keys()))
    with snapshot() as db:
        as_of = db.one("SELECT now() AS as_of")["as_of"]
        db.connection.execute("SET LOCAL statement_timeout = '60s'")
        since = _lab_start(db, applications)
        columns = read_columns(
            db.connection,
            f"""
            SELECT {read}, hashtextextended(coalesce(loan_id, partition || ':' || "offset"), 0),
                   (figures IS NOT NULL)::int::int2,
                   coalesce(array_position(%(statuses)s::text[],
                       coalesce(told.status, loan_status)), 0)::int2,
                   source_id, partition, "offset", scored_at
              FROM scored_applications
              LEFT JOIN (SELECT DISTINCT ON (loan_id) loan_id, status FROM loan_outcomes
                          WHERE status IS NOT NULL
                          ORDER BY loan_id, observed_at DESC, outcome_id DESC) AS told
                   USING (loan_id)
             WHERE scored_at >= %(since)s
            """,  # noqa: S608 (names of NUMBERS)
            {"since": since, "statuses": list(STATUSES[1:])},
            kinds,
        )
    newest = np.lexsort((columns["offset"], columns["scored_at"]))[::-1][:applications]
    _, first = np.unique(columns.pop("loan")[newest], return_index=True)
    newest = newest[np.sort(first)]
    kinds.pop("loan")
    for name in kinds:  # one by one: there is never a second copy of all
        columns[name] = columns[name][newest]
    keys = {name: columns.pop(name) for name in ("source_id", "partition", "offset", "scored_at")}
    return LabSample(
        as_of=pd.Timestamp(as_of),
        status=columns.pop("status"),
        of_two=columns.pop("of_two").astype(np.bool_),
        numbers=columns,
        keys=keys,
    )


def _lab_start(db: Snapshot, applications: int) -> datetime:
    """The time since which so many were scored, or a few more: whole transactions.

    The rollup tells the minute, and the minute's own rows the transaction. So the cost does not
    depend on how many there are.
    """
    minutes = db.rows(
        """
        SELECT minute, running - scored AS later
          FROM (SELECT minute, sum(applications) AS scored,
                       sum(sum(applications)) OVER (ORDER BY minute DESC) AS running
                  FROM risk_by_minute WHERE risk_tier <> 'Rejected'
                 GROUP BY minute ORDER BY minute DESC) AS minutes
         WHERE running >= %(applications)s LIMIT 1
        """,
        applications=applications,
    )
    if not minutes:
        return datetime.min.replace(tzinfo=UTC)
    transactions = db.rows(
        """
        SELECT scored_at
          FROM (SELECT scored_at, sum(count(*)) OVER (ORDER BY scored_at DESC) AS running
                  FROM scored_applications
                 WHERE scored_at >= %(minute)s AND scored_at < %(minute)s + interval '1 minute'
                 GROUP BY scored_at) AS transactions
         WHERE %(later)s + running >= %(applications)s ORDER BY scored_at DESC LIMIT 1
        """,
        applications=applications,
        **minutes[0],
    )
    return cast(datetime, transactions[0]["scored_at"] if transactions else minutes[0]["minute"])


def lab_applications(sample: LabSample, positions: npt.NDArray[np.intp]) -> pd.DataFrame:
    """The applications at positions of a sample, as far as they still exist, in that order:
    `position`, `loan_id`, `scored_at`, `loan_amnt` (USD), `dti`, `revol_util`, `int_rate`
    (percent), `delinq_2yrs`, `inq_last_6mths`, `purpose`, `grade`, `addr_state`, `loan_status`."""
    keys = {name: values[positions].tolist() for name, values in sample.keys.items()}
    with snapshot() as db:
        return db.frame(
            """
            SELECT k.position, loan_id, scored_at, loan_amnt, dti, revol_util, int_rate,
                   delinq_2yrs, inq_last_6mths, purpose, grade, addr_state,
                   coalesce((SELECT status FROM loan_outcomes o
                              WHERE o.loan_id = s.loan_id AND status IS NOT NULL
                              ORDER BY observed_at DESC, outcome_id DESC LIMIT 1), loan_status)
                       AS loan_status
              FROM unnest(%(positions)s::bigint[], %(source_id)s::integer[],
                          %(partition)s::integer[], %(offset)s::bigint[],
                          %(scored_at)s::timestamptz[])
                   WITH ORDINALITY
                   AS k (position, source_id, partition, "offset", scored_at, place)
              JOIN scored_applications s USING (source_id, partition, "offset", scored_at)
             ORDER BY place
            """,
            "UTC",
            **keys
            | {
                "positions": positions.tolist(),
                "scored_at": [sample.scored_at(at).to_pydatetime() for at in positions],
            },
        )
