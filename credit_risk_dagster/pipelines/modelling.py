"""Models from end to end: a sample, training, the benchmark, what is stored, and activation."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.decoding import ACCEPTED, DecodedEvents, Event
from credit_risk_dagster.domain.features import Feature, FeatureRefused, Purpose
from credit_risk_dagster.domain.model.additive import Additive, Effect
from credit_risk_dagster.domain.model.benchmark import BASELINE, Benchmark, Subject, benchmark
from credit_risk_dagster.domain.model.development import freeze_sample
from credit_risk_dagster.domain.model.gate import objections
from credit_risk_dagster.domain.model.observed import exposure
from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.domain.model.sample import (
    COLUMNS,
    Loans,
    Sample,
    first_decisions,
    make_sample,
)
from credit_risk_dagster.domain.model.training import (
    LEAKAGE_AUC,
    Trained,
    dump,
    feature_aucs,
    kinds,
    train,
)
from credit_risk_dagster.domain.model.vintages import Vintage, vintages
from credit_risk_dagster.domain.outcomes import OBSERVED_WHEN, observed_when
from credit_risk_dagster.domain.pd import Coefficients, PdModel, probability
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.policies import require
from resources.lake import Lake, LakeRefused, LakeUnavailable, ObjectMissing
from resources.postgres.connection import Warehouse
from resources.postgres.models import ModelStore, NewModel, StoredModel
from resources.postgres.outcomes import Earlier, Outcomes
from resources.postgres.risk_reports import add_report

if TYPE_CHECKING:
    from credit_risk_dagster.pipelines.loan_files import LoanFile

SCORED, BUILTIN = "scored", "builtin"
_CHUNK_LOANS = 50_000


class SampleUnavailable(PlatformError):
    """A sample that cannot be read as one; the message says why."""


class LeakingFeature(PlatformError):
    """A feature that separates good from bad too well to have been known at the decision."""


class ActivationRefused(PlatformError):
    """A model that must not score the stream; the message says what its benchmark lacks."""


@dataclass(frozen=True)
class Modelling:
    """Models that were trained on a sample, and their benchmark; nothing is stored yet.

    Attributes:
        purpose: what the models may be for; see `select_features`.
    """

    sample: Sample
    features: tuple[Feature, ...]
    seed: int
    trained: tuple[Trained, ...]
    benchmark: Benchmark
    purpose: Purpose = "benchmark"

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The baseline's coefficients as odds ratios."""
        baseline: Additive = self.trained[0].estimator
        return baseline.effects

    def objections(self) -> dict[str, list[str]]:
        """Of each kind that can score the stream, what the gate has against it."""
        return {
            trained.kind: objections(
                _row(self, self.benchmark.subject(trained.kind)), trained.estimator.coefficients
            )
            for trained in self.trained
            if isinstance(trained.estimator, Additive)
        }


@dataclass(frozen=True)
class Stored:
    """Ids under which a benchmark and its models are stored, the models by kind."""

    benchmark_id: int
    models: dict[str, int]


# --- the sample ---------------------------------------------------------------------------------


def load_sample(
    source: "str | LoanFile",
    outcome: Outcome,
    policy: Policy,
    warehouse: Warehouse | None,
    max_rows: int,
    open_lake: Callable[[], Lake] | None = None,
) -> Sample:
    """The loans with an outcome; arguments and errors as of `read_loans`.

    Raises:
        SampleTooSmall: there are too few good or bad loans.
    """
    return make_sample(outcome, read_loans(source, policy, warehouse, max_rows, open_lake))


def read_loans(
    source: "str | LoanFile",
    policy: Policy,
    warehouse: Warehouse | None,
    max_rows: int,
    open_lake: Callable[[], Lake] | None = None,
) -> Loans:
    """Loans as their first decision saw them, and what became of them.

    Args:
        source: see `sample_source`.
        policy: cleans with its scoring; the sample does not depend on its thresholds.
        warehouse: for `SCORED`.
        max_rows: most loans that are read.
        open_lake: where the first decisions are that retention dropped.

    Raises:
        SampleUnavailable, LoansUnavailable: the source is none, or has no outcomes; or first
            decisions were dropped, and the lake cannot be asked.
        WarehouseUnavailable, NotMigrated: as their names say.
    """
    if source == SCORED:
        if warehouse is None:
            raise SampleUnavailable("the scored applications need a database")
        earlier = _dropped(warehouse, open_lake)
        with warehouse.session("model") as connection, connection.transaction():
            return Outcomes(connection).loans(max_rows, earlier)
    from credit_risk_dagster.pipelines.loans import builtin_loans

    if source == BUILTIN:
        return first_decisions(source, _cleaned(builtin_loans(), policy, max_rows))
    if isinstance(source, str):
        source = sample_file(source)
    return first_decisions(source.name, _cleaned(source, policy, max_rows))


def _dropped(warehouse: Warehouse, open_lake: Callable[[], Lake] | None) -> Earlier | None:
    """The first decisions that retention dropped: a loan that came again would count by its later
    one, and one that did not, not at all."""
    from credit_risk_dagster.pipelines.dropped_decisions import dropped_decisions

    with warehouse.session("model") as connection, connection.transaction():
        outcomes = Outcomes(connection)
        if not (dropped := outcomes.dropped()):
            return None
        loans, undecided = pc.unique(outcomes.observed()["loan_id"]), len(outcomes.undecided())
    try:
        if open_lake is None:
            raise SampleUnavailable("no bucket is configured")
        return dropped_decisions(open_lake(), dropped, loans)
    except (SampleUnavailable, LakeUnavailable, LakeRefused, ObjectMissing) as error:
        until = max(source.until for source in dropped)
        raise SampleUnavailable(
            f"retention dropped what was decided before {until:%Y-%m-%d}, of {undecided:,} loans "
            f"with an outcome the only decision, and the lake cannot be asked for it: {error}"
        ) from error


def vintages_of(loans: Loans, outcome: Outcome) -> list[Vintage]:
    """How the loans of each month went bad as they grew older; see `vintages`."""
    watched = exposure(outcome, loans.keys, loans.decided, loans.observed)
    return vintages(loans.decided, watched)


def store_vintages(
    warehouse: Warehouse, name: str, outcome: Outcome, found: Sequence[Vintage], run_id: str
) -> None:
    """Store them, for the dashboard.

    Raises:
        WarehouseUnavailable, NotMigrated: as their names say.
    """
    document = {"outcome": outcome.version, "vintages": [asdict(vintage) for vintage in found]}
    with warehouse.session("model") as connection:
        add_report(connection, "vintages", name, document, run_id)


def sample_source(name: str, *, skip_bad: bool) -> "str | LoanFile":
    """Where a sample's loans are: `SCORED`, the newest rows of scored_applications; `BUILTIN`, the
    10,000 built-in loans; or the LendingClub CSV of that path.

    Args:
        skip_bad: leave out its damaged rows.

    Raises:
        SampleUnavailable, LoansUnavailable: as `load_sample`.
    """
    return name if name in (SCORED, BUILTIN) else sample_file(name, skip_bad=skip_bad)


def sample_file(source: str, *, skip_bad: bool = False) -> "LoanFile":
    """The CSV that a sample's name means.

    Args:
        skip_bad: leave out its damaged rows.

    Raises:
        SampleUnavailable, LoansUnavailable: as `load_sample`.
    """
    from credit_risk_dagster.pipelines.loan_files import csv_loans

    path = Path(source)
    if not path.suffix and not os.path.exists(path):
        raise SampleUnavailable(
            f"there is no sample {source!r}: take {SCORED}, {BUILTIN}, or a LendingClub CSV"
        )
    return csv_loans(path, skip_bad=skip_bad)


def _cleaned(loans: Iterable[Any], policy: Policy, max_rows: int) -> pa.Table:
    """Raw loans by the stream's own cleaning; those that it would reject are left out."""
    batches = list(_clean_chunks(iter(islice(loans, max_rows)), policy))
    if not any(batch["loan_status"].null_count < len(batch) for batch in batches):
        raise SampleUnavailable("the loans have no loan_status, so nobody knows how they went")
    return pa.Table.from_batches(batches)


def _clean_chunks(loans: Iterator[Any], policy: Policy) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(loans, _CHUNK_LOANS)):
        columns: dict[str, Sequence[Any]] = {
            name: [row.get(name) for row in chunk] for name in Event.__struct_fields__
        }
        events = DecodedEvents(columns, None, np.full(len(chunk), ACCEPTED, dtype=np.int16))
        found = assess(events, policy)
        when = [observed_when(chunk[at].get(OBSERVED_WHEN)) for at in found.scored_at]
        scored = found.scored.select([*COLUMNS, "loan_status"])
        yield scored.append_column("observed_at", pa.array(when, pa.timestamp("us", "UTC")))


# --- training and measuring ---------------------------------------------------------------------


def check_features(sample: Sample, features: Sequence[Feature]) -> dict[str, float]:
    """The AUC of each feature alone.

    Raises:
        FeatureRefused: one has no value in the whole sample.
        LeakingFeature: the AUC of one is above 0.95.
    """
    empty = [f.name for f in features if sample.rows[f.name].null_count == len(sample)]
    if empty:
        raise FeatureRefused(
            f"{', '.join(empty)} is missing for every loan of sample {sample.name}: remove it from "
            "the features"
        )
    aucs = feature_aucs(sample, features)
    leaks = [f"{name} ({auc:.3f})" for name, auc in aucs.items() if auc > LEAKAGE_AUC]
    if leaks:
        raise LeakingFeature(
            f"alone, {', '.join(leaks)} separates good from bad with an AUC above {LEAKAGE_AUC}: "
            "it was filled in after the decision; remove it from the features"
        )
    return aucs


def model(
    sample: Sample,
    features: tuple[Feature, ...],
    policy: Policy,
    seed: int,
    log: logging.Logger,
    purpose: Purpose = "benchmark",
) -> Modelling:
    """Train every kind of model, and measure them and the policy's rules.

    Raises:
        FeatureRefused, LeakingFeature: as `check_features`.
    """
    check_features(sample, features)
    baseline, *challengers = kinds()
    log.info("training on %d loans, %d of them bad", len(sample), sample.bads)
    trained = [train(baseline, sample, features, seed)]
    for kind in challengers:
        try:
            trained.append(train(kind, sample, features, seed))
        except Exception as error:  # noqa: BLE001 (whatever it is, the baseline stands without it)
            log.warning("no %s: %s: %s", kind.name, type(error).__name__, error)
    return Modelling(
        sample,
        features,
        seed,
        tuple(trained),
        benchmark(sample, policy, trained, features, seed),
        purpose,
    )


def store(warehouse: Warehouse, found: Modelling, run_id: str) -> Stored:
    """Store models and benchmark. A model that was trained before keeps its id.

    Raises:
        WarehouseUnavailable, NotMigrated: as their names say.
    """
    with warehouse.session("model") as connection, connection.transaction():
        models = ModelStore(connection)
        ids = {
            trained.kind: models.add_model(_new_model(found, trained, run_id))
            for trained in found.trained
        }
        curves = {
            (subject.name, curve): points
            for subject in found.benchmark.subjects
            for curve, points in subject.evaluation.curves.items()
        }
        rows = [
            {**_row(found, subject), "run_id": run_id, "model_id": ids.get(subject.name)}
            for subject in found.benchmark.subjects
        ]
        return Stored(models.add_benchmark(rows, curves), ids)


def _row(found: Modelling, subject: Subject) -> dict[str, Any]:
    """A row of `model_benchmarks`, without what storing it adds."""
    measured = found.benchmark
    return {
        **_of_sample(found.sample),
        **subject.row(),
        "policy": measured.policy,
        "verdict": measured.verdict,
        "left_out": found.sample.left_out,
    }


def _of_sample(sample: Sample) -> dict[str, Any]:
    return {
        "outcome": sample.outcome,
        "sample": sample.name,
        "sample_hash": sample.content_hash,
        "rows": len(sample),
        "bads": sample.bads,
    }


def _new_model(found: Modelling, trained: Trained, run_id: str) -> NewModel:
    names = [feature.name for feature in found.features]
    code_version = version("credit-risk-platform")
    made_from = {
        "kind": trained.kind,
        "outcome": found.sample.outcome,
        "purpose": found.purpose,
        "features": names,
        "sample": found.sample.content_hash,
        "seed": found.seed,
        "code": code_version,
        "scikit-learn": version("scikit-learn"),
        # What it came to: code and libraries also change without their version.
        "out of fold": hashlib.sha256(trained.out_of_fold.tobytes()).hexdigest(),
    }
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    subject = found.benchmark.subject(trained.kind)
    evaluation = subject.evaluation
    scores = trained.estimator.coefficients if isinstance(trained.estimator, Additive) else None
    effects = [asdict(e) for e in found.effects] if trained.kind == BASELINE else None
    return NewModel(
        **_of_sample(found.sample),
        run_id=run_id,
        kind=trained.kind,
        purpose=found.purpose,
        version=f"{trained.kind}@{digest[:12]}",
        features=names,
        seed=found.seed,
        code_version=code_version,
        metrics={
            "auc": evaluation.auc,
            "auc_low": evaluation.auc_low,
            "auc_high": evaluation.auc_high,
            "gini": evaluation.gini,
            "ks": evaluation.ks,
            "brier": evaluation.brier,
            "out_of_time": subject.out_of_time and asdict(subject.out_of_time),
            "effects": effects,
            "development": scores and _development(found.sample, names, scores),
        },
        artifact=dump(trained.estimator),
        coefficients=scores,
    )


def _development(
    sample: Sample, names: Sequence[str], coefficients: Coefficients
) -> dict[str, Any]:
    """The sample as bins of the features and of the score, for `stability`."""
    score = probability(PdModel(0, "", coefficients).log_odds(sample.rows)[0])
    return freeze_sample(sample.rows, names, pa.array(score))


# --- the active model ---------------------------------------------------------------------------


def activate(warehouse: Warehouse, model_id: int, why: str) -> StoredModel:
    """Let a model score the stream from now on.

    Its newest benchmark is the gate; see `objections`.

    Raises:
        ActivationRefused: it is of a kind that cannot score the stream, or was not measured, or its
            benchmark speaks against it.
        ModelMissing: there is none of that id.
        ModelUnreadable: its coefficients are damaged.
        NotInOrder: nobody other than its author approved it.
        NotPermitted, WarehouseUnavailable, NotMigrated: as their names say.
    """
    with warehouse.session("model") as connection:
        require(connection, "approve")
        models = ModelStore(connection)
        found = models.model(model_id)
        if not found.can_score:
            raise ActivationRefused(
                f"model {model_id} is a challenger ({found.kind}) and cannot score the stream: "
                "activate a logistic one or a scorecard"
            )
        if against := _objections(models, model_id):
            raise ActivationRefused(f"model {model_id} stays out: {'; '.join(against)}")
        models.activate(model_id, why)
        return models.model(model_id)


def gate(warehouse: Warehouse, model_id: int) -> list[str]:
    """What speaks against letting a model score the stream; see `objections`.

    Raises:
        ModelMissing, ModelUnreadable, WarehouseUnavailable, NotMigrated: as of `activate`.
    """
    with warehouse.session("model") as connection:
        return _objections(ModelStore(connection), model_id)


def _objections(models: ModelStore, model_id: int) -> list[str]:
    scorer, measured = models.scorer(model_id), models.benchmark_of(model_id)
    assert scorer is not None  # noqa: S101 (of an id, there is one or an error)
    return objections(measured, scorer.coefficients) if measured else ["it has no benchmark"]


def chosen_model(warehouse: Warehouse, choice: str) -> PdModel | None:
    """A model by choice: `active` (None when none is), `none`, or an id.

    Raises:
        ModelMissing, ModelUnreadable: as `ModelStore.scorer`; and when the choice is none of these.
        WarehouseUnavailable, NotMigrated: as their names say.
    """
    if choice == "none":
        return None
    if choice != "active" and not choice.isdecimal():
        raise PlatformError(f"{choice!r} is no model: say active, none or an id")
    with warehouse.session("model") as connection:
        return ModelStore(connection).scorer(None if choice == "active" else int(choice))
