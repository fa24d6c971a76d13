"""Whether the lake is complete, and its files are what was stored. What a check finds is told, and
changes nothing that others go by."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.pipelines.lake_history import tables
from resources.lake import Lake, ObjectMissing
from resources.lake_tables import DataFile, LakeDamaged, LakeTable
from resources.postgres.abandoned import AbandonedOffsets, Unarchivable
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.sources import Source
from resources.postgres.verified import Verifications


@dataclass(frozen=True)
class Account:
    """Whether the archive is complete.

    Attributes:
        partitions: by partition, offsets committed, archived, pending, and undecided (without a
            decision in the lake yet); events archived and lost; and wrong: those in holes,
            overlaps, or in neither.
        missing: keys that a table lists and that are not on S3.
        resized: keys whose object has another size than the table says.
        stranded: what other sources have that no archive will ever get, and nobody gave up.
    """

    partitions: list[dict[str, Any]]
    missing: list[str]
    resized: list[str]
    stranded: list[Unarchivable] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each with the way out; empty when all is well."""
        found = []
        for p in self.partitions:
            if p["archived"] + p["pending"] != p["committed"] or p["wrong"]:
                found.append(
                    f"partition {p['partition']}: {p['archived']:,} archived + {p['pending']:,} "
                    f"pending offsets are not the {p['committed']:,} committed, or "
                    f"{counted(p['wrong'], 'event is', 'events are')} in holes or overlaps: "
                    "compare `credit-risk lake ls` with `credit-risk status`"
                )
            if p["lost"]:
                found.append(
                    f"partition {p['partition']}: {counted(p['lost'], 'committed event')} had "
                    "left the broker before they were archived: keep events there for longer, or "
                    "archive more often (rejected ones keep their bytes in Postgres); `credit-risk "
                    "lost abandon` gives them up by name"
                )
        found += [f"{tail}: `credit-risk lost abandon` gives them up" for tail in self.stranded]
        for keys, what in ((self.missing, "not on S3"), (self.resized, "of another size there")):
            if keys:
                found.append(
                    f"{counted(len(keys), 'file of the lake is', 'files of the lake are')} {what}, "
                    f"first {keys[0]}: restore them from a version or a replica of the bucket"
                )
        return found


def check_archive(
    warehouse: Warehouse, lake: Lake, source: Source, *, recent: bool = False
) -> Account:
    """Compare the lake with what is committed, and what its tables list with what S3 lists.

    Args:
        recent: look only for the files that were added within a day.

    Raises:
        WarehouseUnavailable, NotMigrated, LakeUnavailable, LakeRefused.
    """
    with warehouse.session() as connection:
        partitions = ArchiveLedger(connection).account(source.source_id)
        waiting = AbandonedOffsets(connection).waiting()
    missing, resized = [], []
    since = datetime.now(UTC) - timedelta(days=1) if recent else datetime.min.replace(tzinfo=UTC)
    for table, files in _files(lake, source.topic):
        wanted = [file for file in files if file.added_at >= since]
        folders = {f"/{file.path.split('/')[0]}/" for file in wanted} if recent else {"/"}
        sizes: dict[str, int] = {}
        for folder in sorted(folders):
            sizes |= lake.sizes(f"{table.root}{folder}")
        for file in wanted:
            key = table.key(file.path)
            if key not in sizes:
                missing.append(key)
            elif sizes[key] != file.bytes:
                resized.append(key)
    stranded = [tail for tail in waiting if tail.source_id != source.source_id]
    return Account(partitions, missing, resized, stranded)


def _files(
    lake: Lake, topic: str, since: date | None = None, until: date | None = None
) -> list[tuple[LakeTable, list[DataFile]]]:
    """The tables of a topic that there are, and their files."""
    opened = [(table, table.open()) for table in tables(lake, topic).values()]
    return [(table, at.files(since=since, until=until)) for table, at in opened if at]


@dataclass
class Verification:
    """The outcome of reading files back; what is wrong with some of them, a line each.

    Attributes:
        files, bytes: of those that were read.
        left: files whose turn did not come.
    """

    files: int = 0
    bytes: int = 0
    left: int = 0
    broken: list[str] = field(default_factory=list)


def verify_lake(
    warehouse: Warehouse,
    lake: Lake,
    topic: str,
    *,
    bytes_a_day: int | None = None,
    since: date | None = None,
    until: date | None = None,
) -> Verification:
    """Read files of both tables back and compare size and SHA-256 with what was stored: first those
    that never were, or were found wrong, then the longest ago.

    Args:
        bytes_a_day: what verifications may read since midnight (UTC), but one file at least;
            without, there is no limit.
        since, until: days, both inclusive; without, all there are.

    Raises:
        WarehouseUnavailable, NotMigrated, LakeUnavailable, LakeRefused.
    """
    done = Verification()
    with warehouse.session() as connection:
        verified = Verifications(connection)
        files = _files(lake, topic, since, until)
        if since is None and until is None:
            for table, listed in files:
                verified.keep(f"{table.root}/", [table.key(file.path) for file in listed])
        times, never = verified.times(), datetime.min.replace(tzinfo=UTC)
        room = None if bytes_a_day is None else max(0, bytes_a_day - verified.bytes_today())
        waiting = [(table, file) for table, listed in files for file in listed]
        waiting.sort(key=lambda it: times.get(it[0].key(it[1].path), never))
        for table, file in waiting:
            if room is not None and done.bytes + file.bytes > room and (done.files or not room):
                done.left = len(waiting) - done.files
                break
            done.files += 1
            done.bytes += file.bytes
            try:
                with table.fetched(file):
                    verified.mark(table.key(file.path), file.bytes)
            except (LakeDamaged, ObjectMissing) as error:
                done.broken.append(str(error))
    return done
