"""Real servers for the tests, started when a test first asks for them and stopped at the end.

Isolation is by content, not by servers: each test has databases, a topic and a bucket of its own.
A test that breaks a server starts one for itself: `with Broker() as broker: ...`.
"""

import gc
import io
import logging
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import dagster as dg
import hypothesis
import psutil
import psycopg
import pyarrow as pa
import pytest
from kafka import KafkaAdminClient
from kafka.errors import UnknownTopicOrPartitionError
from pydantic import SecretStr

from credit_risk_dagster import logs
from credit_risk_dagster.cli.main import main
from credit_risk_dagster.domain.features import CLASSIC_FEATURES, select_features
from credit_risk_dagster.domain.model.training import kinds
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.modelling import Modelling, Stored
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    PROJECT_ROOT,
    AccessSettings,
    AlertSettings,
    ApiSettings,
    ArchiveSettings,
    DashboardSettings,
    DrainSettings,
    DriftSettings,
    KafkaSettings,
    LakeSettings,
    LogSettings,
    ModelSettings,
    RetentionSettings,
    Settings,
    StreamSettings,
    WarehouseSettings,
)
from infra.embedded.servers import S3, Broker, Postgres, Server
from resources.lake import Lake
from resources.postgres.connection import Warehouse
from resources.postgres.migrate import migrate
from tests.domain.drift.populations import score
from tests.domain.model.samples import builtin_sample, truthful_sample
from tests.live.prometheus import start_prometheus
from tests.platform.commands import Result, Run
from tests.platform.memory import in_memory
from tests.platform.pipeline import Pipeline
from tests.platform.running import Platform, open_platform
from tests.platform.slot import Slot

_SETTINGS = (
    KafkaSettings,
    WarehouseSettings,
    LakeSettings,
    ArchiveSettings,
    RetentionSettings,
    DriftSettings,
    ModelSettings,
    StreamSettings,
    DrainSettings,
    ApiSettings,
    LogSettings,
    AlertSettings,
    DashboardSettings,
    AccessSettings,
)


_MARK = "CREDIT_RISK_TESTS"  # in every process that is started, and its children: whose it is


def pytest_configure() -> None:
    """End in order when asked to, as after Ctrl-C, or the servers would be left behind.

    A shell lets what it starts in the background ignore Ctrl-C, and what that starts would, too.
    """
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, signal.default_int_handler)
    os.environ.setdefault(_MARK, str(os.getpid()))
    gc.disable()  # what is collected stays


def pytest_collection_finish() -> None:
    """What is imported and collected is no garbage, and need not be looked through for any."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Nothing is left behind, not even by a worker that was not given the time to end in order."""
    if os.environ[_MARK] != str(os.getpid()):
        return
    for process in psutil.process_iter(["environ", "cmdline"]):
        mark = (process.info["environ"] or {}).get(_MARK)
        if mark == str(os.getpid()) and process.pid != os.getpid():
            print("left behind:", *process.info["cmdline"] or [])
            with suppress(psutil.NoSuchProcess):
                process.kill()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """The workers must agree on a test's name, and a zip file has its time in it."""
    return argname if isinstance(val, bytes) else None


FAILED = pytest.StashKey[bool]()
# Whose tests need servers, and whose a platform, in the order in which those are taken. All of them
# have the slot.
_PLATFORMS = ("slot", "composed", "live", "platform")
_SERVERS = {"postgres", "broker", "s3", "own_servers", *_PLATFORMS}


def pytest_xdist_auto_num_workers() -> int:
    """For tests of Kafka, each of whose processes has a broker of its own: as many as there are
    cores for the suite, two at most."""
    own = getattr(os, "sched_getaffinity", None)  # Linux has it, macOS does not
    return min(2, len(own(0)) if own else os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)  # a worker of pytest-xdist, which is registered later, reads groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it uses, and let those that share a platform follow each other.

    One process runs all the tests that share the trained models. What works for seconds comes
    first, so that no process waits for it at the end.
    """
    for item in items:
        uses = set(getattr(item, "fixturenames", ()))
        if uses & _SERVERS:
            item.add_marker(pytest.mark.server)
        if uses & {"trained", "activatable"}:
            item.add_marker(pytest.mark.slow)
        if uses & set(_PLATFORMS):
            item.add_marker(pytest.mark.platform)
        if "trained" in uses:
            item.add_marker(pytest.mark.xdist_group("trained"))

    def turn(item: pytest.Item) -> tuple[int, bool, bool]:
        uses = set(getattr(item, "fixturenames", ()))
        rank = max((at for at, name in enumerate(_PLATFORMS) if name in uses), default=-1)
        # Faults end the servers of a platform; those without one mostly wait, beside others.
        is_fault = "faults" in item.path.parts
        return rank, is_fault == (rank >= 0), item.get_closest_marker("slow") is None

    items.sort(key=turn)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def _servers_are_seen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make check` leaves out what needs a server, so a test must not start one unseen."""
    if request.node.get_closest_marker("server") is None:

        def refuse(*_: object) -> None:
            pytest.fail("a test that starts a server has the fixture own_servers")

        for server in (Postgres, Server):
            monkeypatch.setattr(server, "start", refuse)


@pytest.fixture(autouse=True)
def _no_log_of_another_test() -> None:
    """What was set up by the commands and definitions of tests before wrote to their stderr."""
    for name in ("", *logs.PACKAGES):
        logger = logging.getLogger(name)
        for handler in [h for h in logger.handlers if isinstance(h, logs._Handler)]:
            logger.removeHandler(handler)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `credit-risk` in this process, as its entry point does."""

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["credit-risk", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        captured = capsys.readouterr()
        return Result(code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def own_servers() -> None:
    """Of a test that starts servers for itself."""


# The same examples each time; `HYPOTHESIS_EXAMPLES=5000 pytest` tries new ones.
_EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", 0))
hypothesis.settings.register_profile(
    "tests",
    max_examples=_EXAMPLES or 60,
    derandomize=not _EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _no_developer_settings() -> Iterator[None]:
    """Hide the developer's own servers and credentials: variables, and the `.env` file."""
    with pytest.MonkeyPatch.context() as patch:
        own = ("KAFKA_", "DATABASE_", "DASHBOARD_", "CREDIT_RISK_", "S3_", "AWS_", "DAGSTER_", "PG")
        for name in list(os.environ):
            if name.startswith(own) and name != _MARK:
                patch.delenv(name)
        for settings in _SETTINGS:
            patch.setitem(settings.model_config, "env_file", None)
        # What was cut short on purpose stays so; asking again for two seconds shows no more.
        patch.setattr("resources.kafka.watch._SUSPICION_SECONDS", 0.4)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server that survives its own crash, but not the machine's, which costs less."""
    with (
        TemporaryDirectory(prefix="credit-risk-", dir=in_memory()) as folder,
        Postgres(Path(folder)) as server,
    ):
        with psycopg.connect(server.uri("postgres"), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET fsync = off")
            admin.execute("ALTER SYSTEM SET full_page_writes = off")
            admin.execute("ALTER SYSTEM SET max_wal_size = '128MB'")  # its log is in memory, too
            admin.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A Kafka-API broker."""
    with Broker() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server."""
    with S3() as server:
        yield server


@pytest.fixture(scope="session")
def _template(postgres: Postgres) -> str:
    """A migrated database to copy: ten times faster than to migrate each."""
    name = "template_credit_risk"
    postgres.create_database(name)
    migrate(WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri(name))))
    return name


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """An empty database."""
    name = f"test_{uuid.uuid4().hex}"
    postgres.create_database(name)
    yield postgres.uri(name)
    postgres.drop_database(name)


@pytest.fixture
def warehouse_settings(postgres: Postgres, _template: str) -> Iterator[WarehouseSettings]:
    """A migrated database without rows."""
    name = f"test_{uuid.uuid4().hex}"
    postgres.create_database(name, _template)
    yield WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri(name)))
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def _admin(broker: Broker) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    yield admin
    admin.close()


@pytest.fixture
def kafka_settings(
    broker: Broker, _admin: KafkaAdminClient, request: pytest.FixtureRequest
) -> Iterator[KafkaSettings]:
    """An empty topic; `parametrize("kafka_settings", [1], indirect=True)` sets its partitions."""
    settings = KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers,
        topic=f"applications_{uuid.uuid4().hex}",
        partitions=getattr(request, "param", 4),
    )
    _create_topic(_admin, settings, 1)
    yield settings
    # This broker tells each new client of all the topics that it has.
    with suppress(UnknownTopicOrPartitionError):
        _admin.delete_topics([settings.topic])


def create_topic(settings: KafkaSettings, replicas: int = 1) -> None:
    """Create the settings' topic and wait until the broker serves it."""
    admin = KafkaAdminClient(**settings.client_options())
    try:
        _create_topic(admin, settings, replicas)
    finally:
        admin.close()


def _create_topic(admin: KafkaAdminClient, settings: KafkaSettings, replicas: int) -> None:
    options = {"num_partitions": settings.partitions, "replication_factor": replicas}
    admin.create_topics({settings.topic: options}, wait_for_metadata=True)


@pytest.fixture
def lake_settings(s3: S3, monkeypatch: pytest.MonkeyPatch) -> LakeSettings:
    """An empty bucket, and the credentials for it in the environment."""
    bucket = f"test-{uuid.uuid4().hex}"
    for name, value in s3.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3_BUCKET", bucket)
    boto3.client("s3").create_bucket(Bucket=bucket)
    return LakeSettings(S3_BUCKET=bucket, AWS_ENDPOINT_URL_S3=s3.endpoint_url)


@pytest.fixture
def pipeline(
    kafka_settings: KafkaSettings,
    warehouse_settings: WarehouseSettings,
    request: pytest.FixtureRequest,
) -> Pipeline:
    """An empty topic of four partitions and an empty warehouse; an empty bucket when it is used."""
    return Pipeline(
        kafka_settings,
        Warehouse(warehouse_settings),
        lambda: Lake(request.getfixturevalue("lake_settings")),
    )


@pytest.fixture
def settings(kafka_settings: KafkaSettings, warehouse_settings: WarehouseSettings) -> Settings:
    """This test's topic and tables, to hand over to Dagster's resources; a drain waits for half a
    second in vain."""
    return Settings(
        kafka=kafka_settings, warehouse=warehouse_settings, drain=DrainSettings(idle_seconds=0.5)
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster in this process, without history."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="session")
def _dagster_template(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with Dagster's tables to copy: its migrations take longer than most tests."""
    name = "template_dagster"
    postgres.create_database(name)
    home = tmp_path_factory.mktemp("dagster_home")
    # Without the project's storage, which keeps its connections: one that has any is no template.
    (home / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        patch.setenv("DAGSTER_POSTGRES_URL", postgres.uri(name))
        with dg.DagsterInstance.get():
            pass
    return name


@pytest.fixture
def dagster_url(postgres: Postgres, _dagster_template: str) -> Iterator[str]:
    """A database with Dagster's tables, in which nothing ran."""
    name = f"dagster_{uuid.uuid4().hex}"
    postgres.create_database(name, _dagster_template)
    yield postgres.uri(name)
    postgres.drop_database(name)


@pytest.fixture
def environment(
    kafka_settings: KafkaSettings,
    warehouse_settings: WarehouseSettings,
    lake_settings: LakeSettings,
    dagster_url: str,
    tmp_path: Path,
) -> dict[str, str]:
    """The whole environment of a test's subprocess (CLI, Dagster): this test's topic, databases
    and bucket, a DAGSTER_HOME, and every other setting at its default, whatever `.env` says."""
    dagster_home = tmp_path / "dagster_home"
    dagster_home.mkdir()
    shutil.copy(PROJECT_ROOT / "infra" / "dagster.yaml", dagster_home)
    settings = (kafka_settings, warehouse_settings, lake_settings, DrainSettings())
    return {
        **os.environ,
        **{name: value for group in settings for name, value in _variables(group)},
        "DAGSTER_POSTGRES_URL": dagster_url,
        "DAGSTER_HOME": str(dagster_home),
    }


@pytest.fixture
def servers(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That environment as this process's own."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture(scope="session")
def _slot() -> Iterator[Slot]:
    slot = Slot()
    try:
        yield slot
    finally:
        slot.clear()


@pytest.fixture
def slot(_slot: Slot, request: pytest.FixtureRequest) -> Iterator[Slot]:
    """Where the one platform runs; after a test that failed the next one gets another."""
    yield _slot
    if request.node.stash.get(FAILED, False):
        print(*_slot.last_words(), sep="\n")
        _slot.clear()


@pytest.fixture
def alone(slot: Slot) -> None:
    """No platform runs beside the test."""
    slot.clear()


@pytest.fixture
def platform(slot: Slot) -> Platform:
    """The whole platform, shared; nothing flows but what the test sends."""
    platform = slot.take(open_platform)
    platform.rest()
    return platform


@pytest.fixture
def live(slot: Slot) -> Platform:
    """The same with a life to look at: a test that uses it only reads, or adds rows of its own."""
    platform = slot.take(open_platform)
    if prometheus := shutil.which("prometheus"):
        start_prometheus(prometheus, platform)  # its panels need scrapes of a while
    platform.live()
    return platform


@pytest.fixture(scope="session")
def population() -> pa.Table:
    """The 9,976 real loans that can be scored."""
    return score(builtin_loans())


@pytest.fixture(scope="session")
def trained() -> Modelling:
    """Models of the built-in loans, measured and not stored; trained once."""
    return modelling.model(
        builtin_sample(),
        select_features(CLASSIC_FEATURES),
        load_policy(DEFAULT_POLICY),
        0,
        logging.getLogger("test"),
    )


@pytest.fixture(scope="session")
def activatable() -> Modelling:
    """A logistic regression that the gate lets through: of 4,000 loans of ten months whose debts
    and rates tell the truth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelling, "kinds", lambda: kinds()[:1])
        return modelling.model(
            truthful_sample(),
            select_features(CLASSIC_FEATURES),
            load_policy(DEFAULT_POLICY),
            0,
            logging.getLogger("test"),
        )


@pytest.fixture
def ready(activatable: Modelling, pipeline: Pipeline) -> int:
    """The id of that model, stored in the test's database."""
    return modelling.store(pipeline.warehouse, activatable, "run").models["logistic"]


@pytest.fixture
def stored(trained: Modelling, pipeline: Pipeline) -> Stored:
    """The same models, stored in the test's database."""
    return modelling.store(pipeline.warehouse, trained, "run")


def _variables(
    settings: KafkaSettings | WarehouseSettings | LakeSettings | DrainSettings,
) -> Iterator[tuple[str, str]]:
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value is not None:
            secret = isinstance(value, SecretStr)
            text = value.get_secret_value() if secret else str(value)
            yield field.alias or f"{prefix}{name}".upper(), text
