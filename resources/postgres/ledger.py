"""The warehouse (Postgres): committed offsets, the ledger, scored and rejected rows.

All SQL that writes these tables is here. The schema is on the connection's search_path.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, LiteralString, Self

import numpy as np
import pgpq
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from credit_risk_dagster.domain.events import REASONS
from credit_risk_dagster.domain.latency import histogram
from credit_risk_dagster.domain.policy import TIERS, Policy
from credit_risk_dagster.domain.scoring import Assessment
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings
from resources.kafka.broker import Fetch, OffsetRange, TopicReplaced, TopicState

# What goes wrong arrives as an exception; the pool also logs it, with each of its attempts.
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)

# A vanished server or client is noticed within half a minute, not in two hours.
_KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
APPLICATION_NAME = "credit-risk"  # a drain's connection is "credit-risk <Dagster run id>"


class WarehouseUnavailable(PlatformError):
    """Postgres does not answer, or refuses the client."""


class NotMigrated(PlatformError):
    """The schema has no tables, or older ones than this code needs."""


class OffsetsMoved(Exception):
    """Another run committed these offsets first; nothing of the batch was written."""


class LaneBusy(PlatformError):
    """Another run holds the lane's partitions and did not hand them over in time."""


class RedriveRaced(PlatformError):
    """Rejected events are not there any more, or somebody else scores them again."""


class SourceMismatch(PlatformError):
    """Two schemas mean different topics by the same source id."""


@dataclass(frozen=True)
class Source:
    """A topic of a cluster, in one of its epochs."""

    source_id: int
    cluster_id: str
    topic: str
    topic_id: str | None
    epoch: int


@dataclass(frozen=True)
class Progress:
    """What is committed of one partition; next_offset - first_offset = scored + rejected + gaps."""

    partition: int
    first_offset: int
    next_offset: int
    scored: int
    rejected: int
    gaps: int
    idle_seconds: float


@dataclass(frozen=True)
class RejectedEvent:
    """A rejected event; key and value are its exact bytes."""

    source_id: int
    partition: int
    offset: int
    rejected_at: datetime
    recorded_at: datetime
    batch_id: int
    reason: str
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Committed:
    """A committed batch: its id, its latency histogram (see `domain.latency`), and the seconds that
    its statements and the commit itself took."""

    batch_id: int
    latency_buckets: list[int]
    write_seconds: float
    commit_seconds: float


@dataclass(frozen=True)
class RolledUp:
    """How many applications the rollup by segment got, up to when it is complete, and how many
    segments there are."""

    applications: int
    rolled_up_to: datetime
    segments: int


@dataclass(frozen=True)
class StageSeconds:
    """How long a batch took before its commit; commit is the previous batch's (a transaction
    cannot record its own), None for the first of a session."""

    fetch: float
    decode: float
    score: float
    commit: float | None


def migrate(settings: WarehouseSettings, version: str = "head") -> str:
    """Bring the schema to the newest version, or to that one if it is older, and return the
    version. Safe to run at any time, by any number of processes. Readers (see
    `resources.postgres.readers`) are granted what is new.

    Raises:
        WarehouseUnavailable: Postgres does not answer.
    """
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    from resources.postgres.readers import grant_readers_again

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["schema"] = settings.db_schema
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: Warehouse(settings).connect(autocommit=False)
    )
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()
    if version != "head":
        return version  # of the past, when there may have been no readers
    grant_readers_again(settings)
    return SCHEMA_VERSION


_MIGRATIONS = Path(__file__).resolve().parent / "migrations"
# The newest migration, by its file's name: to ask Alembic would import it in every run.
SCHEMA_VERSION = max(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


class Warehouse:
    """The platform's schema in a Postgres database."""

    def __init__(self, settings: WarehouseSettings) -> None:
        self._settings = settings

    def connect(self, name: str = "", *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Open a connection with the schema on its search_path.

        Raises:
            WarehouseUnavailable: the message names host and database, never the password.
        """
        location = self.location
        try:
            connection = psycopg.connect(
                self._settings.database_url.get_secret_value(),
                autocommit=autocommit,
                application_name=f"{APPLICATION_NAME} {name}".strip(),
                connect_timeout=5,
                **_KEEPALIVE,
            )
            # Not in the startup options, which connection poolers refuse.
            connection.execute(
                "SELECT set_config('search_path', %s, false), set_config('timezone', 'UTC', false)",
                (self._settings.db_schema,),
            )
            if not autocommit:
                connection.commit()
        except psycopg.Error as error:
            raise WarehouseUnavailable(f"Postgres at {location} {_reason(error)}") from error
        return connection

    @property
    def location(self) -> str:
        """Host, port and database, without user and password.

        Raises:
            WarehouseUnavailable: DATABASE_URL is no address. Nothing of it is repeated: a password
                with a special character in it is taken for another part.
        """
        url = self._settings.database_url.get_secret_value()
        with suppress(psycopg.Error):
            parts = psycopg.conninfo.conninfo_to_dict(url)
            host, port = parts.get("host") or "the local socket", parts.get("port") or "5432"
            database = parts.get("dbname") or ""
            if re.fullmatch(r"[0-9,]+", str(port)) and "@" not in f"{host}{database}":
                return f"{host}:{port}/{database}"
        raise WarehouseUnavailable(
            "DATABASE_URL is not like postgresql://user:password@host:port/database (in user and "
            "password, write % @ / : as %25 %40 %2F %3A)"
        )

    @contextmanager
    def ledger(self, name: str = "") -> Iterator["Ledger"]:
        """Open a connection for reading and moving the progress of the stream.

        Raises: as `session`.
        """
        with self.session(name) as connection:
            yield Ledger(connection)

    def _check_version(self, connection: psycopg.Connection[Any]) -> None:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return  # a reader, which can do no harm
        version = str(row[0]) if row else "0000"
        if version < SCHEMA_VERSION:
            raise NotMigrated(
                f"schema {self._settings.db_schema} in Postgres at {self.location} is at version "
                f"{version} and this code needs {SCHEMA_VERSION}: run `credit-risk migrate`"
            )

    @contextmanager
    def session(self, name: str = "") -> Iterator[psycopg.Connection[Any]]:
        """Open a connection whose errors are the platform's.

        Raises:
            WarehouseUnavailable: Postgres does not answer, or went away.
            NotMigrated: the tables are missing, or older than this code. Newer ones are fine: every
                version of the schema serves the code of the version before.
        """
        connection = self.connect(name)
        try:
            with self.errors():
                self._check_version(connection)
                yield connection
        finally:
            connection.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the driver's errors into WarehouseUnavailable and NotMigrated."""
        try:
            yield
        except (
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.UndefinedFunction,
        ) as error:
            raise NotMigrated(
                f"schema {self._settings.db_schema} in Postgres at {self.location} is not "
                "migrated: run `credit-risk migrate`"
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise WarehouseUnavailable(
                f"Postgres at {self.location} refuses that to the role of DATABASE_URL: "
                f"{' '.join(str(error).split())}"
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise WarehouseUnavailable(f"Postgres at {self.location} {_reason(error)}") from error


class WarehouseReader:
    """A pool of connections that only read, for a process that answers many short questions.

    Args:
        settings: where Postgres is.
        size: most connections.
        patience_seconds: how long to wait for one, and how long a query may take.
    """

    def __init__(self, settings: WarehouseSettings, size: int, patience_seconds: float) -> None:
        self._warehouse = Warehouse(settings)
        self._pool = ConnectionPool(
            settings.database_url.get_secret_value(),
            kwargs={"autocommit": True, "application_name": f"{APPLICATION_NAME} reader"}
            | {"connect_timeout": 5}
            | _KEEPALIVE,
            min_size=1,
            max_size=size,
            open=False,
            check=ConnectionPool.check_connection,  # one may have ended with a restarted server
            configure=partial(_configure_reader, settings.db_schema, patience_seconds),
            timeout=patience_seconds,
            reconnect_timeout=10,  # it tries less and less often, up to this
            name="warehouse",
        )

    def __enter__(self) -> Self:
        """Start to connect; Postgres need not be there yet."""
        self._pool.open(wait=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """Borrow a connection whose errors are the platform's.

        Raises:
            WarehouseUnavailable: Postgres does not answer, or went away, or is too slow.
            NotMigrated: the tables are missing.
        """
        with self._warehouse.errors(), self._pool.connection() as connection:
            yield connection


def _configure_reader(
    schema: str, patience_seconds: float, connection: psycopg.Connection[Any]
) -> None:
    # Not in the startup options, which connection poolers refuse.
    connection.execute(
        "SELECT set_config('search_path', %s, false), set_config('timezone', 'UTC', false),"
        " set_config('default_transaction_read_only', 'on', false),"
        " set_config('statement_timeout', %s, false)",
        (schema, f"{round(patience_seconds * 1000)}"),
    )


class Ledger:
    """Progress of the stream, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    # --- sources and policies -------------------------------------------------------------------

    def find_source(self, topic: TopicState) -> Source | None:
        """The newest epoch of the topic; None when nothing of it was ever processed.

        Raises:
            TopicReplaced: the topic was deleted and created again since.
        """
        with self._connection.cursor(row_factory=class_row(Source)) as cursor:
            source = cursor.execute(
                "SELECT source_id, cluster_id, topic, topic_id, epoch FROM sources"
                " WHERE cluster_id = %s AND topic = %s ORDER BY epoch DESC LIMIT 1",
                (topic.cluster_id, topic.topic),
            ).fetchone()
        if source and source.topic_id and topic.topic_id and source.topic_id != topic.topic_id:
            committed = self.progress(source.source_id)
            at = "; ".join(
                f"partition {p.partition} committed {p.next_offset}, now ends at "
                f"{topic.offsets.get(p.partition, (0, 0))[1]}"
                for p in committed
            )
            raise TopicReplaced(
                f"topic {topic.topic} on cluster {topic.cluster_id} was deleted and created again "
                f"({at}). Nothing was skipped. When that is intended, `credit-risk topic new-epoch`"
                " starts over with the topic as it is now"
            )
        return source

    def register_source(self, topic: TopicState) -> Source:
        """The newest epoch of the topic, created when it is seen for the first time.

        Raises:
            TopicReplaced: as `find_source`.
        """
        source = self.find_source(topic)
        if source is None:
            self._connection.execute(
                "INSERT INTO sources (cluster_id, topic, topic_id) VALUES (%s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (topic.cluster_id, topic.topic, topic.topic_id),
            )
            source = self.find_source(topic)
            assert source is not None  # noqa: S101 (just inserted, and sources are never deleted)
        return source

    def adopt_source(self, source: Source) -> None:
        """Register another schema's source under the same id.

        Raises:
            SourceMismatch: this schema has another source of that id.
        """
        self._connection.execute(
            "INSERT INTO sources (source_id, cluster_id, topic, topic_id, epoch)"
            " OVERRIDING SYSTEM VALUE VALUES (%(source_id)s, %(cluster_id)s, %(topic)s,"
            " %(topic_id)s, %(epoch)s) ON CONFLICT DO NOTHING",
            vars(source),
        )
        self._connection.execute(
            "SELECT setval(pg_get_serial_sequence('sources', 'source_id'), max(source_id))"
            " FROM sources"
        )
        if source not in self.sources():
            raise SourceMismatch(
                f"source {source.source_id} is another one here than topic {source.topic} of "
                f"cluster {source.cluster_id}, epoch {source.epoch}: name a fresh schema"
            )

    def sources(self) -> list[Source]:
        """Every source of which something was committed."""
        with self._connection.cursor(row_factory=class_row(Source)) as cursor:
            return cursor.execute(
                "SELECT source_id, cluster_id, topic, topic_id, epoch FROM sources"
                " ORDER BY source_id"
            ).fetchall()

    def new_epoch(self, topic: TopicState) -> int:
        """Start over with the topic as the broker has it now; returns the new epoch's number."""
        row = self._connection.execute(
            "INSERT INTO sources (cluster_id, topic, topic_id, epoch)"
            " SELECT %(cluster)s, %(topic)s, %(topic_id)s, coalesce(max(epoch) + 1, 0)"
            " FROM sources WHERE cluster_id = %(cluster)s AND topic = %(topic)s RETURNING epoch",
            {"cluster": topic.cluster_id, "topic": topic.topic, "topic_id": topic.topic_id},
        ).fetchone()
        return int(row[0]) if row else 0

    def register_policy(self, policy: Policy) -> int:
        """The id under which the policy is stored, with its whole document."""
        self._connection.execute(
            "INSERT INTO policies (name, content_hash, document) VALUES (%s, %s, %s)"
            " ON CONFLICT (name, content_hash) DO NOTHING",
            (policy.name, policy.content_hash, policy.document),
        )
        row = self._connection.execute(
            "SELECT policy_id FROM policies WHERE name = %s AND content_hash = %s",
            (policy.name, policy.content_hash),
        ).fetchone()
        assert row is not None  # noqa: S101
        return int(row[0])

    # --- progress -------------------------------------------------------------------------------

    def progress(self, source_id: int) -> list[Progress]:
        """What is committed, by partition."""
        with self._connection.cursor(row_factory=class_row(Progress)) as cursor:
            return cursor.execute(
                "SELECT partition, first_offset, next_offset, scored, rejected, gaps,"
                " extract(epoch FROM clock_timestamp() - updated_at)::float8 AS idle_seconds"
                " FROM stream_offsets WHERE source_id = %s ORDER BY partition",
                (source_id,),
            ).fetchall()

    def silent_seconds(self, source_id: int) -> float | None:
        """Seconds since an application of the source was scored; None when none ever was."""
        row = self._connection.execute(
            "SELECT extract(epoch FROM clock_timestamp() - committed_at)::float8 FROM batches"
            " WHERE source_id = %s AND scored > 0 ORDER BY committed_at DESC LIMIT 1",
            (source_id,),
        ).fetchone()
        return float(row[0]) if row else None

    def start_partitions(self, source_id: int, beginnings: Mapping[int, int]) -> dict[int, int]:
        """The next offset of each partition; a new partition starts at its beginning."""
        self._connection.execute(
            "INSERT INTO stream_offsets (source_id, partition, first_offset, next_offset)"
            " SELECT %s, p, o, o FROM unnest(%s::int[], %s::bigint[]) AS new (p, o)"
            " ON CONFLICT DO NOTHING",
            (source_id, list(beginnings), list(beginnings.values())),
        )
        committed = {p.partition: p.next_offset for p in self.progress(source_id)}
        return {partition: committed[partition] for partition in beginnings}

    def prepare_storage(self) -> None:
        """Create the time partitions of the tables for this month and the next."""
        self._connection.execute("SELECT ensure_partitions()")

    # --- the lane's lock ------------------------------------------------------------------------

    def lock(self, source_id: int, partitions: Sequence[int], timeout_seconds: float) -> None:
        """Take the partitions for this connection; they are free again when it ends, however it
        ends. Always in ascending order, so two runs cannot wait for each other.

        Raises:
            LaneBusy: another run kept one of them for longer than the timeout.
        """
        with self._connection.transaction():
            self._connection.execute(
                "SELECT set_config('lock_timeout', %s, true)", (f"{round(timeout_seconds * 1000)}",)
            )
            try:
                for partition in sorted(partitions):
                    self._connection.execute(
                        "SELECT pg_advisory_lock(%s::int, %s::int)", (source_id, partition)
                    )
            except psycopg.errors.LockNotAvailable as error:
                raise LaneBusy(
                    f"another run held partition {partition} for more than {timeout_seconds:.0f} s"
                ) from error

    def is_awaited(self, source_id: int, partitions: Sequence[int]) -> bool:
        """Whether another run waits for one of these partitions."""
        row = self._connection.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid = %s::oid AND objid = ANY (%s::oid[]))",
            (source_id, list(partitions)),
        ).fetchone()
        return bool(row and row[0])

    def connected_runs(self) -> set[str]:
        """Dagster run ids of the drains that are connected now, or wait to be."""
        rows = self._connection.execute(
            "SELECT substr(application_name, %s) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE %s",
            (len(APPLICATION_NAME) + 2, f"{APPLICATION_NAME} %"),
        )
        return {row[0] for row in rows}

    def session_seconds(self, run_ids: Sequence[str]) -> dict[str, float]:
        """Seconds since each run's first commit; runs that committed nothing are left out."""
        rows = self._connection.execute(
            "SELECT run_id, extract(epoch FROM clock_timestamp() - min(committed_at))::float8"
            " FROM batches WHERE run_id = ANY (%s) GROUP BY run_id",
            (list(run_ids),),
        )
        return dict(rows.fetchall())

    # --- the micro-batch ------------------------------------------------------------------------

    def commit(
        self,
        source_id: int,
        policy_id: int,
        run_id: str,
        lane: int,
        fetch: Fetch,
        assessment: Assessment,
        seconds: StageSeconds,
    ) -> Committed:
        """Write a micro-batch and move the offsets, in one transaction.

        Raises:
            OffsetsMoved: the offsets are no longer where the batch started. Nothing is written.
        """
        started = time.perf_counter()
        with self._connection.transaction():
            batch_id = self._move_offsets(source_id, fetch, assessment)
            self._copy_scored(source_id, batch_id, policy_id, fetch, assessment)
            self._copy_rejected(source_id, batch_id, fetch, assessment)
            self._insert_gaps(source_id, batch_id, fetch.gaps, "not delivered by the broker")
            self._roll_up(source_id, assessment)
            copy_seconds = time.perf_counter() - started
            # The clock is read as late as a transaction can: only the commit itself comes after.
            latencies = np.maximum(time.time() - fetch.timestamps / 1000, 0.0)
            buckets: list[int] = histogram(latencies).tolist()
            tiers = assessment.tier_counts()
            self._connection.execute(
                _INSERT_BATCH,
                {
                    "batch_id": batch_id,
                    "source_id": source_id,
                    "policy_id": policy_id,
                    "run_id": run_id,
                    "lane": lane,
                    "partitions": [r.partition for r in fetch.ranges],
                    "first_offsets": [r.first for r in fetch.ranges],
                    "next_offsets": [r.next for r in fetch.ranges],
                    "scored": len(assessment.scored_at),
                    "rejected": len(assessment.rejected_at),
                    "gaps": sum(map(len, fetch.gaps)),
                    "watchlist": tiers["Watchlist"],
                    "elevated": tiers["Elevated"],
                    "low": tiers["Low"],
                    "reject_reasons": Jsonb(assessment.reason_counts()),
                    "value_bytes": fetch.value_bytes,
                    "fetch_ms": seconds.fetch * 1000,
                    "decode_ms": seconds.decode * 1000,
                    "score_ms": seconds.score * 1000,
                    "copy_ms": copy_seconds * 1000,
                    "commit_ms": None if seconds.commit is None else seconds.commit * 1000,
                    "latency_buckets": buckets,
                    "latency_sum_s": float(latencies.sum()),
                },
            )
            written = time.perf_counter()
        return Committed(batch_id, buckets, written - started, time.perf_counter() - written)

    def record_lost(
        self,
        source_id: int,
        lost: Sequence[OffsetRange],
        reason: str = "removed by the broker's retention",
    ) -> None:
        """Move on over ranges whose events cannot be had, and record them as gaps.

        Raises:
            OffsetsMoved: the offsets are no longer where the ranges start.
        """
        with self._connection.transaction():
            batch_id = self._move_offsets(source_id, Fetch(ranges=[*lost], gaps=[*lost]), None)
            self._insert_gaps(source_id, batch_id, lost, reason)

    def _move_offsets(self, source_id: int, fetch: Fetch, assessment: Assessment | None) -> int:
        """Compare-and-set the offsets of the batch's partitions; returns the new batch's id."""
        last = max((r.partition for r in fetch.ranges), default=-1) + 1
        scored, rejected = np.zeros(last, np.int64), np.zeros(last, np.int64)
        if assessment is not None:
            scored += np.bincount(fetch.partitions[assessment.scored_at], minlength=last)
            rejected += np.bincount(fetch.partitions[assessment.rejected_at], minlength=last)
        gaps = np.zeros(last, np.int64)
        for gap in fetch.gaps:
            gaps[gap.partition] += len(gap)
        at = [r.partition for r in fetch.ranges]
        row = self._connection.execute(
            _MOVE_OFFSETS,
            {
                "source_id": source_id,
                "partitions": at,
                "first": [r.first for r in fetch.ranges],
                "next": [r.next for r in fetch.ranges],
                "scored": scored[at].tolist(),
                "rejected": rejected[at].tolist(),
                "gaps": gaps[at].tolist(),
            },
        ).fetchone()
        assert row is not None  # noqa: S101 (an aggregate always has a row)
        moved, batch_id = row
        if moved != len(fetch.ranges):
            raise OffsetsMoved(
                f"{len(fetch.ranges) - moved} of {len(fetch.ranges)} partitions were moved by "
                "another run"
            )
        return int(batch_id)

    def _copy_scored(
        self, source_id: int, batch_id: int, policy_id: int, fetch: Fetch, assessment: Assessment
    ) -> None:
        at, scored = assessment.scored_at, assessment.scored
        if not len(at):
            return
        batch = _with_coordinates(scored, source_id, batch_id, fetch, at)
        batch = batch.append_column("policy_id", _constant(policy_id, len(at), pa.int32()))
        self._copy("scored_applications", batch)

    def _copy_rejected(
        self, source_id: int, batch_id: int, fetch: Fetch, assessment: Assessment
    ) -> None:
        at = assessment.rejected_at
        if not len(at):
            return
        rows = pa.RecordBatch.from_pydict(
            {
                "reason": pa.array([REASONS[code] for code in assessment.reasons], pa.string()),
                "key": pa.array([fetch.keys[i] for i in at], pa.binary()),
                "value": pa.array([fetch.values[i] for i in at], pa.binary()),
            }
        )
        self._copy("rejected_events", _with_coordinates(rows, source_id, batch_id, fetch, at))

    def _copy(self, table: LiteralString, batch: pa.RecordBatch) -> None:
        """COPY a record batch; its column names are the table's."""
        encoder = pgpq.ArrowToPostgresBinaryEncoder(batch.schema)
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, batch.schema.names))
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(encoder.write_header())
            copy.write(encoder.write_batch(batch))
            copy.write(encoder.finish())

    def _insert_gaps(
        self, source_id: int, batch_id: int, gaps: Sequence[OffsetRange], reason: str
    ) -> None:
        if gaps:
            self._connection.execute(
                "INSERT INTO offset_gaps"
                " (source_id, partition, first_offset, next_offset, batch_id, reason)"
                " SELECT %s, p, f, n, %s, %s"
                " FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) AS gap (p, f, n)",
                (
                    *(source_id, batch_id, reason),
                    *([g.partition for g in gaps], [g.first for g in gaps], [g.next for g in gaps]),
                ),
            )

    def _roll_up(self, source_id: int, assessment: Assessment) -> None:
        counts = assessment.tier_counts()
        self._connection.execute(
            _ROLL_UP,
            (
                source_id,
                [*counts, "Rejected"],
                [*counts.values(), len(assessment.rejected_at)],
                [*_amounts(assessment), 0.0],
            ),
        )

    # --- rejected events ------------------------------------------------------------------------

    def rejected(
        self,
        *,
        reason: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        after: tuple[int, int, int] = (-1, -1, -1),
        limit: int = 5_000,
    ) -> list[RejectedEvent]:
        """Rejected events by source, partition and offset.

        Args:
            reason, partition, offset: only those.
            after: (source, partition, offset) of the last one that was seen.
            limit: most events.
        """
        with self._connection.cursor(row_factory=class_row(RejectedEvent)) as cursor:
            return cursor.execute(
                _REJECTED,
                {
                    "reason": reason,
                    "partition": partition,
                    "offset": offset,
                    "after_source": after[0],
                    "after_partition": after[1],
                    "after_offset": after[2],
                    "limit": limit,
                },
            ).fetchall()

    def lock_redrive(self) -> None:
        """Be the only one that scores rejected events again, for as long as the connection lives.

        Raises:
            RedriveRaced: another one does.
        """
        row = self._connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(current_schema() || '.redrive', 0))"
        ).fetchone()
        if not (row and row[0]):
            raise RedriveRaced("another run re-drives rejected events: wait until it is done")

    def redrive(
        self,
        events: Sequence[RejectedEvent],
        assessment: Assessment,
        policy_id: int,
        run_id: str,
    ) -> int:
        """Move those of one partition's rejected events that are now scored, in one transaction.

        They keep their offset and the batch that rejected them, and leave a row of audit.

        Args:
            events: of one source and partition.
            assessment: of the same events, in the same order.

        Returns:
            How many were moved.

        Raises:
            RedriveRaced: some of them are no longer there. Nothing is written.
        """
        moved = [events[at] for at in assessment.scored_at]
        if not moved:
            return 0
        which: dict[str, Any] = {
            "source_id": moved[0].source_id,
            "partition": moved[0].partition,
            "offsets": [event.offset for event in moved],
            "rejected_at": [event.rejected_at for event in moved],
            "reasons": [event.reason for event in moved],
            "policy_id": policy_id,
            "run_id": run_id,
            "count": len(moved),
        }
        rows = assessment.scored
        coordinates: dict[str, pa.Array] = {
            "source_id": _constant(moved[0].source_id, len(moved), pa.int32()),
            "partition": _constant(moved[0].partition, len(moved), pa.int32()),
            "offset": pa.array(which["offsets"], pa.int64()),
            "batch_id": pa.array([event.batch_id for event in moved], pa.int64()),
            "recorded_at": pa.array(
                [event.recorded_at for event in moved], pa.timestamp("us", "UTC")
            ),
            "policy_id": _constant(policy_id, len(moved), pa.int32()),
        }
        with self._connection.transaction():
            # First the row that a drain's transaction takes first, too: so none waits in a circle.
            self._connection.execute(_REDRIVE_OFFSETS, which)
            found = self._connection.execute(_REDRIVE_DELETE, which).rowcount
            if found != len(moved):
                raise RedriveRaced(
                    f"{len(moved) - found} of {len(moved)} rejected events of partition "
                    f"{moved[0].partition} are gone meanwhile: start again"
                )
            self._copy(
                "scored_applications",
                pa.RecordBatch.from_pydict(
                    coordinates | {name: rows[name] for name in rows.schema.names}
                ),
            )
            self._connection.execute(_REDRIVE_AUDIT, which)
            tiers = assessment.tier_counts()
            self._connection.execute(
                _REDRIVE_ROLL_UP,
                which
                | {
                    "tiers": list(tiers),
                    "counts": list(tiers.values()),
                    "amounts": _amounts(assessment),
                },
            )
        return len(moved)

    # --- rollup by segment ----------------------------------------------------------------------

    def roll_up_segments(self) -> RolledUp:
        """Add what was scored since the last time to `segments_by_hour`. Two at once take turns."""
        added = self._connection.execute("SELECT roll_up_segments()").fetchone()
        row = self._connection.execute(
            "SELECT rolled_up_to, (SELECT count(*) FROM segments) FROM segments_progress"
        ).fetchone()
        assert added is not None and row is not None  # noqa: S101, PT018
        return RolledUp(added[0], row[0], row[1])

    # --- reconciliation -------------------------------------------------------------------------

    def reconcile(self, source_id: int, run_id: str | None = None) -> list[dict[str, Any]]:
        """Count the stored rows against the committed offsets, by partition.

        Args:
            source_id: the source.
            run_id: count only the ranges that this run committed (cheap, for a check after each
                run); None counts everything.

        Returns:
            partition, first_offset, next_offset, and the rows actually stored in that range:
            scored, rejected, gaps, dropped (by retention; only when everything is counted), and
            difference = next - first - scored - rejected - gaps - dropped.
        """
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(_RECONCILE, {"source_id": source_id, "run_id": run_id}).fetchall()

    def record_reconciliation(
        self, source_id: int, run_id: str, offsets: int, difference: int
    ) -> None:
        """Keep the outcome of a run's check, for the metrics: so many offsets, so many of them
        missing or doubled."""
        self._connection.execute(
            "INSERT INTO reconciliations (source_id, run_id, offsets, difference)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT (source_id) DO UPDATE SET checked_at = DEFAULT,"
            " run_id = excluded.run_id, offsets = excluded.offsets,"
            " difference = excluded.difference",
            (source_id, run_id, offsets, difference),
        )

    def execute(self, query: LiteralString, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a query of a reader (status, summaries); rows as dictionaries."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, parameters).fetchall()


_MOVE_OFFSETS: LiteralString = """
WITH moved AS (
    UPDATE stream_offsets AS o
    SET next_offset = b.next, scored = o.scored + b.scored, rejected = o.rejected + b.rejected,
        gaps = o.gaps + b.gaps, updated_at = clock_timestamp()
    FROM unnest(%(partitions)s::int[], %(first)s::bigint[], %(next)s::bigint[],
                %(scored)s::bigint[], %(rejected)s::bigint[], %(gaps)s::bigint[])
        AS b (partition, first, next, scored, rejected, gaps)
    WHERE o.source_id = %(source_id)s AND o.partition = b.partition AND o.next_offset = b.first
    RETURNING 1
)
SELECT count(*), nextval(pg_get_serial_sequence('batches', 'batch_id')) FROM moved
"""

_INSERT_BATCH: LiteralString = """
INSERT INTO batches (
    batch_id, source_id, policy_id, run_id, lane, partitions, first_offsets, next_offsets,
    scored, rejected, gaps, watchlist, elevated, low, reject_reasons, value_bytes,
    fetch_ms, decode_ms, score_ms, copy_ms, commit_ms, latency_buckets, latency_sum_s
) VALUES (
    %(batch_id)s, %(source_id)s, %(policy_id)s, %(run_id)s, %(lane)s,
    %(partitions)s, %(first_offsets)s, %(next_offsets)s,
    %(scored)s, %(rejected)s, %(gaps)s, %(watchlist)s, %(elevated)s, %(low)s,
    %(reject_reasons)s, %(value_bytes)s,
    %(fetch_ms)s, %(decode_ms)s, %(score_ms)s, %(copy_ms)s, %(commit_ms)s,
    %(latency_buckets)s, %(latency_sum_s)s
)
"""

# Rows are updated in the order of their key, so that two lanes cannot deadlock on one minute.
_ROLL_UP: LiteralString = """
INSERT INTO risk_by_minute AS total (minute, source_id, risk_tier, applications, loan_amnt)
SELECT date_trunc('minute', now()), %s, tier, n, amount
FROM unnest(%s::text[], %s::bigint[], %s::float8[]) AS b (tier, n, amount)
WHERE n > 0 ORDER BY tier
ON CONFLICT (minute, source_id, risk_tier) DO UPDATE
SET applications = total.applications + excluded.applications,
    loan_amnt = total.loan_amnt + excluded.loan_amnt
"""

_REJECTED: LiteralString = """
SELECT source_id, partition, "offset", rejected_at, recorded_at, batch_id, reason, key, value
FROM rejected_events
WHERE (%(reason)s::text IS NULL OR reason = %(reason)s)
    AND (%(partition)s::int IS NULL OR partition = %(partition)s)
    AND (%(offset)s::bigint IS NULL OR "offset" = %(offset)s)
    AND (source_id, partition, "offset")
        > (%(after_source)s::int, %(after_partition)s::int, %(after_offset)s::bigint)
ORDER BY source_id, partition, "offset" LIMIT %(limit)s
"""

_REDRIVE_OFFSETS: LiteralString = """
UPDATE stream_offsets SET scored = scored + %(count)s, rejected = rejected - %(count)s
WHERE source_id = %(source_id)s AND partition = %(partition)s
"""

_REDRIVE_AUDIT: LiteralString = """
INSERT INTO redriven_events
    (source_id, partition, "offset", reason, rejected_at, policy_id, run_id)
SELECT %(source_id)s, %(partition)s, o, r, t, %(policy_id)s, %(run_id)s
FROM unnest(%(offsets)s::bigint[], %(reasons)s::text[], %(rejected_at)s::timestamptz[])
    AS moved (o, r, t)
"""

_REDRIVE_DELETE: LiteralString = """
DELETE FROM rejected_events USING
    unnest(%(offsets)s::bigint[], %(rejected_at)s::timestamptz[]) AS moved (o, t)
WHERE source_id = %(source_id)s AND partition = %(partition)s
    AND "offset" = moved.o AND rejected_at = moved.t
"""

# In the order of the key, as in _ROLL_UP. A minute that retention removed is not brought back.
_REDRIVE_ROLL_UP: LiteralString = """
WITH change AS (
    SELECT r.minute, r.risk_tier AS tier, -count(*) AS n, 0.0 AS amount
    FROM unnest(%(rejected_at)s::timestamptz[]) AS t
    JOIN risk_by_minute r ON r.source_id = %(source_id)s AND r.risk_tier = 'Rejected'
        AND r.minute = date_trunc('minute', t)
    GROUP BY 1, 2
    UNION ALL
    SELECT date_trunc('minute', now()), tier, n, amount
    FROM unnest(%(tiers)s::text[], %(counts)s::bigint[], %(amounts)s::float8[])
        AS b (tier, n, amount)
    WHERE n > 0
)
INSERT INTO risk_by_minute AS total (minute, source_id, risk_tier, applications, loan_amnt)
SELECT minute, %(source_id)s, tier, n, amount FROM change ORDER BY minute, tier
ON CONFLICT (minute, source_id, risk_tier) DO UPDATE
SET applications = total.applications + excluded.applications,
    loan_amnt = total.loan_amnt + excluded.loan_amnt
"""

_RECONCILE: LiteralString = """
WITH scope AS (
    SELECT partition, first_offset, next_offset FROM stream_offsets
    WHERE source_id = %(source_id)s AND %(run_id)s::text IS NULL
    UNION ALL
    SELECT partition, min(first_offset), max(next_offset)
    FROM batches, unnest(partitions, first_offsets, next_offsets)
        AS r (partition, first_offset, next_offset)
    WHERE source_id = %(source_id)s AND run_id = %(run_id)s::text
    GROUP BY partition
), counted AS (
    SELECT scope.*,
        (SELECT count(*) FROM scored_applications t WHERE t.source_id = %(source_id)s
            AND t.partition = scope.partition
            AND t."offset" >= scope.first_offset AND t."offset" < scope.next_offset) AS scored,
        (SELECT count(*) FROM rejected_events t WHERE t.source_id = %(source_id)s
            AND t.partition = scope.partition
            AND t."offset" >= scope.first_offset AND t."offset" < scope.next_offset) AS rejected,
        (SELECT coalesce(sum(least(t.next_offset, scope.next_offset)
                             - greatest(t.first_offset, scope.first_offset)), 0)::bigint
            FROM offset_gaps t WHERE t.source_id = %(source_id)s
            AND t.partition = scope.partition AND t.first_offset < scope.next_offset
            AND t.next_offset > scope.first_offset) AS gaps,
        (SELECT coalesce(sum(t.scored + t.rejected), 0)::bigint FROM dropped_rows t
            WHERE %(run_id)s::text IS NULL AND t.source_id = %(source_id)s
            AND t.partition = scope.partition) AS dropped
    FROM scope
)
SELECT *, next_offset - first_offset - scored - rejected - gaps - dropped AS difference
FROM counted ORDER BY partition
"""


def _with_coordinates(
    rows: pa.RecordBatch, source_id: int, batch_id: int, fetch: Fetch, at: Any
) -> pa.RecordBatch:
    """Add the columns that say where each row's record came from."""
    # A record without a timestamp (-1) gets the epoch, which no real record has.
    micros = np.maximum(fetch.timestamps[at], 0) * 1000
    columns = {
        "source_id": _constant(source_id, len(at), pa.int32()),
        "partition": pa.array(fetch.partitions[at]),
        "offset": pa.array(fetch.offsets[at]),
        "batch_id": _constant(batch_id, len(at), pa.int64()),
        "recorded_at": pa.array(micros.view("datetime64[us]")).cast(pa.timestamp("us", "UTC")),
    }
    columns |= {name: rows[name] for name in rows.schema.names}
    return pa.RecordBatch.from_pydict(columns)


def _amounts(assessment: Assessment) -> list[float]:
    """USD applied for, by tier."""
    amounts = np.bincount(
        assessment.tiers,
        weights=assessment.scored["loan_amnt"].to_numpy(zero_copy_only=False),
        minlength=len(TIERS),
    )
    return amounts.astype(np.float64).tolist()  # of no rows, bincount makes integers


def _constant(value: int, length: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), length)


def _reason(error: psycopg.Error) -> str:
    return "does not answer: " + " ".join(str(error).split())
