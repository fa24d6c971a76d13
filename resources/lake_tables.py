"""A Delta table of the lake: files of rows, and a log that says which of them are the table's.

The Parquet files are written here, in bounded memory, and uploaded by `Lake.put`; `deltalake`
keeps the log. A commit moves the progress of its writer (the table's application transactions) in
the same step, and of two writers that started from the same progress one is refused: that is all
there is to exactly once, and nothing outside the table has a say in it.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from tempfile import TemporaryFile
from threading import RLock
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from credit_risk_dagster.domain.lake_rows import PARTITIONED_BY, SourceKey
from credit_risk_dagster.errors import PlatformError
from resources.delta_log import Transactions
from resources.lake import Lake, LakeRefused, LakeUnavailable
from resources.parquet_files import CONTENT_TYPE, StagedFile

if TYPE_CHECKING:
    from deltalake import DeltaTable

_CONFIGURATION = {"delta.checkpointInterval": "50"}
_KEPT = ("delta.logRetentionDuration", "delta.deletedFileRetentionDuration")
_NAME = re.compile(r"-([0-9a-f]{64})\.parquet$")
_MARK = re.compile(r"(.+)/p(\d+)/(\d+)")  # what `mark` makes
_REFUSALS = ("NoSuchBucket", "AccessDenied", "403 Forbidden", "401 Unauthorized", "InvalidAccess")
_BATCH_ROWS = 50_000


class LakeDamaged(PlatformError):
    """A file of a table is not what was stored."""


class LakeMoved(Exception):
    """Another writer committed first; nothing of this commit is in the table."""


@dataclass(frozen=True)
class DataFile:
    """A file of a table: whose rows of which day it has, and when it was added.

    Attributes:
        partitions, offsets: the smallest and the greatest, None where the log does not say.
    """

    path: str
    bytes: int
    rows: int
    day: date
    source: str
    epoch: int
    added_at: datetime
    partitions: tuple[int, int] | None = None
    offsets: tuple[int, int] | None = None

    @property
    def sha256(self) -> str | None:
        """Hexadecimal checksum, which its name says; None for one that others wrote."""
        found = _NAME.search(self.path)
        return found[1] if found else None

    @property
    def values(self) -> dict[str, str | None]:
        """What the log says of the partition columns."""
        return {"day": self.day.isoformat(), "source": self.source, "epoch": str(self.epoch)}


@dataclass(frozen=True)
class Snapshot:
    """A table as it was in one version, or as it is: then it goes along with its `LakeTable`."""

    table: "DeltaTable"
    log: Transactions

    @property
    def version(self) -> int:
        return self.table.version()

    def progress(self, source: SourceKey, partitions: Sequence[int]) -> dict[int, int]:
        """The next offset of each partition of which something was committed."""
        found = self.log.until(self.version)
        names = {p: application(source, p) for p in partitions}
        return {p: found[name] for p, name in names.items() if name in found}

    def transaction(self, application_id: str) -> int | None:
        """What an application last committed; None before that."""
        return self.log.until(self.version).get(application_id)

    def forgotten(self) -> set[tuple[str, int, int]]:
        """Source, partition and offset of each event that was forgotten, whoever did it."""
        marks = map(_MARK.fullmatch, self.log.until(self.version))
        return {(found[1], int(found[2]), int(found[3])) for found in marks if found}

    def files(
        self,
        source: SourceKey | None = None,
        *,
        since: date | None = None,
        until: date | None = None,
    ) -> list[DataFile]:
        """The table's files by day, of a source or of all; since and until are inclusive."""
        actions = pa.RecordBatchReader.from_stream(self.table.get_add_actions(flatten=True))
        listed = actions.read_all().to_pylist()
        files = [
            DataFile(
                *(row["path"], row["size_bytes"], row["num_records"] or 0),
                *(row["partition.day"], row["partition.source"], row["partition.epoch"]),
                datetime.fromtimestamp(row["modification_time"] / 1000, UTC),
                *(_bounds(row, name) for name in ("partition", "offset")),
            )
            for row in listed
        ]
        return sorted(
            (
                file
                for file in files
                if (source is None or file.source == str(source))
                and (since is None or file.day >= since)
                and (until is None or file.day <= until)
            ),
            key=lambda file: (file.day, file.source, file.added_at, file.path),
        )

    def sources(self) -> list[SourceKey]:
        """Every source that has a row."""
        found = {row["source"] for row in map(dict, self.table.partitions())}
        return sorted(map(SourceKey.parse, found), key=lambda key: (key.cluster_id, key.epoch))


def _named(source: SourceKey, staged: StagedFile) -> str:
    (low, high), (first, last) = (
        (staged.least[name], staged.greatest[name]) for name in ("partition", "offset")
    )
    return f"{source.short}/p{low}{f'-{high}' if high > low else ''}/{first}-{last}"


def _bounds(row: Mapping[str, Any], column: str) -> tuple[int, int] | None:
    low, high = row.get(f"min.{column}"), row.get(f"max.{column}")
    return None if low is None or high is None else (low, high)


def application(source: SourceKey, partition: int) -> str:
    """Who moves the progress of a partition: the id of the table's application transaction."""
    return f"{source}/p{partition}"


def mark(source: str, partition: int, offset: int) -> str:
    """The id of the application transaction that tells of a forgotten event."""
    return f"{source}/p{partition}/{offset}"


class LakeTable:
    """A Delta table below a prefix of the bucket.

    Args:
        lake: the bucket.
        root: prefix of its keys.
        columns: what its files have; the table also has `PARTITIONED_BY`.
    """

    def __init__(self, lake: Lake, root: str, columns: pa.Schema) -> None:
        self.lake = lake
        self.root = root
        self.columns = columns
        self._transactions = Transactions(lake, f"{root}/_delta_log/")
        self._now: DeltaTable | None = None
        self._lock = RLock()  # nobody may move what a commit has compared its progress with

    @property
    def uri(self) -> str:
        return f"s3://{self.lake.bucket}/{self.root}"

    def key(self, path: str) -> str:
        """The key of a file in the bucket."""
        return f"{self.root}/{path}"

    def open(self, at: int | datetime | None = None) -> Snapshot | None:
        """The table as it is now, or as of a version or a time; None before it was created.

        Raises:
            LakeUnavailable.
            LakeRefused: also when its log does not have the version, or begins after the time.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        self.lake.check_access()
        with self._lock, _errors("opening", self.uri):
            if at is None and self._now is not None:
                self._now.update_incremental()  # opening it reads all of its log
                return Snapshot(self._now, self._transactions)
            try:
                table = DeltaTable(self.uri, storage_options=self.lake.storage_options())
            except TableNotFoundError:
                return None
        if at is None:
            self._now = table
        else:
            version = self._version(at, table.version())
            if version is None:
                return None
            with _errors("opening", self.uri):
                table.load_as_version(version)
        return Snapshot(table, self._transactions)

    def _version(self, at: int | datetime, newest: int) -> int | None:
        """The version that this is or was then; None where the table was created later."""
        kept = self._transactions.kept(newest) or [newest]
        if isinstance(at, datetime):
            version = self._transactions.by(at, kept)
        else:
            version = at if at in kept else None
        if version is None and (kept[0] or not isinstance(at, datetime)):
            raise LakeRefused(
                f"{self.uri} is not known as of {at}: its log has the versions {kept[0]} to "
                f"{newest}, as old ones go after CREDIT_RISK_ARCHIVE_KEEP_DAYS"
            )
        return version

    def create(self) -> Snapshot:
        """The table, created when it is missing.

        Raises:
            LakeUnavailable.
            LakeRefused: also when the store cannot keep two writers apart.
        """
        from deltalake import DeltaTable, Schema

        if found := self.open():
            return found
        self._require_two_writers()
        with _errors("creating", self.uri):
            DeltaTable.create(
                self.uri,
                Schema.from_arrow(pa.schema([*self.columns, *PARTITIONED_BY])),
                mode="ignore",
                partition_by=PARTITIONED_BY.names,
                configuration=_CONFIGURATION,
                storage_options=self.lake.storage_options(),
            )
        created = self.open()
        assert created  # noqa: S101 (it is, or that was an error)
        return created

    def _require_two_writers(self) -> None:
        """Raises LakeRefused where the store cannot keep them apart: a table may have been moved
        since it was created."""
        self.lake.require_conditional_puts(f"{self.root}/_delta_log/_conditional_put")

    def upload(
        self, staged: StagedFile, source: SourceKey, name: str | None = None
    ) -> tuple[DataFile, str]:
        """Store a file that is no part of the table yet; returns it and its statistics.

        Args:
            name: of the file, below its day and before its checksum; without, it says of which
                source, partitions and offsets its rows are.
        """
        _, sha256 = Lake.measure(staged.file)
        name = name or _named(source, staged)
        path = f"day={staged.day.isoformat()}/{name}-{sha256}.parquet"
        stored = self.lake.put(self.key(path), staged.file, CONTENT_TYPE)
        now = datetime.now(UTC)
        file = DataFile(
            *(path, stored.bytes, staged.rows, staged.day, str(source), source.epoch, now)
        )
        return file, json.dumps(staged.statistics())

    def commit(
        self,
        added: Sequence[tuple[DataFile, str]],
        moved: Mapping[str, tuple[int | None, int]],
        *,
        removed: Sequence[DataFile] = (),
        said: Mapping[str, str] | None = None,
    ) -> None:
        """Make uploaded files the table's and others not, and move progress, in one step.

        Args:
            added: files and their statistics.
            moved: application to the version that this follows, and the new one.
            removed: files that leave the table; with them, the added ones have the same rows, but
                for those that were taken out.
            said: goes into the history.

        Raises:
            LakeMoved: progress is another, or a removed file is no longer there.
            LakeUnavailable, LakeRefused: whether it was committed is open; progress says it.
        """
        self._require_two_writers()
        with self._lock:
            self._commit(self.create(), added, moved, removed, dict(said or {}))

    def _commit(
        self,
        snapshot: Snapshot,
        added: Sequence[tuple[DataFile, str]],
        moved: Mapping[str, tuple[int | None, int]],
        removed: Sequence[DataFile],
        said: dict[str, str],
    ) -> None:
        from deltalake import CommitProperties, Transaction
        from deltalake.exceptions import CommitFailedError
        from deltalake.transaction import AddAction, RemoveAction

        found = snapshot.log.until(snapshot.version)
        for name, (before, _) in moved.items():
            if found.get(name) != before:
                raise LakeMoved(f"{self.uri}: {name} is not at {before}")
        if removed:
            present = {file.path for file in snapshot.files()}
            if gone := [file.path for file in removed if file.path not in present]:
                raise LakeMoved(f"{self.uri}: {gone[0]} is no longer in the table")
        now = round(time.time() * 1000)
        with _errors("committing to", self.uri):
            try:
                snapshot.table.create_write_transaction(
                    [
                        AddAction(
                            *(file.path, file.bytes, file.values),
                            *(round(file.added_at.timestamp() * 1000), not removed, statistics),
                        )
                        for file, statistics in added
                    ]
                    + [RemoveAction(f.path, False, now, f.bytes, f.values) for f in removed],
                    "append",
                    snapshot.table.schema(),
                    PARTITIONED_BY.names,
                    commit_properties=CommitProperties(
                        custom_metadata=said,
                        app_transactions=[Transaction(n, after) for n, (_, after) in moved.items()],
                    ),
                )
            except CommitFailedError as error:
                raise LakeMoved(f"{self.uri}: {_line(error)}") from error

    def read(
        self, files: Sequence[DataFile], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of files of one source, by partition and offset, in batches of bounded size.

        Raises:
            ObjectMissing, LakeUnavailable, LakeRefused, LakeDamaged.
        """
        import pyarrow.parquet as pq

        from resources.parquet_files import groups_in_order, read_group

        with ExitStack() as stack:
            opened = [
                stack.enter_context(pq.ParquetFile(stack.enter_context(self.fetched(file))))
                for file in files
            ]
            names = [name for name in self.columns.names if columns is None or name in columns]
            wanted = pa.schema([self.columns.field(name) for name in names])
            for partition, at, group in groups_in_order(opened):
                rows = read_group(opened[at], group, wanted, partition)
                yield from rows.to_batches(max_chunksize=_BATCH_ROWS)

    @contextmanager
    def fetched(self, file: DataFile) -> Iterator[BinaryIO]:
        """A temporary file with a file's content, compared with its checksum.

        Raises:
            ObjectMissing, LakeUnavailable, LakeRefused, LakeDamaged.
        """
        with TemporaryFile() as content:
            found = self.lake.get(self.key(file.path), content)
            expected = file.sha256 or found.labels.get("sha256") or found.sha256
            if (found.bytes, found.sha256) != (file.bytes, expected):
                raise LakeDamaged(
                    f"{self.uri}/{file.path} has {found.bytes} bytes with SHA-256 {found.sha256}, "
                    f"{file.bytes} with {expected} were stored: restore it from a version or a "
                    "replica of the bucket"
                )
            content.seek(0)
            yield content

    def vacuum(self, keep: timedelta, *, dry_run: bool = False) -> list[str]:
        """Delete what no version since then has: files that were replaced so long ago, and those
        that writers left so long ago who died before they committed. Returns their paths.

        A file that is about to be committed is as any that was left: `keep` must be longer than a
        writer may take, unless no other one is there. Where another one does the same, this one
        leaves it to that.
        """
        from deltalake.exceptions import CommitFailedError

        snapshot = self.open()
        if snapshot is None:
            return []
        with _errors("vacuuming", self.uri), suppress(CommitFailedError):
            deleted: list[str] = snapshot.table.vacuum(
                retention_hours=round(keep.total_seconds() / 3600),
                dry_run=dry_run,
                enforce_retention_duration=False,
                full=True,
            )
            return deleted
        return []

    def checkpoint(self, keep: timedelta) -> None:
        """Write the log's state as one file, and forget entries that are older; commits do so
        themselves, each fiftieth.

        Args:
            keep: for how long; the table itself remembers it from then on, also for what was
                replaced.
        """
        from deltalake.exceptions import CommitFailedError

        if snapshot := self.open():
            self._require_two_writers()
            wanted = dict.fromkeys(_KEPT, f"interval {round(keep.total_seconds() / 3600)} hours")
            with _errors("writing a checkpoint of", self.uri):
                if not wanted.items() <= snapshot.table.metadata().configuration.items():
                    with suppress(CommitFailedError):  # another one does it, or the next run
                        snapshot.table.alter.set_table_properties(wanted)
                snapshot.table.create_checkpoint()
                snapshot.table.cleanup_metadata()

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """What the log says of its commits, the newest first."""
        snapshot = self.open()
        if snapshot is None:
            return []
        with _errors("reading the log of", self.uri):
            return snapshot.table.history(limit)


@contextmanager
def _errors(doing: str, uri: str) -> Iterator[None]:
    """Turn the library's errors into the platform's, in one line."""
    from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

    try:
        yield
    except (CommitFailedError, TableNotFoundError):
        raise
    except (DeltaError, OSError) as error:
        said = _line(error)
        refused = any(word in said for word in _REFUSALS) or isinstance(error, DeltaError)
        raise (LakeRefused if refused else LakeUnavailable)(f"{doing} {uri}: {said}") from error


def _line(error: Exception) -> str:
    """What a library said, in one line, without its colours, its arrows and the server's XML."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\u21b3|<[^>]*>", " ", str(error))
    return " ".join(plain.split())[:400]
