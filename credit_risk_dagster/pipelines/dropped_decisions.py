"""First decisions that retention took out of Postgres: the lake's table of decisions has them."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.model.observed import OBSERVED
from credit_risk_dagster.domain.model.sample import COLUMNS
from credit_risk_dagster.pipelines.lake_history import tables
from resources.lake import Lake
from resources.postgres.outcomes import Dropped, Earlier

_READ = ("decided_at", "recorded_at", "event_time", "risk_tier", "loan_status", *COLUMNS)


def dropped_decisions(lake: Lake, dropped: Sequence[Dropped], loans: pa.Array) -> Earlier | None:
    """The first decision of each loan of the dropped periods, the oldest first; None without any.

    Args:
        dropped: sources, and until when they are dropped.
        loans: of which something was observed; of others, those whose application tells it.

    Raises:
        ObjectMissing, LakeUnavailable, LakeRefused, LakeDamaged.
    """
    found = [rows for source in dropped for rows in _of_source(lake, source, loans)]
    if not sum(map(len, found)):
        return None
    rows = pa.Table.from_batches(found).sort_by("decided_at")
    _, first = np.unique(rows["loan_id"].to_numpy(), return_index=True)
    told = rows.filter(rows["loan_status"].is_valid())
    columns = {"loan_id": told["loan_id"], "status": told["loan_status"]}
    columns["observed_at"] = pc.coalesce(told["event_time"], told["recorded_at"])
    return Earlier(
        rows.take(pa.array(np.sort(first))).select(COLUMNS),
        pa.table({f.name: columns.get(f.name, pa.nulls(len(told), f.type)) for f in OBSERVED}),
    )


def _of_source(lake: Lake, source: Dropped, loans: pa.Array) -> Iterator[pa.RecordBatch]:
    table = tables(lake, source.topic)["decisions"]
    snapshot = table.open()
    files = snapshot.files(source.key, until=source.until.date()) if snapshot else []
    for _, of_day in groupby(files, key=lambda file: file.day):
        for rows in table.read(list(of_day), _READ):
            of_it = pc.or_kleene(
                pc.is_in(rows["loan_id"], value_set=loans), rows["loan_status"].is_valid()
            )
            scored = pc.and_(rows["risk_tier"].is_valid(), rows["loan_id"].is_valid())
            some = rows.filter(pc.and_(scored, of_it))
            known = pc.coalesce(some["event_time"], some["recorded_at"]).cast(pa.date32())
            at = some.schema.get_field_index("issue_d")
            yield some.set_column(at, "issue_d", pc.coalesce(some["issue_d"], known))
