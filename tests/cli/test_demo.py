"""`credit-risk demo` and `up`: the embedded servers, as processes of their own."""

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import psycopg
import pytest
from pydantic import SecretStr

from credit_risk_dagster.settings import (
    KafkaSettings,
    WarehouseSettings,
)
from infra.embedded.servers import Postgres
from infra.embedded.stack import Services, Stack
from resources.kafka.broker import Broker as Topic
from resources.kafka.errors import TopicMissing
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.reconciliation import reconcile
from tests.platform.commands import CREDIT_RISK, Run, error, one_line
from tests.platform.processes import processes_of
from tests.platform.waiting import wait_until


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory with what shells and terminals take for something else.

    Not in tmp_path: every start of pytest takes that away from other users, and root's Postgres
    runs as one.
    """
    with TemporaryDirectory(prefix="it's [a] ") as folder:
        yield Path(folder) / "state"


class Program:
    """`credit-risk` as a process, with a pipe or a terminal for its output."""

    def __init__(self, *arguments: object, cwd: Path, terminal: bool = False) -> None:
        self._written = b""
        self._ours, theirs = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            [*CREDIT_RISK, *map(str, arguments)],
            cwd=cwd,
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0) if terminal else None,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the end of a terminal
            while data := os.read(self._ours, 65_536):
                self._written += data

    @property
    def output(self) -> str:
        """What it wrote until now, to stdout and stderr."""
        return self._written.decode(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type on the terminal."""
        os.write(self._ours, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Wait until the output matches."""

        def found() -> bool:
            ended = self.process.poll() is not None
            matches = re.search(pattern, self.output) is not None
            assert matches or not ended, self.output
            return matches

        wait_until(found, 120, f"output that matches {pattern!r}")

    def end(self, *numbers: signal.Signals) -> int:
        """Send signals, if any, and wait for the end; the exit code."""
        for number in numbers:
            self.process.send_signal(number)
        wait_until(lambda: self.process.poll() is not None, 120, "the end")
        self._reader.join()
        os.close(self._ours)
        return self.process.returncode


@contextmanager
def program(state: Path, *arguments: object, terminal: bool = False) -> Iterator[Program]:
    """`credit-risk ... --state-dir` of the state; nothing of it is left, even when a test fails."""
    started = Program(*arguments, "--state-dir", state, cwd=state.parent, terminal=terminal)
    try:
        yield started
    finally:
        try:
            if started.process.poll() is None:
                started.end(signal.SIGTERM)
        finally:
            left = processes_of(state)
            for process in left:
                process.kill()
    assert left == []
    assert "Traceback" not in started.output


@pytest.mark.usefixtures("own_servers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # the demo gets SIGTERM
def test_up_serves_one_at_a_time_until_a_signal(number: signal.Signals, state: Path) -> None:
    with program(state, "up") as up:
        up.wait_for("Ctrl-C here stops")
        exports = "\n".join(line for line in up.output.splitlines() if line.startswith("export "))
        # As a shell understands them.
        shell = subprocess.run(
            ["sh", "-c", f"{exports}\nenv"], capture_output=True, text=True, check=True, env={}
        )
        variables = dict(line.split("=", 1) for line in shell.stdout.splitlines() if "=" in line)
        assert Path(variables["DAGSTER_HOME"]).resolve() == state / "dagster_home"
        with psycopg.connect(variables["DATABASE_URL"]) as connection:
            assert connection.info.dbname == "credit_risk"
        settings = KafkaSettings(bootstrap_servers=variables["KAFKA_BOOTSTRAP_SERVERS"])
        with pytest.raises(TopicMissing, match="topic loan_applications does not exist"):
            Topic(settings).inspect()
        second = Program("up", "--state-dir", state, cwd=state.parent)
        assert second.end() == 1
        assert second.output == (
            f"error: the embedded stack in {state} is in use by process {up.process.pid}: stop "
            "that one first\n"
        )
        assert up.end(number) == 0
    assert up.output.endswith("\nStopping\n")


def committed_by(state: Path) -> tuple[int, int, set[tuple[int, int]]]:
    """Offsets committed, and rows stored, of the one source that the stopped demo left; and which
    of two lanes had even partitions, and odd ones."""
    with Postgres(state / "postgres") as postgres:
        settings = WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri("credit_risk")))
        with Warehouse(settings).session() as connection:
            (source,) = fetch_all(connection, "SELECT source_id FROM sources")
            partitions = reconcile(connection, source["source_id"])
            lanes = fetch_all(
                connection, "SELECT DISTINCT lane, unnest(partitions) % 2 AS odd FROM batches"
            )
    return (
        sum(p["next_offset"] - p["first_offset"] for p in partitions),
        sum(p["scored"] + p["rejected"] + p["gaps"] for p in partitions),
        {(row["lane"], row["odd"]) for row in lanes},
    )


@pytest.mark.usefixtures("alone")
@pytest.mark.timeout(1200)
def test_demo_sums_up_and_streams_on_until_it_is_stopped(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_LANES", "2")
    summary_file = tmp_path / "summary.json"
    arguments = ("demo", "--empty", "--events", 300, "--rate", 100, "--json", summary_file)
    with program(state, *arguments, terminal=True) as demo:
        demo.wait_for("Streaming on")
        demo.wait_for(r"sent (3[1-9]\d|[4-9]\d\d|\d+,\d{3}) ")  # a busy machine shows few of them
        # In a second terminal every command of README works.
        status = subprocess.run(
            ["bash", "-c", 'source "$0" && credit-risk status --json', state / "env"],
            capture_output=True,
            check=True,
            cwd=tmp_path,
        )
        assert sum(p["scored"] for p in json.loads(status.stdout)["partitions"]) > 0
        assert demo.end(signal.SIGTERM) == 0, demo.output
    assert demo.output.endswith("\nStopping\n")
    assert re.search(r"\nsent [0-9,]+   scored [0-9,]+   rejected \d+   waiting \d+\n", demo.output)
    assert not (state / "env").exists()  # its servers are gone
    summary = json.loads(summary_file.read_bytes())
    assert (summary["sent"], summary["gaps"], summary["reconciled"]) == (300, 0, True)
    assert summary["scored"] + summary["rejected"] == 300
    assert sum(summary["tiers"].values()) == summary["scored"]
    assert sum(summary["reject_reasons"].values()) == summary["rejected"]
    assert sum(p["next_offset"] for p in summary["partitions"]) == 300
    assert 0 < summary["events_per_second"] <= 105
    assert 0 < summary["latency_p50_ms"] <= summary["latency_p95_ms"]
    for text in ("Dagster    http", "Dashboard  http", "every offset accounted for", "Watchlist"):
        assert text in demo.output
    assert str(state) in demo.output

    # Again on the same state, by somebody who is impatient.
    with program(state, "demo", terminal=True) as demo:
        demo.wait_for("Starting Dagster")
        demo.type("\x03\x03")  # Ctrl-C
        assert demo.end(signal.SIGTERM) != 0
    committed, stored, lanes = committed_by(state)
    assert committed == stored >= 300
    assert lanes == {(0, 0), (1, 1)}


@pytest.mark.usefixtures("own_servers")
def test_an_end_that_is_asked_for_is_no_failure_and_says_what_was_on_its_way(
    state: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events wait for ever: nothing that scores is started."""

    def interrupt_with_an_event_waiting(stack: Stack, _environment: object = None) -> Services:
        topic = Topic(KafkaSettings(bootstrap_servers=stack.broker.bootstrap_servers))

        def interrupt() -> None:
            wait_until(
                lambda: sum(end for _, end in topic.inspect().offsets.values()), 60, "an event"
            )
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        return Services("", "", "")

    monkeypatch.setattr(Stack, "start_services", interrupt_with_an_event_waiting)
    for on_a_terminal, code in ((True, 0), (False, 130)):  # where the code tells of the summary
        monkeypatch.setattr(sys.stdout, "isatty", lambda at=on_a_terminal: at)
        with patch.dict(os.environ):
            done = run("demo", "--empty", "--events", 40, "--state-dir", state)
        assert (done.code, done.err) == (code, "")
        assert "Ended before the summary of 40 events." in done.out
        assert "sent 1   scored 0   rejected 0   waiting 1\n" in done.out
        assert (
            "One event was still on the way to a decision, which ends with the topic." in done.out
        )


@pytest.mark.parametrize("file", ["none/summary.json", "."])
def test_demo_says_at_once_that_it_cannot_write_the_summary(
    file: str, state: Path, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / file
    assert run("demo", "--json", path, "--state-dir", state) == error(f"cannot write {path}")
    assert not state.exists()


@pytest.mark.parametrize("name", ["none.csv", "other.csv"])
def test_demo_says_at_once_that_a_csv_is_not_there(
    name: str, state: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "other.csv").write_text("a,b\n")
    line = one_line(run("demo", "--csv", tmp_path / name, "--state-dir", state))
    assert line.startswith(f"{tmp_path / name}: ")
    assert not state.exists()
