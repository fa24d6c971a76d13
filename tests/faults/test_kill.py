"""kill -9 of runs, of what forks them, of the code server and of the daemon, while events flow."""

import os
import random
import statistics
import sys
import time
from collections.abc import Container
from datetime import UTC, datetime

import psutil
import pytest

from dashboard.parts import orchestration
from resources.postgres.lanes import connected_runs
from sensors.offsets import loan_applications_offsets
from tests.platform.running import PATIENCE_SECONDS, Platform
from tests.platform.waiting import wait_until

pytestmark = pytest.mark.timeout(1200)

# `KILLS=10 pytest tests/faults/test_kill.py` is the longer proof.
KILLS = int(os.environ.get("KILLS", 2))
TAKEOVER_SECONDS = 15.0


def test_whatever_is_killed_nothing_is_lost_or_doubled(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = random.Random(KILLS)
    before, killed = platform.runs(), dict[str, float]()

    def kill_next(in_a_transaction: bool) -> None:
        run_id = next_run(platform, before | killed)
        time.sleep(moments.uniform(0, 1))
        process = platform.run_process(run_id)
        if in_a_transaction:
            stop_in_a_transaction(platform, run_id, process)
        killed[run_id] = time.time()
        process.kill()

    with platform.streaming(rate=200):
        for number in range(KILLS):
            kill_next(in_a_transaction=number % 2 == 1)

        if sys.platform == "linux":  # elsewhere runs are not forked
            # Without what it was forked from it goes on, and the next one is forked from another.
            run_id = next_run(platform, before | killed)
            fork_server = platform.run_process(run_id).parent()
            assert fork_server
            assert "multiprocessing.forkserver" in " ".join(fork_server.cmdline())
            fork_server.kill()
            platform.wait_for_commits(platform.committed() + 100)
            kill_next(in_a_transaction=False)
            assert run_id in killed

        # Without its code server the run goes on, and `dagster dev` starts another server.
        run_id = next_run(platform, before | killed)
        platform.service("code-server").kill()
        platform.wait_for_commits(platform.committed() + 100)
        kill_next(in_a_transaction=False)
        assert run_id in killed

        # Without its daemon `dagster dev` ends, until a supervisor starts it; the run goes on.
        run_id = next_run(platform, before | killed)
        dagster_dev = psutil.Process(platform.dagster.pid)
        platform.service("dagster._daemon").kill()
        dagster_dev.wait(PATIENCE_SECONDS)
        platform.wait_for_commits(platform.committed() + 100)
        assert platform.working_run() == run_id
        started_again = datetime.now(UTC)
        platform.start_dagster()
        next_run(platform, before | killed | {run_id: 0.0})
    platform.wait_for_everything()

    # What the dashboard tells of Dagster is of the one that runs now.
    monkeypatch.setenv("CREDIT_RISK_DAGSTER_URL", platform.services.dagster_url)
    orchestration.state.clear()
    told = orchestration.state("UTC").instigators.set_index("name")["tick"]
    assert (told[[loan_applications_offsets.name]] > started_again).all()

    # From each kill to the first batch of the run after it.
    times = platform.run_times()
    assert killed.keys() <= times.keys()
    starts = [run.first_commit for run in times.values()]
    takeovers = [min(start for start in starts if start > kill) - kill for kill in killed.values()]
    print(
        f"taken over after {', '.join(f'{seconds:.1f}' for seconds in takeovers)} s;"
        f" median {statistics.median(takeovers):.1f} s, slowness {platform.slowness():.1f}"
    )
    # The code server that follows a killed one has to start, too.
    assert max(takeovers[:KILLS]) < TAKEOVER_SECONDS * platform.slowness()


def next_run(platform: Platform, before: Container[str]) -> str:
    """The run that commits batches and is none of those."""

    def working_run() -> str | None:
        run_id = platform.working_run()
        return None if run_id in before else run_id

    run_id = wait_until(working_run, PATIENCE_SECONDS, "the next run commits", every=0.02)
    assert run_id is not None
    return run_id


def stop_in_a_transaction(platform: Platform, run_id: str, process: psutil.Process) -> None:
    """Stop the run's process at a moment when its transaction is open."""

    def stopped_inside() -> bool:
        process.suspend()
        with platform.pipeline.warehouse.session() as connection:
            server_process = connected_runs(connection, [run_id])[run_id]
        open_transactions = platform.pipeline.query(
            "SELECT FROM pg_stat_activity WHERE pid = %(pid)s"
            " AND state IN ('active', 'idle in transaction') AND backend_xid IS NOT NULL",
            pid=server_process,
        )
        if not open_transactions:
            process.resume()
        return bool(open_transactions)

    wait_until(stopped_inside, PATIENCE_SECONDS, "a transaction of the run", every=0.005)
