"""The objects of the layout before become files of the table, without being read.

They say themselves which source, range and day they are of. Those of a folder beside the topic's
are copied within the store. What is adopted is committed with the table's progress, so that an
interrupted run is gone on with, and objects with the same offsets (as a restored backup made them)
are adopted once.
"""

import io
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from credit_risk_dagster.domain.lake_rows import SourceKey
from credit_risk_dagster.domain.raw_events import PREFIX, Coordinates, file_name, parse_key, root
from resources.lake import Lake, Stored
from resources.lake_tables import DataFile, LakeTable, application
from resources.parquet_files import StagedFile

ADOPTED = "objects of the layout before"
_FILES_A_COMMIT = 500
_REQUESTS = 16


@dataclass(frozen=True)
class _Object:
    at: Coordinates
    stored: Stored
    source: SourceKey


def adopt_objects(table: LakeTable, topic: str, log: logging.Logger) -> int:
    """Add a topic's objects of the layout before to its table, once; returns how many.

    Raises:
        LakeUnavailable, LakeRefused.
        LakeMoved: another run does the same.
    """
    if table.create().transaction(ADOPTED) is not None:
        return 0
    adopted = 0
    found = sorted(
        _objects(table.lake, topic),
        key=lambda it: (str(it.source), it.at.partition, it.at.first, -it.at.following),
    )
    for (source, partition), objects in groupby(found, key=lambda it: (it.source, it.at.partition)):
        adopted += _adopt(table, source, partition, list(objects))
        log.info("adopted the objects of %s, partition %d", source, partition)
    table.commit([], {ADOPTED: (None, 1)}, said={"run": ADOPTED})
    return adopted


def _objects(lake: Lake, topic: str) -> Iterator[_Object]:
    keys = {
        key: at
        for prefix in (f"{root(topic)}/dt=", f"{PREFIX}/{topic}@")
        for key in lake.sizes(prefix)
        if (at := parse_key(key))
    }
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for at, stored in zip(keys.values(), pool.map(lake.find, keys), strict=True):
            said = stored.labels if stored else {}
            if stored and said.get("topic") == topic:
                epoch = int(said["epoch"])
                key = SourceKey(said["cluster-id"], said.get("topic-id"), epoch)
                yield _Object(at, stored, key)


def _adopt(table: LakeTable, source: SourceKey, partition: int, objects: list[_Object]) -> int:
    """Commit one partition's objects, as far as the table does not have their offsets."""
    name = application(source, partition)
    known = table.create().transaction(name)
    position = known
    chunk: list[tuple[DataFile, str]] = []
    adopted = 0
    for it in objects:
        if position is not None and it.at.following <= position:
            continue
        if position is not None and it.at.first < position:
            chunk.append(_rest(table, it, position))
        else:
            chunk.append(_as_it_is(table, it))
        position = it.at.following
        adopted += 1
        if len(chunk) == _FILES_A_COMMIT:
            table.commit(chunk, {name: (known, position)}, said={"run": ADOPTED})
            chunk, known = [], position
    if chunk and position is not None:
        table.commit(chunk, {name: (known, position)}, said={"run": ADOPTED})
    return adopted


def _as_it_is(table: LakeTable, it: _Object) -> tuple[DataFile, str]:
    at, key = it.at, it.stored.key
    if not key.startswith(f"{table.root}/"):
        name = file_name(it.source, at.partition, at.first, at.following)
        copied = f"{table.root}/day={at.day.isoformat()}/{name}-{it.stored.sha256}.parquet"
        table.lake.copy(key, copied)
        key = copied
    rows = int(it.stored.labels["rows"])
    file = DataFile(
        *(key.removeprefix(f"{table.root}/"), it.stored.bytes, rows, at.day),
        *(str(it.source), it.source.epoch, datetime.now(UTC)),
    )
    low: dict[str, Any] = {"partition": at.partition, "offset": at.first}
    high = {"partition": at.partition, "offset": at.following - 1}
    bounds = {"minValues": low, "maxValues": high, "tightBounds": False}
    return file, json.dumps({"numRecords": rows, **bounds})


def _rest(table: LakeTable, it: _Object, position: int) -> tuple[DataFile, str]:
    """A file with those rows of an object that another one does not have."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with io.BytesIO() as content, io.BytesIO() as rest:
        table.lake.get(it.stored.key, content)
        rows = pq.read_table(content)
        rows = rows.filter(pc.greater_equal(rows["offset"], position)).combine_chunks()
        pq.write_table(rows, rest, compression="zstd")
        staged = StagedFile(it.at.day, rest)
        for batch in rows.to_batches():
            staged.count(batch)
        name = file_name(it.source, it.at.partition, position, it.at.following)
        return table.upload(staged, it.source, name)
