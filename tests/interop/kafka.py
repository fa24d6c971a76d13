"""Apache Kafka in KRaft mode, from Maven Central's jars: what other brokers are measured by."""

import fcntl
import os
import shutil
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from infra.embedded.servers import HOST, Server, ServerFailed, free_port
from tests.interop.certificates import Certificates

VERSION = os.environ.get("INTEROP_KAFKA_VERSION", "4.1.0")
USERS = {"alice": "alice-secret", "bob": "bob-secret"}
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "credit-risk"
_POM = Path(__file__).with_name("pom.xml")
_LOG4J = """
Configuration:
  Appenders:
    Console: {name: STDOUT, PatternLayout: {pattern: "[%d] %p %m (%c)%n"}}
  Loggers:
    Root: {level: INFO, AppenderRef: [{ref: STDOUT}]}
"""


class NoKafka(Exception):
    """Java or the jars cannot be had here; the message says which."""


@cache
def jars() -> Path:
    """The folder with the broker's jars, fetched when they are not there yet. Raises NoKafka."""
    folder = _CACHE / f"kafka-{VERSION}"
    if shutil.which("java") is None:
        raise NoKafka("no Java: Debian has it in default-jre-headless")
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:  # another process waits for what the first fetches
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    if shutil.which("mvn") is None:
        raise NoKafka(f"no jars in {folder}, and no Maven (Debian's maven) to fetch them")
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}")  # whole or not at all
    fetched = subprocess.run(
        [
            *("mvn", "-q", "-B", "-f", str(_POM), f"-Dkafka.version={VERSION}"),
            "dependency:copy-dependencies",
            *(f"-DoutputDirectory={fresh}", "-DincludeScope=runtime"),
        ],
        capture_output=True,
        text=True,
    )
    if fetched.returncode:
        raise NoKafka(f"Maven cannot fetch Kafka {VERSION}: {fetched.stdout.strip()[-500:]}")
    fresh.rename(folder)


def _java(folder: Path, memory: str, *program: str) -> list[str]:
    return [
        *("java", f"-Xmx{memory}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        *(f"-Dlog4j2.configurationFile={folder / 'log4j2.yaml'}", "-cp", f"{jars()}/*", *program),
    ]


@dataclass
class Node:
    """A broker that is its own controller's voter, and the ports that it listens on."""

    node_id: int = 1
    plaintext: int = field(default_factory=free_port)
    controller: int = field(default_factory=free_port)
    sasl_plaintext: int = field(default_factory=free_port)
    ssl: int = field(default_factory=free_port)
    sasl_ssl: int = field(default_factory=free_port)
    misnamed: int = field(default_factory=free_port)


class Kafka(Server):
    """One broker; `cluster` makes several that know each other.

    Its listeners: `bootstrap_servers` for everybody; `address("SASL_SSL")` and the like ask who one
    is; `address("MISNAMED")` advertises a name that nobody resolves.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[Node] = (),
        node: Node | None = None,
        cluster_id: str | None = None,
        **options: object,
    ) -> None:
        self._node = node or Node()
        self._nodes = nodes or [self._node]
        self.folder = folder / f"node-{self._node.node_id}"
        self.folder.mkdir(parents=True)
        self.certificates = Certificates(self.folder)
        self.cluster_id = cluster_id or urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._properties = self.folder / "server.properties"
        lines = {**self._settings(), **{k.replace("_", "."): v for k, v in options.items()}}
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        (self.folder / "log4j2.yaml").write_text(_LOG4J)
        super().__init__(
            f"Kafka {VERSION}",
            _java(self.folder, "512m", "kafka.Kafka", str(self._properties)),
            self._node.plaintext,
            log=self.folder / "log",
        )
        self.bootstrap_servers = ",".join(f"{HOST}:{n.plaintext}" for n in self._nodes)

    @property
    def node_id(self) -> int:
        return self._node.node_id

    def address(self, listener: str) -> str:
        return f"{HOST}:{getattr(self._node, listener.lower())}"

    def start(self) -> None:
        """Start the broker; the first time with an empty log, later with the one it had."""
        if not (self.folder / "data").exists():
            scram = [
                ("--add-scram", f"{mechanism}=[name={user},password={password},iterations=4096]")
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
                for user, password in USERS.items()
            ]
            # Of 64 ids one begins with a hyphen, which is an option where a value is expected.
            program = ["kafka.tools.StorageTool", "format", f"--cluster-id={self.cluster_id}"]
            program += ["-c", str(self._properties), *(word for pair in scram for word in pair)]
            formatted = subprocess.run(
                _java(self.folder, "128m", *program), capture_output=True, text=True
            )
            if formatted.returncode:
                raise ServerFailed(f"{self.name}: {formatted.stdout} {formatted.stderr}")
        super().start()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The broker hangs: it keeps its connections, and does nothing (SIGSTOP)."""
        assert self.pid
        os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGCONT)

    def _settings(self) -> dict[str, object]:
        node = self._node
        copies = min(3, len(self._nodes))
        listeners = {
            name: f"{HOST}:{getattr(node, name.lower())}"
            for name in ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL", "MISNAMED")
        }
        advertised = listeners | {"MISNAMED": "kafka.internal.invalid:9092"}
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required " + "".join(
            f'user_{user}="{password}" ' for user, password in USERS.items()
        )
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        sasl = {
            f"listener.name.{name}.{mechanism}.sasl.jaas.config": login
            for name in ("sasl_plaintext", "sasl_ssl")
            for mechanism, login in {
                "plain": f"{plain.strip()};",
                "scram-sha-256": scram,
                "scram-sha-512": scram,
            }.items()
        }
        return {
            "process.roles": "broker,controller",
            "node.id": node.node_id,
            "controller.quorum.voters": ",".join(
                f"{n.node_id}@{HOST}:{n.controller}" for n in self._nodes
            ),
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(
                f"{name}://{at}"
                for name, at in {
                    **listeners,
                    "CONTROLLER": f"{HOST}:{node.controller}",
                }.items()
            ),
            "advertised.listeners": ",".join(f"{name}://{at}" for name, at in advertised.items()),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "MISNAMED:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.folder / "data",
            "num.network.threads": 2,
            "num.io.threads": 4,
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": min(2, copies),
            "transaction.state.log.num.partitions": 1,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
            "min.insync.replicas": min(2, copies),
            "default.replication.factor": copies,
            "broker.session.timeout.ms": 6000,
            # Compaction and retention are looked at every second, and deleted files go at once.
            "log.cleaner.backoff.ms": 1000,
            "log.cleaner.dedupe.buffer.size": 8 * 2**20,
            "log.retention.check.interval.ms": 1000,
            "log.initial.task.delay.ms": 1000,
            "file.delete.delay.ms": 1000,
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
            **sasl,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates.server,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.certificates.ca,
            "listener.name.ssl.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
        }


@contextmanager
def cluster(folder: Path, size: int = 3) -> Iterator[list[Kafka]]:
    """Brokers that replicate each other's partitions."""
    nodes = [Node(node_id) for node_id in range(1, size + 1)]
    one = Kafka(folder, nodes, nodes[0])
    brokers = [one] + [Kafka(folder, nodes, node, one.cluster_id) for node in nodes[1:]]
    with ExitStack() as stack:
        for broker in brokers:
            stack.callback(broker.kill)
        with ThreadPoolExecutor(size) as beside:  # none listens before most of them are there
            wait([beside.submit(broker.start) for broker in brokers])
        yield brokers
