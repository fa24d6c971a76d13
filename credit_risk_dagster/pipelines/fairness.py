"""Fair lending figures of the policy, on loans of a file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.decoding import ACCEPTED, DecodedEvents, Event
from credit_risk_dagster.domain.fairness import Segment, by_class, by_segment
from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.classes import CLASS, Classes

ATTRIBUTES = ("home_ownership", "addr_state", "grade")
_HISTORY = (5.0, 10.0, 20.0)  # years
_HISTORY_WORDS = ("under 5 years", "5 to 10 years", "10 to 20 years", "20 years and more")


def fairness(
    loans: Iterable[Mapping[str, Any]],
    policy: Policy,
    outcome: Outcome,
    extra: Iterable[str] = ("application_type",),
    classes: Classes | None = None,
) -> list[Segment]:
    """Compare who is on the Watchlist by home, state, grade, age of credit, and columns of the
    loans; the score is the interest rate.

    Args:
        extra: columns of the loans, as application_type or a protected class that the user adds.
        classes: to which the applicants belong, or how probably.
    """
    rows = list(loans)
    columns: dict[str, Sequence[Any]] = {
        name: [row.get(name) for row in rows] for name in Event.__struct_fields__
    }
    events = DecodedEvents(columns, None, np.full(len(rows), ACCEPTED, dtype=np.int16))
    assessment = assess(events, policy)
    scored = assessment.scored
    attributes = {name: _texts(scored[name]) for name in ATTRIBUTES}
    years = scored["credit_history_years"].to_numpy(zero_copy_only=False)
    words = np.array([*_HISTORY_WORDS, None], dtype=object)
    bins = np.where(np.isnan(years), len(_HISTORY_WORDS), np.searchsorted(_HISTORY, years, "right"))
    attributes["age of credit"] = words[bins]
    for name in extra:
        found = [rows[at].get(name) for at in assessment.scored_at]
        attributes[name] = np.array([None if v in (None, "") else str(v) for v in found], object)
    status = scored["loan_status"]
    bad = np.full(len(scored), np.nan)
    for value, statuses in ((1.0, outcome.bad), (0.0, outcome.good)):
        bad[pc.is_in(status, pa.array(statuses)).to_numpy(zero_copy_only=False)] = value
    flagged = pc.equal(scored["risk_tier"], "Watchlist").to_numpy(zero_copy_only=False)
    rate = scored["int_rate"].to_numpy(zero_copy_only=False)
    found = by_segment(attributes, flagged, rate, bad)
    if classes is not None:
        given = classes.of(pa.Table.from_batches([scored]))
        found += by_class({CLASS: given}, flagged, rate, bad)
    return found


def _texts(column: pa.Array) -> Any:
    return np.array(column.to_pylist(), dtype=object)
