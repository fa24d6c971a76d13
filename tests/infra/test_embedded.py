"""The stack without Docker starts, tells where it is, and leaves nothing behind."""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import boto3
import psutil
import psycopg
import pytest
from dagster import DagsterInstance
from dagster._core.run_coordinator import DefaultRunCoordinator
from kafka import KafkaAdminClient

from credit_risk_dagster.settings import (
    PROJECT_ROOT,
    KafkaSettings,
    LakeSettings,
    WarehouseSettings,
)
from infra.embedded.servers import HOST, S3, Broker, Postgres, Server, ServerFailed, free_port
from infra.embedded.stack import Stack, StackBusy
from tests.conftest import create_topic
from tests.platform.processes import processes_of

pytestmark = pytest.mark.usefixtures("own_servers")


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory with a space in its name, and with what is a pattern of other names, as the
    project's own may have."""
    with TemporaryDirectory(prefix="[credit] risk ") as folder:
        yield Path(folder) / "state"


@pytest.fixture
def listener() -> Iterator[int]:
    """A port on which somebody listens already."""
    with socket.create_server((HOST, free_port())) as server:
        yield server.getsockname()[1]


def command_lines(processes: list[psutil.Process]) -> str:
    return "\n".join(" ".join(process.info["cmdline"]) for process in processes)


def cluster_id(broker: Broker) -> str:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        return str(admin.describe_cluster()["cluster_id"])
    finally:
        admin.close()


def topics(broker: Broker) -> list[str]:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        return list(admin.list_topics())
    finally:
        admin.close()


def test_a_free_port_is_taken_as_it_is() -> None:
    port = free_port()
    assert free_port(port) == port


def test_instead_of_a_taken_port_the_next_free_one_is_used(listener: int) -> None:
    assert listener < free_port(listener) < listener + 100


def test_the_stack_serves_what_its_environment_says(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stack(state) as stack:
        for name, value in stack.environment().items():
            monkeypatch.setenv(name, value)

        create_topic(KafkaSettings())
        assert topics(stack.broker) == ["loan_applications"]

        with psycopg.connect(WarehouseSettings().database_url.get_secret_value()) as connection:
            assert connection.info.dbname == "credit_risk"
            durable = connection.execute(
                "SELECT name, setting FROM pg_settings"
                " WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')"
            ).fetchall()
            assert {setting for _, setting in durable} == {"on"}

        s3 = boto3.client("s3")
        s3.put_object(Bucket=LakeSettings().bucket, Key="key", Body=b"value")
        assert s3.get_object(Bucket=LakeSettings().bucket, Key="key")["Body"].read() == b"value"

        with DagsterInstance.get() as instance:
            assert instance.get_runs_count() == 0
            assert isinstance(instance.run_coordinator, DefaultRunCoordinator)
            assert instance.telemetry_enabled is False

        assert sorted(log.name for log in stack.logs.iterdir()) == [
            "broker.log",
            "postgres.log",
            "s3.log",
        ]
        assert "ready to accept connections" in (stack.logs / "postgres.log").read_text()
    assert processes_of(state) == []


def test_dotenv_does_not_send_dagster_to_other_servers(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://production/credit_risk\n")
    monkeypatch.chdir(tmp_path)
    with Stack(state) as stack:
        for name, value in stack.environment().items():
            monkeypatch.setenv(name, value)
        with DagsterInstance.get() as instance:
            instance.inject_env_vars("credit_risk")
        assert os.environ["DATABASE_URL"] == stack.environment()["DATABASE_URL"]


def test_a_second_stack_on_the_same_directory_is_refused(state: Path) -> None:
    with Stack(state) as first:
        with pytest.raises(StackBusy) as refused, Stack(state):
            pass
        assert str(refused.value) == (
            f"the embedded stack in {state} is in use by process {os.getpid()}: stop that one first"
        )
        assert cluster_id(first.broker) == first.broker.cluster_id  # the first one goes on


def test_data_stays_and_the_broker_is_a_new_cluster_next_time(state: Path) -> None:
    with Stack(state) as stack:
        clusters = {stack.broker.cluster_id}
        with psycopg.connect(stack.environment()["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1")
    with Stack(state) as stack:
        clusters.add(stack.broker.cluster_id)
        with psycopg.connect(stack.environment()["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT * FROM kept").fetchall() == [(1,)]
    assert len(clusters) == 2
    assert processes_of(state) == []


def test_nothing_is_left_when_the_start_fails(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: S3) -> None:
        raise ServerFailed("no S3 today")

    monkeypatch.setattr(S3, "start", fail)
    with pytest.raises(ServerFailed, match="no S3 today"), Stack(state):
        pass
    assert processes_of(state) == []


def test_a_chosen_port_is_not_chosen_again_before_its_server_listens() -> None:
    first = free_port(23_000)
    program = "from infra.embedded.servers import free_port; print(free_port(23_000))"
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(other.stdout) > first
    assert free_port(first) > first


def test_after_a_killed_owner_the_next_start_is_clean(state: Path) -> None:
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import json, sys; from pathlib import Path; from infra.embedded.stack import Stack\n"
            "with Stack(Path(sys.argv[1])) as stack:\n"
            "    print(json.dumps(stack.environment()), flush=True)\n"
            "    sys.stdin.read()",
            str(state),
        ],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        before = json.loads(owner.stdout.readline())
        with psycopg.connect(before["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1")
        with pytest.raises(StackBusy, match=f"process {owner.pid}"), Stack(state):
            pass
        owner.kill()
    left = processes_of(state)
    for server in ("tansu", "embedded.s3", "postgres"):
        assert server in command_lines(left)

    with Stack(state) as stack:
        assert cluster_id(stack.broker) == stack.broker.cluster_id
        assert not set(left) & set(processes_of(state))
        with psycopg.connect(stack.environment()["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT * FROM kept").fetchall() == [(1,)]
    assert processes_of(state) == []


def test_a_broker_can_lose_its_topics_or_become_another_cluster() -> None:
    with Broker() as broker:
        first = broker.cluster_id
        create_topic(KafkaSettings(bootstrap_servers=broker.bootstrap_servers, topic="one"))
        assert topics(broker) == ["one"]

        broker.stop()
        broker.start()
        assert (cluster_id(broker), topics(broker)) == (first, [])

        broker.kill()
        assert broker.pid is None
        broker.start(cluster_id="another")
        assert cluster_id(broker) == broker.cluster_id == "another"


def test_two_brokers_are_two_clusters(broker: Broker) -> None:
    with Broker() as other:
        assert cluster_id(other) != cluster_id(broker)


def test_postgres_recovers_from_a_crash_with_its_data() -> None:
    with TemporaryDirectory() as folder, Postgres(Path(folder)) as postgres:
        postgres.create_database("one")
        postgres.create_database("one")  # is there already
        with psycopg.connect(postgres.uri("one")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1")
        postgres.restart()
        assert "was not properly shut down" in postgres.log.read_text()
        with psycopg.connect(postgres.uri("one")) as connection:
            assert connection.execute("SELECT * FROM kept").fetchall() == [(1,)]
        postgres.drop_database("one")


def test_postgres_starts_where_lang_is_not_installed_and_the_path_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "xx_YY.UTF-8")
    monkeypatch.setenv("LC_ALL", "xx_YY.UTF-8")
    # Longer than the path of a Unix socket can be.
    with Postgres(tmp_path / ("long" * 25) / "data") as postgres:
        postgres.create_database("one")
        with psycopg.connect(postgres.uri("one")) as connection:
            assert connection.info.encoding == "utf-8"


def test_a_pid_file_from_before_a_reboot_is_no_obstacle(tmp_path: Path) -> None:
    with Postgres(tmp_path / "data") as postgres:
        content = (postgres.data_dir / "postmaster.pid").read_text()
    # The process id now is another program's: here, the test's own.
    (postgres.data_dir / "postmaster.pid").write_text(
        "\n".join([str(os.getpid()), *content.splitlines()[1:]]) + "\n"
    )
    with postgres:
        postgres.create_database("one")


def test_hundreds_of_connections_at_once_keep_nobody_waiting() -> None:
    with S3() as server, ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(300)]
        started = time.monotonic()
        for connection in opened:
            connection.setblocking(False)
            connection.connect_ex((HOST, server.port))
        with selectors.DefaultSelector() as selector:
            for connection in opened:
                selector.register(connection, selectors.EVENT_WRITE)
            while selector.get_map():
                for key, _ in selector.select(5):
                    selector.unregister(key.fileobj)
        # The kernel waits a second before it sends again what was dropped.
        assert time.monotonic() - started < 0.9

        with urlopen(server.endpoint_url, timeout=5) as answer:  # and none of them says anything
            assert answer.status == 200


# Starts a child in a session of its own that ignores SIGTERM, and serves HTTP once that is so.
PARENT = """
import subprocess, sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
child = [sys.executable, "-c", sys.argv[2]]
subprocess.Popen(child, start_new_session=True, stdout=subprocess.PIPE).stdout.readline()
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""
CHILD = """
import signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
threading.Event().wait()
"""


def test_children_that_ignore_the_signal_end_with_their_server() -> None:
    port = free_port()
    command = [sys.executable, "-c", PARENT, str(port), CHILD]
    with Server("A parent", command, port, ready_path="/") as server:
        parent = psutil.Process(server.pid)
        processes = [parent, *parent.children()]
        assert len(processes) == 2
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


INTERRUPTED_WHILE_IT_FORKS = """
import os, signal
from infra.embedded.servers import Server

signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
server = Server("A server", ["sleep", "60"], 0)
try:
    server.start()
except KeyboardInterrupt:
    server.stop()
    print("interrupted")
"""


def test_an_interrupt_while_a_server_is_started_is_not_lost() -> None:
    command = [sys.executable, "-c", INTERRUPTED_WHILE_IT_FORKS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, timeout=50)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    command = [sys.executable, "-c", "raise SystemExit('no')"]
    with pytest.raises(ServerFailed, match=f"A server did not start on port .*{log}"):
        Server("A server", command, free_port(), log=log).start()
    assert log.read_text() == "no\n"


def test_a_taken_port_is_reported(listener: int) -> None:
    with pytest.raises(ServerFailed, match=f"did not start on port {listener}"):
        Broker(listener).start()
