"""What the raw events' table has, as Postgres mirrors it."""

from typing import Any

import psycopg

from credit_risk_dagster.domain.lake_rows import SourceKey
from credit_risk_dagster.domain.raw_events import parse_key
from resources.lake_tables import DataFile, LakeTable, Snapshot
from resources.postgres.archive import ArchivedRange, ArchiveLedger
from resources.postgres.sources import Sources


def mirror(connection: psycopg.Connection[Any], table: LakeTable, topic: str) -> None:
    """Mirror the raw events' table in Postgres, each of the topic's sources that both have."""
    snapshot = table.open()
    ledger = ArchiveLedger(connection)
    for source in Sources(connection).all():
        if snapshot and source.topic == topic and source.key in snapshot.sources():
            partitions = [part.partition for part in ledger.committed(source.source_id)]
            ledger.mirror(
                source.source_id,
                ranges_of(snapshot, table, source.key),
                snapshot.progress(source.key, partitions),
            )


def ranges_of(snapshot: Snapshot, table: LakeTable, source: SourceKey) -> list[ArchivedRange]:
    """What the files of a source hold, by partition and offset."""
    found = [range_of(table, file) for file in snapshot.files(source)]
    return sorted(found, key=lambda stored: (stored.partition, stored.first_offset))


def range_of(table: LakeTable, file: DataFile) -> ArchivedRange:
    """The range of offsets that a file of the raw events' table holds, which its name says."""
    at = parse_key(table.key(file.path))
    assert at is not None  # noqa: S101 (only `archive` and `adopt_objects` name such files)
    return ArchivedRange(
        *(at.partition, at.first, at.following, file.rows, file.day),
        *(table.key(file.path), file.bytes, file.sha256),
    )
