"""What the metrics ask the warehouse."""

import time

from resources.postgres.metrics import MetricsLedger
from tests.platform.pipeline import Pipeline, good_event

DAY = 86_400


def waited_days(pipeline: Pipeline) -> list[float | None]:
    """How long the first event of each partition has waited for the archive."""
    with pipeline.warehouse.session() as connection:
        found = MetricsLedger(connection, pipeline.kafka.topic).read().partitions
    since = [part["unarchived_since"] for part in found]
    return [None if at is None else round((time.time() - at) / DAY, 2) for at in since]


def test_what_is_not_archived_is_found_however_old_it_is(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(1), b"junk"], 1)
    assert waited_days(pipeline) == [None, 0.0, None, None]
    for table, at in (("scored_applications", "scored_at"), ("rejected_events", "rejected_at")):
        pipeline.query(f"UPDATE {table} SET {at} = {at} - interval '5 days' RETURNING 1")
    assert waited_days(pipeline) == [None, 5.0, None, None]
    pipeline.send_and_drain([good_event(2)], 1)  # which is not the first
    assert waited_days(pipeline) == [None, 5.0, None, None]
    pipeline.archive()
    assert waited_days(pipeline) == [None] * 4
