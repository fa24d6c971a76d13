"""How files of the raw events' table are called: each has a range of a partition's offsets."""

import re
from dataclasses import dataclass
from datetime import date

from credit_risk_dagster.domain.lake_rows import SourceKey

PREFIX = "raw_events"
_KEY = re.compile(
    PREFIX + r"/[^/]+/(?:dt|day)=(\d{4}-\d\d-\d\d)/(?:[0-9a-f]{8}/)?p(\d+)/(\d+)-(\d+)"
    r"(?:-([0-9a-f]{64}))?\.parquet"
)


def root(topic: str) -> str:
    """Prefix of the keys of a topic's table, without the slash."""
    return f"{PREFIX}/{topic}"


def file_name(source: SourceKey, partition: int, first: int, following: int) -> str:
    """How a file of the table is called below its day, before its checksum."""
    return f"{source.short}/p{partition}/{first}-{following - 1}"


@dataclass(frozen=True)
class Coordinates:
    """What a key says of its object."""

    day: date
    partition: int
    first: int
    following: int
    sha256: str | None


def parse_key(key: str) -> Coordinates | None:
    """What a key says, also one of the layout before; None for a key of something else."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    day, partition, first, last, sha256 = found.groups()
    ends = int(first), int(last) + 1
    return Coordinates(date.fromisoformat(day), int(partition), *ends, sha256)
