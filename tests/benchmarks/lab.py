"""What is measured on: real servers, filled topics, fresh databases, processes of their own."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import psycopg
from pydantic import SecretStr

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines import loans, producer
from credit_risk_dagster.settings import (
    PROJECT_ROOT,
    DrainSettings,
    KafkaSettings,
    WarehouseSettings,
)
from infra.embedded.servers import Broker, Postgres
from resources.kafka import topics
from resources.postgres.migrate import migrate
from tests.interop.kafka import Kafka, NoKafka

_TIMEOUT_SECONDS = 1800


class BenchmarkFailed(PlatformError):
    """Something could not be measured."""


def broker_name() -> str:
    """The broker that is measured on: BENCH_BROKER, embedded or kafka.

    Raises:
        BenchmarkFailed: it is neither.
    """
    name = os.environ.get("BENCH_BROKER") or "embedded"
    if name not in ("embedded", "kafka"):
        raise BenchmarkFailed(f"BENCH_BROKER is {name!r}: set it to embedded or kafka")
    return name


@contextmanager
def open_broker(folder: Path, embedded: Broker | None = None) -> Iterator[Broker | Kafka]:
    """The broker to measure on, with its files in the folder: the embedded one, which may run
    already, or Apache Kafka.

    Raises:
        BenchmarkFailed: `broker_name`; or Kafka cannot be had here.
    """
    if broker_name() == "kafka":
        try:
            kafka = Kafka(folder / "kafka")
        except NoKafka as error:
            raise BenchmarkFailed(f"BENCH_BROKER=kafka: {error}") from error
        with kafka:
            yield kafka
    elif embedded:
        yield embedded
    else:
        with Broker() as broker:
            yield broker


class Lab:
    """A Postgres and a broker to measure on."""

    def __init__(self, postgres: Postgres, broker: Broker | Kafka) -> None:
        self._postgres = postgres
        self._broker = broker
        self._template = f"template_{uuid.uuid4().hex}"
        self.variables: dict[str, str] = {}
        """Of the processes, beside those that name the topic and the database."""
        postgres.create_database(self._template)
        migrate(warehouse_settings(postgres.uri(self._template)))

    def topic(self, loans: Iterable[loans.Row], events: int, partitions: int = 4) -> KafkaSettings:
        """A new topic with so many events: the loans, over and over."""
        kafka = kafka_settings(self._broker, f"loans_{uuid.uuid4().hex}", partitions)
        topics.ensure_topic(kafka)
        producer.produce(kafka, loans, max_events=events, loop=True)
        return kafka

    @contextmanager
    def database(self) -> Iterator[str]:
        """A migrated database without rows."""
        name = f"benchmark_{uuid.uuid4().hex}"
        self._postgres.create_database(name, self._template)
        # What others wrote must not be flushed at this one's expense.
        with psycopg.connect(self._postgres.uri("postgres"), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        try:
            yield self._postgres.uri(name)
        finally:
            self._postgres.drop_database(name)

    def run(
        self, process: str, kafka: KafkaSettings, database_url: str = "", **options: Any
    ) -> dict[str, Any]:
        """Run a function of `tests.benchmarks.processes` in a process of its own.

        Args:
            process: name of the function.
            kafka: the topic that it reads.
            database_url: the database that it writes.
            options: its arguments; those with the name of a drain setting change that setting.

        Raises:
            BenchmarkFailed: it failed; the message ends with its last words.
        """
        changed = {name: options.pop(name) for name in DrainSettings.model_fields & options.keys()}
        variables = {
            **self.variables,
            "KAFKA_BOOTSTRAP_SERVERS": self._broker.bootstrap_servers,
            "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
            "KAFKA_TOPIC": kafka.topic,
            "DATABASE_URL": database_url,
            **drain_variables(drain_settings().model_copy(update=changed)),
        }
        command = [sys.executable, "-m", "tests.benchmarks.processes", process, json.dumps(options)]
        try:
            done = subprocess.run(
                command,
                cwd=PROJECT_ROOT,
                env={**os.environ, **variables},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=True,
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
            )
        except subprocess.CalledProcessError as error:
            last_words = "\n".join(error.stderr.splitlines()[-20:])
            raise BenchmarkFailed(f"the process `{process}` failed:\n{last_words}") from error
        except subprocess.TimeoutExpired as error:
            raise BenchmarkFailed(
                f"the process `{process}` did not end within {_TIMEOUT_SECONDS} s"
            ) from error
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def processor_seconds(self) -> dict[str, float]:
        """What the servers used so far: Postgres with all that it started, which may have ended."""
        (first, *_) = (self._postgres.data_dir / "postmaster.pid").read_text().splitlines()
        server = psutil.Process(int(first))
        seconds = sum(server.cpu_times()[:4])
        for process in server.children():
            with suppress(psutil.NoSuchProcess):
                seconds += sum(process.cpu_times()[:2])
        return {
            "Postgres": seconds,
            "broker": sum(psutil.Process(self._broker.pid).cpu_times()[:2]),
        }

    @contextmanager
    def postgres_log(self) -> Iterator[list[str]]:
        """The lines that Postgres logs meanwhile."""
        lines: list[str] = []
        with self._postgres.log.open() as log:
            log.seek(0, os.SEEK_END)
            yield lines
            lines += log.read().splitlines()


OpenLab = Callable[[], AbstractContextManager[Lab]]


@contextmanager
def open_lab() -> Iterator[Lab]:
    """A lab with servers of its own, which are gone afterwards."""
    with (
        TemporaryDirectory(prefix="credit-risk-bench-") as folder,
        Postgres(Path(folder) / "postgres") as postgres,
        open_broker(Path(folder)) as broker,
    ):
        yield Lab(postgres, broker)


# The developer's own `.env` is for other servers, and would make figures incomparable. A drain
# setting in the environment is honoured: that is how one tries another value.


def kafka_settings(broker: Broker | Kafka, topic: str, partitions: int = 4) -> KafkaSettings:
    return KafkaSettings(
        _env_file=None,
        bootstrap_servers=broker.bootstrap_servers,
        topic=topic,
        partitions=partitions,
        security_protocol="PLAINTEXT",
        replication_factor=1,
    )


def warehouse_settings(database_url: str) -> WarehouseSettings:
    return WarehouseSettings(_env_file=None, DATABASE_URL=SecretStr(database_url))


def drain_settings() -> DrainSettings:
    return DrainSettings(_env_file=None)


def drain_variables(settings: DrainSettings) -> Mapping[str, str]:
    """The settings as environment variables."""
    return {
        f"CREDIT_RISK_{name}".upper(): str(value)
        for name, value in settings.model_dump(exclude_none=True).items()
    }
