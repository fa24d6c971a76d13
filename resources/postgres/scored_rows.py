"""The rows of a micro-batch, as columns for COPY."""

from typing import Any

import numpy as np
import pyarrow as pa

from credit_risk_dagster.domain.decoding import REASONS
from credit_risk_dagster.domain.scoring import Assessment
from resources.kafka.reader import Fetch
from resources.postgres.columns import constant

_ALL = slice(None)
_FIRST = ("first_source_id", "first_partition", "first_offset")


def scored_rows(
    source_id: int,
    batch_id: int,
    policy_id: int,
    fetch: Fetch,
    assessment: Assessment,
    some: slice = _ALL,
) -> pa.RecordBatch:
    """What `scored_applications` gets of a batch; `some` of its scored rows."""
    at = assessment.scored_at[some]
    rows = by_policy(assessment.scored[some], policy_id)
    return _with_coordinates(rows, source_id, batch_id, fetch, at)


def by_policy(rows: pa.RecordBatch, policy_id: int) -> pa.RecordBatch:
    """Rows with the policy that decided them; those of a split have it already."""
    if "policy_id" in rows.schema.names:
        return rows
    return rows.append_column("policy_id", constant(policy_id, len(rows), pa.int32()))


def rejected_rows(
    source_id: int, batch_id: int, fetch: Fetch, assessment: Assessment, some: slice = _ALL
) -> pa.RecordBatch:
    """What `rejected_events` gets of a batch; `some` of its rejected rows."""
    at = assessment.rejected_at[some]
    rows = pa.RecordBatch.from_pydict(
        {
            "reason": pa.array([REASONS[code] for code in assessment.reasons[some]], pa.string()),
            "key": pa.array([fetch.keys[i] for i in at], pa.binary()),
            "value": pa.array([fetch.values[i] for i in at], pa.binary()),
        }
    )
    if assessment.firsts is not None:
        for name, firsts in zip(_FIRST, assessment.firsts[some].T, strict=True):
            kind = pa.int64() if name == "first_offset" else pa.int32()
            column = pa.array(firsts, mask=firsts < 0).cast(kind)
            rows = rows.append_column(name, column)
    return _with_coordinates(rows, source_id, batch_id, fetch, at)


def _with_coordinates(
    rows: pa.RecordBatch, source_id: int, batch_id: int, fetch: Fetch, at: Any
) -> pa.RecordBatch:
    """Add the columns that say where each row's record came from."""
    # A record without a time gets the epoch, which no real record has.
    micros = np.maximum(fetch.timestamps[at], 0) * 1000
    columns = {
        "source_id": constant(source_id, len(at), pa.int32()),
        "partition": pa.array(fetch.partitions[at]),
        "offset": pa.array(fetch.offsets[at]),
        "batch_id": constant(batch_id, len(at), pa.int64()),
        "recorded_at": pa.array(micros.view("datetime64[us]")).cast(pa.timestamp("us", "UTC")),
    }
    columns |= {name: rows[name] for name in rows.schema.names}
    return pa.RecordBatch.from_pydict(columns)
