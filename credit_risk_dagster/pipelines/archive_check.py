"""Whether the archive is complete, and its objects are what was stored."""

from dataclasses import dataclass, field
from datetime import date
from tempfile import TemporaryFile
from typing import Any

from credit_risk_dagster.domain.raw_events import day_prefix
from resources.lake import Lake, ObjectMissing
from resources.postgres.abandoned import AbandonedOffsets, Unarchivable
from resources.postgres.archive import ArchivedObject, ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.sources import Source


@dataclass(frozen=True)
class Account:
    """Whether the archive is complete.

    Attributes:
        partitions: by partition, offsets committed, archived and pending; events archived and
            lost; and wrong: those in holes, overlaps, or in neither.
        missing: keys that are recorded and not on S3.
        resized: keys whose object has another size than recorded.
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
                    f"{p['wrong']:,} events are in holes or overlaps: compare "
                    "`credit-risk archive ls` with `credit-risk status`"
                )
            if p["lost"]:
                found.append(
                    f"partition {p['partition']}: {p['lost']:,} committed events had left the "
                    "broker before they were archived: keep events there for longer, or archive "
                    "more often (rejected ones keep their bytes in Postgres); `credit-risk lost "
                    "abandon` gives them up by name"
                )
        found += [f"{tail}: `credit-risk lost abandon` gives them up" for tail in self.stranded]
        for keys, what in ((self.missing, "not on S3"), (self.resized, "of another size there")):
            if keys:
                found.append(
                    f"{len(keys):,} recorded objects are {what}, first {keys[0]}: restore them "
                    "from a version or a replica of the bucket"
                )
        return found


def check_archive(
    warehouse: Warehouse, lake: Lake, source: Source, *, recent: bool = False
) -> Account:
    """Compare the archive with what is committed, and the recorded objects with S3's.

    Args:
        recent: look only for the objects that were archived within a day.

    Raises:
        WarehouseUnavailable, NotMigrated, LakeUnavailable, LakeRefused.
    """
    with warehouse.session() as connection:
        ledger = ArchiveLedger(connection)
        partitions = ledger.account(source.source_id)
        waiting = AbandonedOffsets(connection).waiting()
        objects = [o for o in ledger.objects(source.source_id, recent=recent) if o.key]
    sizes: dict[str, int] = {}
    for days_objects in sorted({day_prefix(o.key) for o in objects if o.key}):
        sizes |= lake.sizes(days_objects)
    missing = [o.key for o in objects if o.key and o.key not in sizes]
    resized = [o.key for o in objects if o.key and o.key in sizes and sizes[o.key] != o.bytes]
    stranded = [tail for tail in waiting if tail.source_id != source.source_id]
    return Account(partitions, missing, resized, stranded)


@dataclass
class Verification:
    """The outcome of reading objects back: key to what is wrong with it."""

    objects: int = 0
    bytes: int = 0
    broken: dict[str, str] = field(default_factory=dict)


def verify_archive(
    warehouse: Warehouse,
    lake: Lake,
    *,
    source_id: int | None = None,
    since: date | None = None,
    until: date | None = None,
) -> Verification:
    """Read objects back and compare size and SHA-256 with the recorded ones.

    Raises:
        WarehouseUnavailable, NotMigrated, LakeUnavailable, LakeRefused.
    """
    done = Verification()
    with warehouse.session() as connection:
        ledger = ArchiveLedger(connection)
        for recorded in ledger.objects(source_id, since=since, until=until):
            if recorded.key is None:
                continue
            wrong = _verify(lake, recorded)
            done.objects += 1
            done.bytes += recorded.bytes or 0
            if wrong:
                done.broken[recorded.key] = wrong
            else:
                ledger.mark_verified(recorded.source_id, [recorded.range])
    return done


def _verify(lake: Lake, recorded: ArchivedObject) -> str:
    with TemporaryFile() as file:
        try:
            found = lake.get(recorded.key or "", file)
        except ObjectMissing:
            return "is not on S3"
    if found.sha256 != (recorded.sha256 or found.labels.get("sha256")):
        return f"has SHA-256 {found.sha256}, {recorded.sha256} was stored"
    return ""
