"""Dagster's instance as infra/dagster.yaml has it: its storage, and where runs' output goes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import psycopg
import pytest

from infra.embedded.servers import Postgres
from resources.dagster_instance import PostgresStorage, RunOutput
from resources.postgres.client_options import CLIENT_OPTIONS
from tests.platform.waiting import wait_until

_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"

# What a run of Dagster does with its output, in a process that can be killed.
_RUN = """
import os, signal, subprocess, sys
import dagster as dg
KEY = ["run", "compute_logs", "key"]
with dg.DagsterInstance.get() as instance, instance.compute_log_manager.capture_logs(KEY):
    print("said on stdout", flush=True)
    os.write(2, b"said on stderr")
    if sys.argv[1:] == ["killed"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1:] == ["outlived"]:
        subprocess.Popen(["sleep", "20"])
print("and said after it")
"""


@pytest.fixture
def instance(servers: dict[str, str]) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as instance:
        yield instance


def backends(url: str) -> set[int]:
    """The Postgres processes of a database's connections, but for that of the question."""
    with psycopg.connect(url) as connection:
        own = connection.info.backend_pid
        return {pid for (pid,) in connection.execute(_BACKENDS, [own])}


def test_statements_share_a_connection(
    instance: dg.DagsterInstance, servers: dict[str, str]
) -> None:
    url = servers["DAGSTER_POSTGRES_URL"]
    instance.get_runs()
    (kept,) = backends(url)
    instance.all_instigator_state()
    instance.fetch_run_status_changes(dg.DagsterEventType.RUN_START, limit=1)
    with dg.DagsterInstance.get() as another:  # as each tick has one
        assert another.get_runs_count() == 0
    assert backends(url) == {kept}


def test_a_connection_that_broke_is_made_again(
    instance: dg.DagsterInstance, servers: dict[str, str]
) -> None:
    url = servers["DAGSTER_POSTGRES_URL"]
    instance.get_runs()
    with psycopg.connect(url) as connection:
        own = connection.info.backend_pid
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({_BACKENDS}) AS others", [own])
    assert instance.get_runs_count() == 0


def test_a_server_that_vanished_is_noticed(instance: dg.DagsterInstance) -> None:
    """Which sends nothing any more: not after the quarter of an hour that TCP would try."""
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        told = connection.connection.driver_connection.info.dsn_parameters
    assert told.items() >= {name: str(value) for name, value in CLIENT_OPTIONS.items()}.items()


@pytest.mark.parametrize("creates", [True, False])
def test_an_empty_database_gets_its_tables(postgres: Postgres, creates: bool) -> None:
    name = f"dagster_empty_{creates}".lower()
    postgres.create_database(name)
    PostgresStorage.from_config_value(
        None, {"postgres_url": postgres.uri(name), "should_autocreate_tables": creates}
    )
    with psycopg.connect(postgres.uri(name)) as connection:
        found = connection.execute("SELECT to_regclass('runs'), to_regclass('event_logs')")
        assert found.fetchone() == (("runs", "event_logs") if creates else (None, None))
    postgres.drop_database(name)
    if creates:  # and one that comes after it
        postgres.create_database(name)
        storage = PostgresStorage.from_config_value(None, {"postgres_url": postgres.uri(name)})
        assert storage.run_storage.get_runs_count() == 0
        assert storage.schedule_storage.all_instigator_state() == []
        postgres.drop_database(name)


@pytest.mark.parametrize("killed", [False, True])
def test_output_is_in_files_and_where_it_went_before(
    environment: dict[str, str], killed: bool
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _RUN, *(["killed"] if killed else [])],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == (-signal.SIGKILL if killed else 0), run.stderr
    after = "" if killed else "and said after it\n"
    assert run.stdout == "said on stdout\n" + after
    assert run.stderr == "said on stderr"
    logs = Path(environment["DAGSTER_HOME"], "storage", "run", "compute_logs")
    assert (logs / "key.out").read_text() == "said on stdout\n"
    assert (logs / "key.err").read_text() == "said on stderr"
    assert (logs / "key.complete").exists() is not killed
    # Whoever wrote the files saw the end of what they wrote.
    wait_until(lambda: not _writing(logs), 10, "nothing writes them any more")


def test_a_step_does_not_wait_for_what_it_leaves_behind(environment: dict[str, str]) -> None:
    """As libraries do that keep processes for the next time."""
    with subprocess.Popen(
        [sys.executable, "-c", _RUN, "outlived"], env=environment, start_new_session=True
    ) as run:
        assert run.wait(15) == 0
        os.killpg(run.pid, signal.SIGTERM)  # what was left


def _writing(logs: Path) -> list[list[str]]:
    return [
        command
        for process in psutil.process_iter(["cmdline"])
        if str(logs) in " ".join(command := process.info["cmdline"] or [])
    ]


def test_the_ui_finds_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    kept, key = RunOutput.from_config_value(None, {}), ["run", "compute_logs", "key"]
    with kept.capture_logs(key):
        assert not kept.is_capture_complete(key)
        print("a line")
    assert kept.is_capture_complete(key)
    assert kept.get_log_data(key).stdout == b"a line\n"
