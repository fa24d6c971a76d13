"""What the raw events' table has, as Postgres mirrors it."""

from dataclasses import replace
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
    """What the files of a source hold, by partition and offset. Where the rows of one are between
    those of another, of days that alternate, both are one range, with the name of the first."""
    files = [range_of(table, file) for file in snapshot.files(source)]
    found: list[ArchivedRange] = []
    for it in sorted(files, key=lambda stored: (stored.partition, stored.first_offset)):
        before = found[-1] if found else None
        if before and before.partition == it.partition and before.next_offset > it.first_offset:
            found[-1] = replace(
                before,
                next_offset=max(before.next_offset, it.next_offset),
                rows=before.rows + it.rows,
                bytes=(before.bytes or 0) + (it.bytes or 0),
            )
        else:
            found.append(it)
    return found


def range_of(table: LakeTable, file: DataFile) -> ArchivedRange:
    """From where to where a file of the raw events' table has offsets, as its name says."""
    at = parse_key(table.key(file.path))
    assert at is not None  # noqa: S101 (only `archive` and `adopt_objects` name such files)
    return ArchivedRange(
        *(at.partition, at.first, at.following, file.rows, file.day),
        *(table.key(file.path), file.bytes, file.sha256),
    )
