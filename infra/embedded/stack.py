"""The three servers with their state in one directory.

On request Dagster, the dashboard and the API run beside them.
"""

import fcntl
import glob
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import NamedTuple, Self

import psutil

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import PROJECT_ROOT
from infra.embedded.servers import HOST, S3, START_SECONDS, Broker, Postgres, Server, free_port

DEFAULT_STATE = PROJECT_ROOT / ".credit-risk"

# Processes of a stack carry its state directory in this variable, which their children inherit.
# So all of them can be found again, however they were started and whoever their parent is by now.
_MARK = "CREDIT_RISK_STACK"
DASHBOARD_READY = "/_stcore/health"


def dashboard_command(port: int) -> list[str]:
    """The dashboard on a port of loopback; `DASHBOARD_READY` answers when it is ready."""
    return [
        *(sys.executable, "-m", "streamlit", "run", "dashboard/app.py"),
        *("--server.address", HOST, "--server.port", str(port)),
        *("--server.headless", "true", "--server.fileWatcherType", "none"),
        *("--browser.gatherUsageStats", "false"),
    ]


@contextmanager
def _without_patterns(folder: Path) -> Iterator[Path]:
    """The folder, by a name that is no pattern of file names: Dagster takes that of its
    configuration for one, and does without where nothing matches."""
    if glob.escape(str(folder)) == str(folder):
        yield folder
        return
    with TemporaryDirectory(prefix="credit-risk-") as beside:
        link = Path(beside) / folder.name
        link.symlink_to(folder)
        yield link


class StackBusy(PlatformError):
    """Another process runs a stack on the same state directory."""


class Services(NamedTuple):
    """Where to look, in a browser."""

    dagster_url: str
    dashboard_url: str
    api_url: str


class Stack:
    """Postgres, broker and S3, with state and logs in one directory; ends what it started.

    Postgres keeps its data from one time to the next. The broker and S3 start empty.
    """

    def __init__(self, state: Path = DEFAULT_STATE) -> None:
        self.state = state.resolve()
        self.logs = self.state / "logs"
        self.servers: dict[str, Server] = {}
        """Those that were started beside the three, by name."""
        self._mark = {_MARK: str(self.state)}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        """Start the three servers.

        Raises:
            StackBusy: another process runs a stack on this directory.
            ServerFailed: one of them did not start.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        with ExitStack() as started:
            started.enter_context(self._lock())
            self.end_processes()
            started.callback(self.end_processes)
            shutil.rmtree(self.logs, ignore_errors=True)
            self.logs.mkdir()

            self.postgres = Postgres(self.state / "postgres")
            started.callback(self.postgres.stop)  # also when the start is interrupted
            self.postgres.start()
            (self.logs / "postgres.log").symlink_to(self.postgres.log)
            for database in ("credit_risk", "dagster"):
                self.postgres.create_database(database)
            self.broker = started.enter_context(
                Broker(free_port(9092), environment=self._mark, log=self.logs / "broker.log")
            )
            self.s3 = started.enter_context(
                S3(free_port(9000), environment=self._mark, log=self.logs / "s3.log")
            )
            dagster_home = self.state / "dagster_home"
            dagster_home.mkdir(exist_ok=True)
            shutil.copy(PROJECT_ROOT / "infra" / "dagster.yaml", dagster_home)
            self._dagster_home = started.enter_context(_without_patterns(dagster_home))
            started.callback(self.environment_file.unlink, missing_ok=True)  # its servers are gone
            self._write_environment()
            self._exit = started.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit.__exit__(exc_type, exc, traceback)

    @property
    def environment_file(self) -> Path:
        """What a shell reads to be a client of this stack: `source .credit-risk/env`."""
        return self.state / "env"

    def _write_environment(self, more: Mapping[str, str] | None = None) -> None:
        lines = [
            f"export {name}={quote(value)}"
            for name, value in {**self.environment(), **(more or {})}.items()
        ]
        lines.append(f'export PATH={quote(str(Path(sys.executable).parent))}:"$PATH"')
        self.environment_file.touch(0o600)
        self.environment_file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """The environment variables of a client of this stack.

        They include those that a `.env` file for other servers might set otherwise.
        """
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
            "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
            "KAFKA_REPLICATION_FACTOR": "1",
            "KAFKA_TOPIC": "loan_applications",
            "DATABASE_URL": self.postgres.uri("credit_risk"),
            "DASHBOARD_DATABASE_URL": self.postgres.uri("credit_risk", "credit_risk_reader"),
            **self.s3.variables(),
            "DAGSTER_POSTGRES_URL": self.postgres.uri("dagster"),
            "DAGSTER_HOME": str(self._dagster_home),
        }

    def serve(
        self,
        name: str,
        command: list[str],
        port: int,
        *,
        ready_path: str | None = None,
        environment: Mapping[str, str],
        directory: Path = PROJECT_ROOT,
    ) -> Server:
        """Start a process beside the servers, and wait until it answers; it ends with the stack.

        Its output goes to a log of its name; for the rest see `Server`.
        """
        server = Server(
            name,
            command,
            port,
            ready_path=ready_path,
            environment={**environment, **self._mark},
            log=self.logs / f"{name}.log",
            directory=directory,
        )
        self._exit.callback(server.stop)
        server.start()
        self.servers[name] = server
        return server

    def start_services(self, environment: Mapping[str, str] | None = None) -> Services:
        """Start Dagster (webserver and daemon), the dashboard and the API, and wait until they
        answer.

        Args:
            environment: variables for them, beside and before those of `environment()`.
        """
        variables = {**self.environment(), **(environment or {})}
        # Chosen first: the dashboard starts before Dagster, and links to it.
        ports = {"dagster": free_port(3000), "dashboard": free_port(8501), "api": free_port(8000)}
        urls = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
        # Only the reader's access, and not that of the others.
        readers = {
            "DATABASE_URL": variables["DASHBOARD_DATABASE_URL"],
            "CREDIT_RISK_DAGSTER_URL": urls["dagster"],
        }
        self._start_dashboard(ports["dashboard"], variables | readers)
        self.start_dagster(ports["dagster"], variables)
        self._start_api(ports["api"], variables)
        self._write_environment({"CREDIT_RISK_DAGSTER_URL": urls["dagster"]})
        return Services(urls["dagster"], urls["dashboard"], urls["api"])

    def start_dagster(self, port: int, variables: Mapping[str, str]) -> Server:
        """Start Dagster's webserver and daemon, for the first time or after they ended."""
        command = [sys.executable, "-m", "dagster", "dev", "-h", HOST, "-p", str(port)]
        return self.serve(
            "dagster",
            [*command, "--log-format", "json"],
            port,
            ready_path="/server_info",
            # `dg dev` needs a project that is laid out as it wants.
            environment={**variables, "PYTHONWARNINGS": "ignore:Function `dev_command`"},
        )

    def _start_dashboard(self, port: int, variables: Mapping[str, str]) -> None:
        self.serve(
            *("dashboard", dashboard_command(port), port),
            ready_path=DASHBOARD_READY,
            environment=variables,
        )

    def _start_api(self, port: int, variables: Mapping[str, str]) -> None:
        command = [
            *(sys.executable, "-m", "credit_risk_dagster.cli.main"),
            *("api", "--host", HOST, "--port", str(port)),
        ]
        self.serve("api", command, port, ready_path="/health", environment=variables)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with open(self.state / "lock", "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise StackBusy(
                    f"the embedded stack in {self.state} is in use by process {file.read()}: "
                    "stop that one first"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def end_processes(self) -> None:
        """Kill every process of this directory's stack but Postgres; it is ours, for we hold the
        lock.

        At the start, they are of an owner that was killed; at the end, those that got away.
        """
        leftovers = [
            process
            for process in psutil.process_iter(["environ"])
            if (process.info["environ"] or {}).get(_MARK) == str(self.state)
            and process.pid != os.getpid()
        ]
        for process in leftovers:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(leftovers, timeout=START_SECONDS)
