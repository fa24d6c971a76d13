"""Frozen baselines of drift, and which one is active."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import numpy as np
import psycopg
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from credit_risk_dagster.domain.drift.baseline import FEATURES, Baseline, Reference
from credit_risk_dagster.domain.policy import TIERS
from credit_risk_dagster.errors import PlatformError
from resources.postgres.approvals import Approvals


class NoSuchBaseline(PlatformError):
    """There is no baseline of that id."""


@dataclass(frozen=True)
class StoredBaseline:
    """A baseline without its features."""

    baseline_id: int
    name: str
    created_at: datetime
    activated_at: datetime | None
    retired_at: datetime | None
    source_id: int | None
    origin: str
    rows: int
    rejected: int
    content_hash: str

    @property
    def active(self) -> bool:
        return self.activated_at is not None and self.retired_at is None


class Baselines:
    """The baselines, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def all(self) -> list[StoredBaseline]:
        """Every baseline, the oldest first."""
        with self._connection.cursor(row_factory=class_row(StoredBaseline)) as cursor:
            return cursor.execute(_BASELINES + " ORDER BY baseline_id").fetchall()

    def active(self) -> StoredBaseline | None:
        """The baseline that windows are compared with; None before there is one."""
        with self._connection.cursor(row_factory=class_row(StoredBaseline)) as cursor:
            return cursor.execute(
                _BASELINES + " WHERE baseline_id = %(active)s",
                {"active": Approvals(self._connection, "baseline").active()},
            ).fetchone()

    def get(self, baseline_id: int) -> Baseline:
        """A baseline with its features.

        Raises:
            NoSuchBaseline: there is none of that id.
        """
        with self._connection.cursor(row_factory=dict_row) as cursor:
            stored = cursor.execute(
                "SELECT origin, rows, rejected, tiers, tier_counts FROM drift_baselines"
                " WHERE baseline_id = %(baseline_id)s",
                {"baseline_id": baseline_id},
            ).fetchone()
            features = cursor.execute(
                "SELECT feature, kind, edges, categories, counts, support, support_counts, mean,"
                " median FROM drift_baseline_features WHERE baseline_id = %(baseline_id)s",
                {"baseline_id": baseline_id},
            ).fetchall()
        if stored is None:
            raise _no_such(baseline_id)
        tiers = dict(zip(stored["tiers"], stored["tier_counts"], strict=True))
        by_name = {row["feature"]: _reference(row) for row in features}
        return Baseline(
            origin=stored["origin"],
            rows=stored["rows"],
            rejected=stored["rejected"],
            tiers=np.array([tiers.get(tier, 0) for tier in TIERS], np.int64),
            references=tuple(by_name[f.name] for f in FEATURES if f.name in by_name),
        )

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A transaction in which nobody else adds or activates a baseline."""
        with self._connection.transaction():
            self._connection.execute(
                "SELECT pg_advisory_xact_lock("
                "hashtextextended(current_schema() || '.drift_baselines', 0))"
            )
            yield

    def add(self, baseline: Baseline, name: str, source_id: int | None) -> tuple[int, bool]:
        """Store a baseline; one with exactly its counts is not stored again.

        Returns:
            The id, and whether it is new.
        """
        known = self._connection.execute(
            "SELECT baseline_id FROM drift_baselines WHERE content_hash = %(content_hash)s",
            {"content_hash": baseline.content_hash},
        ).fetchone()
        if known:
            return int(known[0]), False
        row = self._connection.execute(
            "INSERT INTO drift_baselines (name, source_id, origin, rows, rejected, tiers,"
            " tier_counts, content_hash) VALUES (%(name)s, %(source_id)s, %(origin)s, %(rows)s,"
            " %(rejected)s, %(tiers)s, %(counts)s, %(content_hash)s)"
            " RETURNING baseline_id",
            {
                "name": name,
                "source_id": source_id,
                "origin": baseline.origin,
                "rows": baseline.rows,
                "rejected": baseline.rejected,
                "tiers": list(TIERS),
                "counts": baseline.tiers.tolist(),
                "content_hash": baseline.content_hash,
            },
        ).fetchone()
        assert row is not None  # noqa: S101
        with self._connection.cursor() as cursor:
            cursor.executemany(
                _INSERT_REFERENCE,
                [_reference_row(int(row[0]), reference) for reference in baseline.references],
            )
        return int(row[0]), True

    def activate(self, baseline_id: int, why: str) -> None:
        """Compare with this baseline from now on.

        Raises:
            NotInOrder: it is not the first one, and nobody other than its author approved it; or
                there is none of that id.
        """
        Approvals(self._connection, "baseline").record(baseline_id, "activate", why)

    def stream_columns(self, baseline_id: int) -> dict[str, Any] | None:
        """What the raw events looked like when this baseline first met them."""
        row = self._connection.execute(
            "SELECT stream_columns FROM drift_baselines WHERE baseline_id = %(baseline_id)s",
            {"baseline_id": baseline_id},
        ).fetchone()
        return row[0] if row else None

    def set_stream_columns(self, baseline_id: int, columns: Mapping[str, Any] | None) -> None:
        """Record it; None forgets it, so that the next look records what it finds."""
        self._connection.execute(
            "UPDATE drift_baselines SET stream_columns = %(columns)s WHERE baseline_id ="
            " %(baseline_id)s",
            {"columns": None if columns is None else Jsonb(columns), "baseline_id": baseline_id},
        )


def _no_such(baseline_id: int) -> NoSuchBaseline:
    return NoSuchBaseline(
        f"there is no baseline {baseline_id}: `credit-risk baseline ls` lists them"
    )


_BASELINES: LiteralString = """
SELECT baseline_id, name, created_at, effective_from AS activated_at, effective_to AS retired_at,
    source_id, origin, rows, rejected, content_hash
FROM drift_baselines LEFT JOIN LATERAL (
    SELECT effective_from, effective_to FROM activations
    WHERE kind = 'baseline' AND subject_id = baseline_id ORDER BY effective_from DESC LIMIT 1
) AS last ON true
"""

_INSERT_REFERENCE: LiteralString = """
INSERT INTO drift_baseline_features (baseline_id, feature, kind, edges, categories, shares, counts,
    support, support_counts, mean, median)
VALUES (%(baseline_id)s, %(feature)s, %(kind)s, %(edges)s, %(categories)s, %(shares)s, %(counts)s,
    %(support)s, %(support_counts)s, %(mean)s, %(median)s)
"""


def _reference(row: dict[str, Any]) -> Reference:
    return Reference(
        feature=row["feature"],
        kind=row["kind"],
        counts=np.array(row["counts"], np.int64),
        edges=np.array(row["edges"], np.float64),
        categories=tuple(row["categories"]),
        support=np.array(row["support"], np.float64),
        support_counts=np.array(row["support_counts"], np.int64),
        mean=row["mean"],
        median=row["median"],
    )


def _reference_row(baseline_id: int, reference: Reference) -> dict[str, Any]:
    row = {**vars(reference), "baseline_id": baseline_id, "shares": reference.shares}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in (row | {"categories": list(reference.categories)}).items()
    }
