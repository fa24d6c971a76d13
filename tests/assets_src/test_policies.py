"""The life of a policy and of an experiment by Dagster's jobs, on a real Postgres."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from credit_risk_dagster.definitions import defs
from credit_risk_dagster.settings import Settings
from resources.configurable import resources
from resources.postgres.connection import Warehouse
from tests.pipelines.approvals import approved, named, stored_policy


@pytest.fixture
def launch(settings: Settings, instance: dg.DagsterInstance) -> Any:
    """Launches a job of one op, and says how it failed; empty when it did not."""

    def run(job: str, **config: str | int) -> str:
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            resources=resources(lambda: settings),
            run_config={"ops": {"_the_".join(job.rsplit("_", 1)): {"config": config}}},
            raise_on_error=False,
        )
        failed = [event for event in result.all_events if event.is_step_failure]
        return "".join(str(event.step_failure_data.error) for event in failed)

    return run


def test_a_policys_life_by_jobs(settings: Settings, launch: Any, tmp_path: Path) -> None:
    file = tmp_path / "second.yaml"
    file.write_text(named("second").yaml)
    with Warehouse(settings.warehouse).session() as connection:
        first = stored_policy(connection, "first")
        assert launch("activate_policy", policy=str(first), why="the first") == ""
        assert launch("submit_policy", file=str(file), why="fewer losses") == ""
        own = launch("approve_policy", policy="second", why="mine")
        assert "postgres submitted policy 2 and cannot approve it" in own
        approved(connection, "policy", 2)
        wrong = launch("activate_policy", policy="second", why="x", at="soon")
        assert "at: 'soon' is no moment" in wrong
        assert launch("activate_policy", policy="second", why="agreed") == ""
        assert launch("roll_back_policy", why="too many are flagged") == ""
        active = launch("retire_policy", policy="first", why="over")
        assert "policy 1 is active, and one always is" in active
        rows = connection.execute("SELECT subject_id FROM activations ORDER BY effective_from")
        assert [subject for (subject,) in rows] == [1, 2, 1]


def test_an_experiments_life_by_jobs(settings: Settings, launch: Any) -> None:
    with Warehouse(settings.warehouse).session() as connection:
        first = stored_policy(connection, "first")
        assert launch("activate_policy", policy=str(first), why="the first") == ""
        assert launch("submit_experiment", policy="first", why="beside itself") == ""
        assert "give either a policy or a model" in launch("submit_experiment", why="nothing")
        own = launch("approve_experiment", experiment=1, why="mine")
        assert "postgres submitted experiment 1 and cannot approve it" in own
        approved(connection, "experiment", 1)
        for step in ("start", "stop"):
            assert launch(f"{step}_experiment", experiment=1, why="agreed") == ""
        rows = connection.execute("SELECT action FROM approvals WHERE kind = 'experiment'")
        assert [action for (action,) in rows] == ["submit", "approve", "activate", "retire"]
