"""Models and benchmarks in Postgres: every version that was trained, and which one is active."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from credit_risk_dagster.domain.pd import (
    Coefficients,
    ModelUnreadable,
    PdModel,
    read_coefficients,
)
from credit_risk_dagster.errors import PlatformError
from resources.postgres.approvals import Approvals


class ModelMissing(PlatformError):
    """There is no model of that id."""


class ModelMismatch(PlatformError):
    """Two schemas mean different models by the same id."""


@dataclass(frozen=True)
class NewModel:
    """What is stored of a model; see the table's comments."""

    kind: str
    version: str
    run_id: str
    outcome: str
    purpose: str
    features: Sequence[str]
    sample: str
    sample_hash: str
    seed: int
    rows: int
    bads: int
    code_version: str
    metrics: Mapping[str, Any]
    artifact: bytes
    coefficients: Coefficients | None


@dataclass(frozen=True)
class StoredModel:
    """A stored model, without its artifact; `activated_at` and `retired_at` are of the last time
    that it was active, as `approvals` has them all."""

    model_id: int
    kind: str
    version: str
    created_at: datetime
    activated_at: datetime | None
    retired_at: datetime | None
    outcome: str
    purpose: str
    features: list[str]
    sample: str
    rows: int
    bads: int
    code_version: str
    metrics: dict[str, Any]
    can_score: bool

    @property
    def active(self) -> bool:
        return self.activated_at is not None and self.retired_at is None


_STORED = (
    "SELECT model_id, m.kind, version, created_at, effective_from AS activated_at,"
    " effective_to AS retired_at, outcome, purpose, features, sample, rows, bads, code_version,"
    " metrics, coefficients IS NOT NULL AS can_score FROM models m LEFT JOIN LATERAL ("
    "SELECT effective_from, effective_to FROM activations WHERE kind = 'model'"
    " AND subject_id = model_id ORDER BY effective_from DESC LIMIT 1) AS last ON true"
)


class ModelStore:
    """Models and benchmarks, over one connection of `Warehouse.session`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    # --- models ---------------------------------------------------------------------------------

    def models(self) -> list[StoredModel]:
        """Every model, the newest first."""
        with self._connection.cursor(row_factory=class_row(StoredModel)) as cursor:
            return cursor.execute(f"{_STORED} ORDER BY model_id DESC").fetchall()

    def model(self, model_id: int) -> StoredModel:
        """A model. Raises ModelMissing."""
        with self._connection.cursor(row_factory=class_row(StoredModel)) as cursor:
            found = cursor.execute(
                f"{_STORED} WHERE model_id = %(model_id)s", {"model_id": model_id}
            ).fetchone()
        if found is None:
            raise ModelMissing(f"there is no model {model_id}: see `credit-risk model ls`")
        return found

    def add_model(self, model: NewModel) -> int:
        """Store a model; the id of the stored one when it was trained before."""
        row = self._connection.execute(
            _ADD_MODEL,
            {
                **vars(model),
                "features": list(model.features),
                "metrics": Jsonb(model.metrics),
                "coefficients": model.coefficients and model.coefficients.to_json().decode(),
            },
        ).fetchone()
        assert row is not None  # noqa: S101 (inserted, or there already)
        return int(row[0])

    def artifact(self, model_id: int) -> bytes:
        """The fitted model's file. Raises ModelMissing."""
        row = self._connection.execute(
            "SELECT artifact FROM models WHERE model_id = %(model_id)s", {"model_id": model_id}
        ).fetchone()
        if row is None:
            raise ModelMissing(f"there is no model {model_id}: see `credit-risk model ls`")
        return bytes(row[0])

    def active_scorer(self) -> tuple[PdModel | None, str | None]:
        """The active model, and why it cannot be used. Scoring goes on without it."""
        try:
            return self.scorer(), None
        except (ModelMissing, ModelUnreadable) as error:
            return None, str(error)

    def scorer(self, model_id: int | None = None) -> PdModel | None:
        """A model, ready to score; without an id the active one, None when none is active.

        Raises:
            ModelMissing: there is none of that id, or it is of a kind that cannot score the stream.
            ModelUnreadable: its coefficients are damaged, or the table cannot be read.
        """
        try:
            row = self._connection.execute(_SCORER, {"model_id": model_id}).fetchone()
        except psycopg.ProgrammingError as error:  # no table, no column, no privilege
            raise ModelUnreadable(f"the models cannot be read: {_line(error)}") from error
        if row is None and model_id is None:
            return None
        if row is None or row[2] is None:
            raise ModelMissing(f"model {row[0] if row else model_id} is none that can score")
        return PdModel(row[0], row[1], read_coefficients(row[2]))

    def activate(self, model_id: int, why: str) -> None:
        """Make a model the active one from now on.

        Raises:
            NotInOrder: nobody other than its author approved it.
        """
        Approvals(self._connection, "model").record(model_id, "activate", why)

    def deactivate(self, why: str) -> int | None:
        """Let no model be active; returns the id of the one that was."""
        approvals = Approvals(self._connection, "model")
        active = approvals.active()
        if active is not None:
            approvals.record(active, "retire", why)
        return active

    def adopt(self, schema: str, model: PdModel) -> None:
        """Copy another schema's model under the same id.

        Raises:
            ModelMismatch: this schema has another model of that id.
        """
        columns = sql.SQL(
            "model_id, kind, version, created_at, run_id, outcome, purpose, features, sample,"
            " sample_hash, seed, rows, bads, code_version, metrics, artifact, coefficients"
        )
        self._connection.execute(
            sql.SQL(
                "INSERT INTO models ({columns}) SELECT {columns} FROM {source}"
                " WHERE model_id = %(model_id)s ON CONFLICT DO NOTHING"
            ).format(columns=columns, source=sql.Identifier(schema, "models")),
            {"model_id": model.model_id},
        )
        row = self._connection.execute(
            "SELECT version FROM models WHERE model_id = %(model_id)s", {"model_id": model.model_id}
        ).fetchone()
        if row is None or row[0] != model.version:
            raise ModelMismatch(
                f"model {model.model_id} is another one here than {model.version}: name a fresh "
                "schema"
            )

    # --- benchmarks -----------------------------------------------------------------------------

    def add_benchmark(
        self,
        rows: Iterable[Mapping[str, Any]],
        curves: Mapping[tuple[str, str], tuple[Iterable[float], Iterable[float]]],
    ) -> int:
        """Store a benchmark in one transaction; returns its id.

        Args:
            rows: a row of `model_benchmarks` for each subject, without the benchmark's id and time.
            curves: (subject, curve) to x and y.
        """
        with self._connection.transaction():
            row = self._connection.execute("SELECT nextval('model_benchmark_ids')").fetchone()
            assert row is not None  # noqa: S101
            benchmark_id = int(row[0])
            for subject in rows:
                values = {
                    name: Jsonb(value) if isinstance(value, (dict, list)) else value
                    for name, value in subject.items()
                }
                self._connection.execute(_ADD_BENCHMARK, {**values, "benchmark_id": benchmark_id})
            with self._connection.cursor() as cursor, cursor.copy(_COPY_CURVES) as copy:
                for (name, curve), (xs, ys) in curves.items():
                    for point, (x, y) in enumerate(zip(xs, ys, strict=True)):
                        copy.write_row((benchmark_id, name, curve, point, float(x), float(y)))
        return benchmark_id

    def benchmark_of(self, model_id: int) -> dict[str, Any] | None:
        """The model's row in its newest benchmark."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                "SELECT * FROM model_benchmarks WHERE model_id = %(model_id)s"
                " ORDER BY benchmark_id DESC LIMIT 1",
                {"model_id": model_id},
            ).fetchone()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


_SCORER = """
SELECT model_id, version, coefficients::text FROM models
WHERE model_id = coalesce(%(model_id)s::int, (
    SELECT subject_id FROM activations WHERE kind = 'model' AND effective_from <= clock_timestamp()
        AND (effective_to IS NULL OR effective_to > clock_timestamp())))
"""

_ADD_MODEL = """
WITH added AS (
    INSERT INTO models (
        kind, version, run_id, outcome, purpose, features, sample, sample_hash, seed, rows, bads,
        code_version, metrics, artifact, coefficients
    ) VALUES (
        %(kind)s, %(version)s, %(run_id)s, %(outcome)s, %(purpose)s, %(features)s, %(sample)s,
        %(sample_hash)s, %(seed)s, %(rows)s, %(bads)s, %(code_version)s, %(metrics)s,
        %(artifact)s, %(coefficients)s
    )
    ON CONFLICT (version) DO NOTHING RETURNING model_id
)
SELECT model_id FROM added UNION ALL SELECT model_id FROM models WHERE version = %(version)s
LIMIT 1
"""

_ADD_BENCHMARK = """
INSERT INTO model_benchmarks (
    benchmark_id, subject, created_at, run_id, outcome, sample, sample_hash, policy, rows, bads,
    verdict, model_id, auc, auc_low, auc_high, gini, ks, brier, calibration, gains, tiers,
    out_of_time, comparison, against_price, left_out
) VALUES (
    %(benchmark_id)s, %(subject)s, now(), %(run_id)s, %(outcome)s, %(sample)s, %(sample_hash)s,
    %(policy)s, %(rows)s, %(bads)s, %(verdict)s, %(model_id)s, %(auc)s, %(auc_low)s, %(auc_high)s,
    %(gini)s, %(ks)s, %(brier)s, %(calibration)s, %(gains)s, %(tiers)s, %(out_of_time)s,
    %(comparison)s, %(against_price)s, %(left_out)s
)
"""

_COPY_CURVES = "COPY model_curves (benchmark_id, subject, curve, point, x, y) FROM STDIN"
