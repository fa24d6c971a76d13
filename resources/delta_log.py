"""How far the writers of a Delta table are, and when its versions were committed, by its log.

`deltalake` answers for one application at a time, and reads for each all that was committed since
the last checkpoint. The format: https://github.com/delta-io/delta/blob/master/PROTOCOL.md, sections
"Transaction Identifiers", "Checkpoints" and "Last Checkpoint File".
"""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from io import BytesIO
from typing import Any

from resources.lake import Lake, ObjectMissing

_REQUESTS = 8
_CHECKPOINT = re.compile(r"/(\d{20})\.checkpoint\.parquet$")
_ENTRY = re.compile(r"/(\d{20})\.json$")


class Transactions:
    """What each application last committed; what was read is not read again.

    Args:
        lake: the bucket.
        log: prefix of the log's keys, with the slash.
    """

    def __init__(self, lake: Lake, log: str) -> None:
        self._lake = lake
        self._log = log
        self._at = -1
        self._found: dict[str, int] = {}

    def until(self, version: int) -> Mapping[str, int]:
        """By application, as of a version of the table.

        Raises:
            LakeUnavailable, LakeRefused.
            ObjectMissing: the log has been cleaned up to beyond the version.
        """
        if not 0 <= self._at <= version:
            self._begin(version)
        try:
            self._go_on(version)
        except ObjectMissing:  # cleaned meanwhile, up to a later checkpoint
            self._begin(version)
            self._go_on(version)
        return dict(self._found)

    def kept(self, newest: int) -> list[int]:
        """The versions that the log has still, up to the newest one.

        Raises:
            LakeUnavailable, LakeRefused.
        """
        found = map(_ENTRY.search, self._lake.sizes(self._log))
        return sorted(at for it in found if it and (at := int(it[1])) <= newest)

    def by(self, moment: datetime, kept: Sequence[int]) -> int | None:
        """The last of these versions that was committed by a time, to the millisecond; S3 tells
        the times of objects in seconds.

        Raises:
            ObjectMissing, LakeUnavailable, LakeRefused.
        """
        found = bisect_right(kept, moment.timestamp() * 1000, key=self._committed_at)
        return kept[found - 1] if found else None

    def _begin(self, version: int) -> None:
        start = self._checkpoint(version)
        self._found = {} if start is None else self._read_checkpoint(start)
        self._at = -1 if start is None else start

    def _go_on(self, version: int) -> None:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            for moved in pool.map(self._read_entry, range(self._at + 1, version + 1)):
                self._found |= moved
        self._at = version

    def _checkpoint(self, version: int) -> int | None:
        """The last one that is not beyond a version."""
        try:
            last = int(json.loads(self._get("_last_checkpoint"))["version"])
        except ObjectMissing:
            return None
        if last <= version:
            return last
        found = map(_CHECKPOINT.search, self._lake.sizes(self._log))
        return max((at for it in found if it and (at := int(it[1])) <= version), default=None)

    def _read_checkpoint(self, version: int) -> dict[str, int]:
        import pyarrow.parquet as pq

        content = BytesIO(self._get(f"{version:020}.checkpoint.parquet"))
        rows = pq.read_table(content, columns=["txn"])["txn"].drop_null()
        return {row["appId"]: row["version"] for row in rows.to_pylist()}

    def _read_entry(self, version: int) -> dict[str, int]:
        return {txn["appId"]: txn["version"] for txn in self._actions(version, "txn")}

    def _committed_at(self, version: int) -> int:
        return max(int(info["timestamp"]) for info in self._actions(version, "commitInfo"))

    def _actions(self, version: int, kind: str) -> list[dict[str, Any]]:
        actions = map(json.loads, self._get(f"{version:020}.json").splitlines())
        return [action[kind] for action in actions if kind in action]

    def _get(self, name: str) -> bytes:
        content = BytesIO()
        self._lake.get(f"{self._log}{name}", content)
        return content.getvalue()
