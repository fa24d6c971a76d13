"""Days that are rebuilt in any order, and at once: the equation holds after each batch."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from resources.kafka.reader import Fetch, OffsetRange
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.micro_batch import OffsetsMoved, StageSeconds
from resources.postgres.policies import register_policy
from resources.postgres.rebuilt import NOT_REBUILT, RebuiltLedger
from resources.postgres.reconciliation import reconcile
from resources.postgres.sources import Source, Sources
from tests.platform.pipeline import good_event

SOURCE = Source(1, "cluster", "applications", None, 0)
POLICY = load_policy(DEFAULT_POLICY)
SECONDS = StageSeconds(0, 0, 0, None)


def fetch(partition: int, offsets: list[int]) -> Fetch:
    """Records at these offsets; every fifth is no application."""
    at = np.array(offsets, np.int64)
    edges = np.flatnonzero(np.diff(at, prepend=-9) != 1).tolist()
    runs = zip(edges, [*edges[1:], len(at)], strict=True)
    return Fetch(
        ranges=[OffsetRange(partition, offsets[a], offsets[b - 1] + 1) for a, b in runs],
        partitions=np.full(len(at), partition, np.int32),
        offsets=at,
        timestamps=np.full(len(at), 1_700_000_000_000, np.int64),
        keys=[None] * len(at),
        values=[b"junk" if o % 5 == 0 else good_event(o) for o in offsets],
    )


def commit(store: Warehouse, partition: int, offsets: list[int]) -> None:
    with store.session("test") as connection:
        got = fetch(partition, offsets)
        policy_id = register_policy(connection, POLICY)
        assessment = assess(decode(got.values, got.keys), POLICY)
        RebuiltLedger(connection).commit(1, policy_id, "run", 0, got, assessment, SECONDS)


@pytest.fixture
def store(warehouse_settings: WarehouseSettings) -> Warehouse:
    found = Warehouse(warehouse_settings)
    with found.session("test") as connection:
        Sources(connection).adopt(SOURCE)
    return found


def state(store: Warehouse) -> tuple[dict[int, tuple[int, int, int]], list[tuple[int, int, int]]]:
    """First and next offset and gaps by partition, and the ranges that are not rebuilt; nothing is
    missing or doubled."""
    with store.session("test") as connection:
        assert all(found["difference"] == 0 for found in reconcile(connection, 1))
        progress = RebuiltLedger(connection).progress(1)
        gaps = fetch_all(connection, "SELECT * FROM offset_gaps ORDER BY partition, first_offset")
    assert {gap["reason"] for gap in gaps} <= {NOT_REBUILT}
    return (
        {p.partition: (p.first_offset, p.next_offset, p.gaps) for p in progress},
        [(gap["partition"], gap["first_offset"], gap["next_offset"]) for gap in gaps],
    )


def test_a_later_day_first_and_then_what_is_before_between_and_after_it(store: Warehouse) -> None:
    commit(store, 0, [50, 51, 54])
    assert state(store) == ({0: (50, 55, 2)}, [(0, 52, 54)])
    commit(store, 0, [10, 11])
    assert state(store) == ({0: (10, 55, 40)}, [(0, 12, 50), (0, 52, 54)])
    commit(store, 0, [49, 52])
    assert state(store) == ({0: (10, 55, 38)}, [(0, 12, 49), (0, 53, 54)])
    commit(store, 0, [70])
    assert state(store)[1] == [(0, 12, 49), (0, 53, 54), (0, 55, 70)]
    with store.session("test") as connection:
        ledger = RebuiltLedger(connection)
        ledger.cover(1, OffsetRange(0, 60, 80))
        ledger.cover(1, OffsetRange(0, 20, 75))  # it does not become shorter
        ledger.cover(1, OffsetRange(3, 7, 7))
        offsets = np.array([5, 10, 11, 12, 48, 49, 53, 54, 55, 70, 71, 90])
        assert offsets[ledger.absent(1, 0, offsets)].tolist() == [5, 12, 48, 53, 55, 71, 90]
    assert state(store)[0] == {0: (10, 80, 62), 3: (7, 7, 0)}


def test_what_another_run_has_written_is_not_written_again(store: Warehouse) -> None:
    commit(store, 0, [1, 2, 3])
    before = state(store)
    for offsets in ([3], [3, 4], [0, 1], [2, 9]):
        with pytest.raises(OffsetsMoved, match="partition 0"):
            commit(store, 0, offsets)
        assert state(store) == before


def test_days_at_once_in_any_order_add_up(store: Warehouse) -> None:
    chance = random.Random(7)
    there = [at for at in range(100, 1_300) if at % 97]  # compaction took some
    days: list[list[int]] = [[] for _ in range(6)]
    for at in there:
        late = chance.random() < 0.05
        days[chance.randrange(6) if late else (at - 100) // 200].append(at)
    batches = [(p, day[at : at + 60]) for p in (0, 1) for day in days for at in range(0, 300, 60)]
    batches = [(p, offsets) for p, offsets in batches if offsets]
    chance.shuffle(batches)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: commit(store, *batch), batches))
    holes = [at for at in range(100, 1_300) if at % 97 == 0]
    progress, gaps = state(store)
    assert progress == {p: (100, 1_300, len(holes)) for p in (0, 1)}
    assert gaps == [(p, at, at + 1) for p in (0, 1) for at in holes]
