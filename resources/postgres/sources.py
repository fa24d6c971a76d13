"""The sources: a topic of a cluster, in one of its epochs."""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from credit_risk_dagster.domain.lake_rows import SourceKey
from credit_risk_dagster.errors import PlatformError
from resources.kafka.errors import TopicReplaced
from resources.kafka.watch import TopicState
from resources.postgres.micro_batch import Ledger


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

    @property
    def key(self) -> SourceKey:
        """What the lake calls it."""
        return SourceKey(self.cluster_id, self.topic_id, self.epoch)


class Sources:
    """The sources of which something was committed, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def newest(self, cluster_id: str, topic: str) -> Source | None:
        """The newest epoch of a topic, whatever became of the topic itself."""
        with self._connection.cursor(row_factory=class_row(Source)) as cursor:
            return cursor.execute(
                "SELECT source_id, cluster_id, topic, topic_id, epoch FROM sources"
                " WHERE cluster_id = %(cluster_id)s AND topic = %(topic)s ORDER BY epoch DESC"
                " LIMIT 1",
                {"cluster_id": cluster_id, "topic": topic},
            ).fetchone()

    def find(self, topic: TopicState) -> Source | None:
        """The newest epoch of the topic; None when nothing of it was ever processed.

        Raises:
            TopicReplaced: the topic was deleted and created again since.
        """
        source = self.newest(topic.cluster_id, topic.topic)
        if source and source.topic_id and topic.topic_id and source.topic_id != topic.topic_id:
            committed = Ledger(self._connection).progress(source.source_id)
            at = "; ".join(
                f"partition {p.partition} committed {p.next_offset}, now ends at "
                f"{topic.offsets.get(p.partition, (0, 0))[1]}"
                for p in committed
            )
            raise TopicReplaced(
                f"topic {topic.topic} on cluster {topic.cluster_id} was deleted and created again "
                f"({at}). Nothing was skipped. When that is intended, `credit-risk topic new-epoch`"
                " starts over with the topic as it is now",
                topic.identity,
            )
        return source

    def register(self, topic: TopicState) -> Source:
        """The newest epoch of the topic, created when it is seen for the first time.

        Raises:
            TopicReplaced: as `find`.
        """
        source = self.find(topic)
        if source is None:
            self._connection.execute(
                "INSERT INTO sources (cluster_id, topic, topic_id) VALUES (%(cluster_id)s,"
                " %(topic)s, %(topic_id)s)"
                " ON CONFLICT DO NOTHING",
                {"cluster_id": topic.cluster_id, "topic": topic.topic, "topic_id": topic.topic_id},
            )
            source = self.find(topic)
            assert source is not None  # noqa: S101 (just inserted, and sources are never deleted)
        return source

    def adopt(self, source: Source) -> None:
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
        if source not in self.all():
            raise SourceMismatch(
                f"source {source.source_id} is another one here than topic {source.topic} of "
                f"cluster {source.cluster_id}, epoch {source.epoch}: name a fresh schema"
            )

    def all(self) -> list[Source]:
        """Every source of which something was committed."""
        with self._connection.cursor(row_factory=class_row(Source)) as cursor:
            return cursor.execute(
                "SELECT source_id, cluster_id, topic, topic_id, epoch FROM sources"
                " ORDER BY source_id"
            ).fetchall()

    def renumber(self, source_id: int, epoch: int) -> None:
        """Give a source the number of its epoch that others go by."""
        self._connection.execute(
            "UPDATE sources SET epoch = %(epoch)s WHERE source_id = %(source_id)s",
            {"source_id": source_id, "epoch": epoch},
        )

    def new_epoch(self, topic: TopicState) -> int:
        """Start over with the topic as the broker has it now; returns the new epoch's number."""
        row = self._connection.execute(
            "INSERT INTO sources (cluster_id, topic, topic_id, epoch)"
            " SELECT %(cluster)s, %(topic)s, %(topic_id)s, coalesce(max(epoch) + 1, 0)"
            " FROM sources WHERE cluster_id = %(cluster)s AND topic = %(topic)s RETURNING epoch",
            {"cluster": topic.cluster_id, "topic": topic.topic, "topic_id": topic.topic_id},
        ).fetchone()
        return int(row[0]) if row else 0
