"""What infra/dagster.yaml names for Dagster: its storage, and where the output of runs is kept."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self, TextIO

import dagster as dg
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import (
    create_pg_engine,
    get_token_provider_from_config,
    pg_url_from_config,
    retry_pg_connection_fn,
)
from sqlalchemy import Engine, text

from resources.dagster_internals import (
    IO_TYPE_EXTENSION,
    CapturedLogContext,
    ComputeIOType,
    ConfigurableClassData,
    LocalComputeLogManager,
    redirect_stream,
)
from resources.postgres.client_options import CLIENT_OPTIONS

# Kept by a process between statements, which more threads than so many seldom make at once.
_CONNECTIONS = 4
# Until what a step has written is in its file.
_LAST_WORDS_SECONDS = 0.5
# One of each of its storages: without them the tables are to be created.
_HAS_TABLES = text(
    "SELECT to_regclass('event_logs') IS NOT NULL AND to_regclass('runs') IS NOT NULL"
    " AND to_regclass('jobs') IS NOT NULL"
)


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's storage in Postgres, over connections that a process keeps.

    Dagster's own connects anew for each statement, and a tick of a sensor has a dozen: a tenth of a
    processor for Postgres at rest, and 33 connections for the start of a run. Its webserver keeps
    them, too. One that broke meanwhile, as Postgres was started again, is noticed before it is
    used. Configured as `storage.postgres` is, but for `should_autocreate_tables: false`, which this
    one passes on. No process that has one forks.
    """

    _engines: ClassVar[dict[str, Engine]] = {}  # of this process, by URL: each tick asks for one
    _lock = Lock()

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """What Dagster makes the storage by, with the configuration in dagster.yaml."""
        url = pg_url_from_config(config_value)
        provider = get_token_provider_from_config(config_value)
        create = config_value.get("should_autocreate_tables", True)
        storage = cls(url, False, inst_data, provider)
        with cls._lock:
            engine = cls._engines.get(url)
            if engine is None:
                engine = create_pg_engine(
                    url,
                    provider,
                    isolation_level="AUTOCOMMIT",
                    pool_size=_CONNECTIONS,
                    max_overflow=-1,
                    pool_pre_ping=True,
                    connect_args=CLIENT_OPTIONS,
                )
                cls._engines[url] = engine
        if create and not _has_tables(engine):
            DagsterPostgresStorage(url, True, token_provider=provider)
        for part in (storage._run_storage, storage._event_log_storage, storage._schedule_storage):
            part._engine = engine
        return storage


def _has_tables(engine: Engine) -> bool:
    def look() -> bool:
        with engine.connect() as connection:
            return bool(connection.scalar(_HAS_TABLES))

    return retry_pg_connection_fn(look)


class RunOutput(LocalComputeLogManager):
    """What a run writes to stdout and stderr, in files for the UI, and on where it went before.

    Dagster's own has two `tail` for that, each with a Python beside it that ends it when the run is
    killed: they look for changes each second, and start with each run. `tee` ends with its input.
    """

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The folder, `storage` in DAGSTER_HOME by default, as it is Dagster's own default."""
        return {"base_dir": dg.Field(dg.StringSource, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """What Dagster makes it by, with the configuration in dagster.yaml."""
        folder = config_value.get("base_dir") or Path(os.environ["DAGSTER_HOME"], "storage")
        return cls(str(folder), inst_data=inst_data)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Capture both for a step's time."""
        out, err = (
            self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind])
            for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR)
        )
        with _kept(sys.stdout, out), _kept(sys.stderr, err):
            yield CapturedLogContext(log_key)
        Path(self.complete_artifact_path(log_key)).touch()


@contextmanager
def _kept(stream: TextIO, path: str) -> Iterator[None]:
    """Write what is written to a stream to a file, too."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tee = subprocess.Popen(  # noqa: S603
        ["tee", "-a", path],  # noqa: S607 (from the PATH, as everywhere)
        stdin=subprocess.PIPE,
        stdout=stream,
        start_new_session=True,  # Ctrl-C does not end it before the run has said its last
    )
    assert tee.stdin  # noqa: S101 (a pipe)
    try:
        with redirect_stream(tee.stdin, stream):
            yield
    finally:
        tee.stdin.close()
        # A process that the step has left behind may hold its end, too: it ends with that.
        with suppress(subprocess.TimeoutExpired):
            tee.wait(_LAST_WORDS_SECONDS)
