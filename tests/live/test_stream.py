"""The whole path through `dagster dev`: events, sensor, runs, rows, and what Dagster shows."""

from collections import Counter
from itertools import pairwise

import dagster as dg
import pytest
from dagster_graphql import DagsterGraphQLClient

from assets_src.scoring import LANE_TAG, RECONCILIATION, score_applications
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.settings import DEFAULT_POLICY
from infra.embedded.servers import HOST
from tests.platform.dagster import PATIENCE_SECONDS, Platform
from tests.platform.start import StartPlatform
from tests.platform.waiting import wait_until

pytestmark = pytest.mark.e2e


def checks_passed(platform: Platform) -> list[bool]:
    """The outcome of every reconciliation check, oldest first."""
    records = platform.instance.event_log_storage.get_asset_check_execution_history(
        check_key=RECONCILIATION.key, limit=1000
    )
    return [
        record.event.dagster_event.asset_check_evaluation_data.passed
        for record in reversed(records)
        if record.event and record.event.dagster_event
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gql")  # Dagster's client uses it so
def test_events_become_rows_and_materializations(start_platform: StartPlatform) -> None:
    platform = start_platform(CREDIT_RISK_IDLE_SECONDS=2, CREDIT_RISK_LANES=2)
    wait_until(
        lambda: platform.why_not() == "lane 0: no new events; lane 1: no new events",
        PATIENCE_SECONDS,
        "a tick says that there is nothing to do",
    )
    platform.send(3_000)
    platform.wait_for_commits(3_000)
    platform.check_exactly_once()

    # A second burst, after the runs of the first one have ended.
    platform.wait_until_idle()
    before = {run.run_id for run in platform.runs()}
    platform.send(500)
    platform.wait_for_commits(3_500)
    platform.wait_until_idle()
    platform.check_exactly_once()
    runs = {run.run_id: run for run in platform.runs()}
    assert len(runs) > len(before)

    # Every batch is of a run of its lane, which says why it was requested.
    batches = platform.pipeline.query("SELECT DISTINCT run_id, lane, partitions FROM batches")
    assert {batch["lane"] for batch in batches} == {0, 1}
    for batch in batches:
        assert {partition % 2 for partition in batch["partitions"]} == {batch["lane"]}
        assert runs[batch["run_id"]].tags[LANE_TAG] == str(batch["lane"])
    assert {run.status for run in runs.values()} == {dg.DagsterRunStatus.SUCCESS}
    assert all("new event" in run.tags["credit_risk/why"] for run in runs.values())
    requested = {run_id for tick in platform.ticks() for run_id in tick["runIds"]}
    assert requested == set(runs)
    assert all(tick["status"] in ("SUCCESS", "SKIPPED", "STARTED") for tick in platform.ticks())

    check_metadata(platform)
    assert checks_passed(platform) == [True] * len(platform.materializations("scored_applications"))
    launch_by_hand(platform)


def check_metadata(platform: Platform) -> None:
    """The materializations together tell exactly what is in the tables."""
    scored = platform.materializations("scored_applications")
    rejected = platform.materializations("rejected_events")
    stored = platform.pipeline.stored()
    assert sum(m["dagster/row_count"] for m in scored) == len(stored["scored_applications"])
    assert sum(m["dagster/row_count"] for m in rejected) == len(stored["rejected_events"]) > 0

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
    rows = platform.pipeline.query(
        "SELECT risk_tier, count(*)::int AS n FROM scored_applications GROUP BY risk_tier"
    )
    assert +tiers == {row["risk_tier"]: row["n"] for row in rows}

    reasons: Counter[str] = Counter()
    for metadata in rejected:
        reasons.update({r["reason"]: r["events"] for r in metadata["reject reasons"]})
    rows = platform.pipeline.query(
        "SELECT reason, count(*)::int AS n FROM rejected_events GROUP BY reason"
    )
    assert reasons == {row["reason"]: row["n"] for row in rows}


def launch_by_hand(platform: Platform) -> None:
    """The job, from the Launchpad: with bounds it processes those offsets, without the lane's."""
    state = platform.graphql(
        "query ($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor {"
        " sensorState { id } } } }",
        s=platform.sensor,
    )
    platform.graphql(
        "mutation ($id: String!) { stopSensor(id: $id) { __typename } }",
        id=state["sensorOrError"]["sensorState"]["id"],
    )
    committed = platform.committed()
    platform.send(200)
    client = DagsterGraphQLClient(HOST, port_number=platform.dagster.port)

    def launch(**config: object) -> str:
        run_config = {"ops": {"score_stream": {"config": config}}} if config else {}
        return str(client.submit_job_execution(score_applications.name, run_config=run_config))

    def succeeds(run_id: str) -> bool:
        platform.wait_until_idle()
        run = platform.instance.get_run_by_id(run_id)
        return run is not None and run.status is dg.DagsterRunStatus.SUCCESS

    (partition,) = platform.pipeline.query(
        "SELECT next_offset AS next FROM stream_offsets WHERE partition = 3"
    )
    first = partition["next"]
    assert succeeds(
        launch(bounds=[{"partition": 3, "first_offset": first, "until_offset": first + 10}])
    )
    assert platform.committed() == committed + 10

    lanes = launch(), launch(lane=1)
    assert all(map(succeeds, lanes))
    platform.check_exactly_once()


def test_sessions_hand_over_without_a_gap(start_platform: StartPlatform) -> None:
    platform = start_platform(CREDIT_RISK_SESSION_SECONDS=10)
    most_unfinished = 0

    def four_runs() -> bool:
        nonlocal most_unfinished
        most_unfinished = max(most_unfinished, len(platform.unfinished()))
        return len(platform.run_times()) >= 4

    with platform.streaming(rate=100):
        wait_until(four_runs, 2 * PATIENCE_SECONDS, "three sessions are handed over", every=0.2)
    assert most_unfinished == 2  # the run and its successor
    platform.wait_for_commits(platform.sent)
    platform.check_exactly_once()

    times = list(platform.run_times().values())
    pauses = [after.first_commit - before.last_commit for before, after in pairwise(times)]
    print(
        f"pauses at handovers: {', '.join(f'{pause:.2f}' for pause in pauses)} s;"
        f" slowness {platform.slowness():.1f}"
    )
    # Requesting and starting a run takes five seconds at least; a successor that waits, none.
    assert max(pauses) < 2 * platform.slowness()
    successors = [run.tags["credit_risk/why"] for run in platform.runs()[1:]]
    assert all(why.startswith("successor of run") for why in successors)
