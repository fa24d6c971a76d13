"""The whole path through `dagster dev`: events, sensor, runs, rows, and what Dagster shows."""

import time
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from typing import Any, LiteralString

import dagster as dg
import pytest

from assets_src.scoring import LANE_TAG, RECONCILIATION
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.platform.running import PATIENCE_SECONDS, Platform, RunTimes
from tests.platform.waiting import wait_until

pytestmark = pytest.mark.timeout(1200)

QUIET_SECONDS = 12.0  # two ticks of the sensor would have come


def checks_passed(platform: Platform, runs: Collection[str]) -> list[bool]:
    """The outcome of these runs' reconciliation checks, oldest first."""
    records = platform.instance.event_log_storage.get_asset_check_execution_history(
        check_key=RECONCILIATION.key, limit=1000
    )
    return [
        record.event.dagster_event.asset_check_evaluation_data.passed
        for record in reversed(records)
        if record.run_id in runs and record.event and record.event.dagster_event
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gql")  # Dagster's client uses it so
def test_events_become_rows_and_materializations(platform: Platform) -> None:
    platform.wait_until_idle()
    started, before, committed = time.time(), platform.runs(), platform.committed()
    wait_until(
        lambda: platform.why_not() == "lane 0: no new events",
        PATIENCE_SECONDS,
        "a tick says that there is nothing to do",
    )
    platform.send(3_000)
    platform.wait_for_commits(committed + 3_000)
    platform.check_exactly_once()

    # A second burst, after the runs of the first one have ended.
    platform.wait_until_idle()
    of_first_burst = platform.runs(before)
    platform.send(500)
    platform.wait_for_commits(committed + 3_500)
    platform.wait_until_idle()
    platform.check_exactly_once()
    runs = platform.runs(before)
    assert len(runs) > len(of_first_burst) > 0

    # Every batch is of a run, which says why it was requested.
    batches = platform.query("SELECT DISTINCT run_id, lane FROM batches")
    worked = {batch["run_id"] for batch in batches} - before.keys()
    assert worked <= runs.keys()
    assert {run.tags[LANE_TAG] for run in runs.values()} == {"0"}
    assert {run.status for run in runs.values()} == {dg.DagsterRunStatus.SUCCESS}
    assert all("new event" in run.tags["credit_risk/why"] for run in runs.values())
    ticks = platform.ticks()
    # The one that was under way when the test began may have seen its events, too.
    requested = {run_id for tick in ticks for run_id in tick["runIds"]}
    assert requested - before.keys() == runs.keys()
    of_the_test = [tick for tick in ticks if tick["timestamp"] >= started]
    assert {tick["status"] for tick in of_the_test} <= {"SUCCESS", "SKIPPED", "STARTED"}

    check_metadata(platform, runs)
    scored = platform.materializations("scored_applications", runs)
    assert checks_passed(platform, runs) == [True] * len(scored)


def check_metadata(platform: Platform, runs: Collection[str]) -> None:
    """The materializations of the runs together tell exactly what these put into the tables."""
    scored = platform.materializations("scored_applications", runs)
    rejected = platform.materializations("rejected_events", runs)

    def rows(columns: LiteralString, table: LiteralString, rest: LiteralString = "") -> Any:
        return platform.query(
            f"SELECT {columns} FROM {table} JOIN batches USING (batch_id)"
            f" WHERE run_id = ANY(%(runs)s) {rest}",
            runs=list(runs),
        )

    stored = {
        table: [
            (row["partition"], row["at"])
            for row in rows('t.partition, t."offset" AS at', f"{table} t")
        ]
        for table in ("scored_applications", "rejected_events")
    }
    assert sum(m["scored"] for m in scored) == len(stored["scored_applications"])
    assert sum(m["rejected"] for m in rejected) == len(stored["rejected_events"]) > 0

    offsets = [
        (row["partition"], offset)
        for metadata in scored
        for row in metadata["offsets"]
        for offset in range(row["first offset"], row["next offset"])
    ]
    assert sorted(offsets) == sorted(stored["scored_applications"] + stored["rejected_events"])

    tiers: Counter[str] = Counter()
    for metadata in scored:
        tiers.update({k.removeprefix("tier: "): v for k, v in metadata.items() if "tier: " in k})
        assert metadata["policy"] == load_policy(DEFAULT_POLICY).version
        assert metadata["throughput (events/s)"] > 0
        p50, p95, p99 = (metadata[f"latency p{q} (ms)"] for q in (50, 95, 99))
        assert 0 < p50 <= p95 <= p99
    counted = rows("risk_tier, count(*)::int AS n", "scored_applications", "GROUP BY risk_tier")
    assert +tiers == {row["risk_tier"]: row["n"] for row in counted}

    reasons: Counter[str] = Counter()
    for metadata in rejected:
        reasons.update({r["reason"]: r["events"] for r in metadata["reject reasons"]})
    counted = rows("t.reason, count(*)::int AS n", "rejected_events t", "GROUP BY t.reason")
    assert reasons == {row["reason"]: row["n"] for row in counted}


def test_sessions_hand_over_without_a_gap(live: Platform) -> None:
    def times() -> list[RunTimes]:
        return [run for run_id, run in live.run_times().items() if run_id not in live.before_life]

    wait_until(lambda: len(times()) >= 4, PATIENCE_SECONDS, "three handovers", every=0.5)
    live.rest()
    live.wait_for_everything()
    first, *successors = live.runs(live.before_life).values()
    assert "new event" in first.tags["credit_risk/why"]
    pauses = [after.first_commit - before.last_commit for before, after in pairwise(times())]
    print(
        f"pauses at handovers: {', '.join(f'{pause:.2f}' for pause in pauses)} s;"
        f" slowness {live.slowness():.1f}"
    )
    # Requesting and starting a run takes five seconds at least; a successor that waits, none.
    assert max(pauses) < 2 * live.slowness()
    # One that takes longer to start than it is said to take comes after a pause.
    known = float(live.environment["CREDIT_RISK_RUN_START_SECONDS"])
    late = [run for run in times() if run.started - run.requested > known]
    others = [
        why
        for run in successors
        if not (why := run.tags["credit_risk/why"]).startswith("successor of run")
    ]
    assert len(others) <= len(late), others
