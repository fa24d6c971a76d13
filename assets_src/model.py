"""The assets of the statistical model: a sample, the models, and their benchmark with the rules."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
from pydantic import Field

from assets_src.common import (
    OWNERS,
    asset_job,
    check_result,
    kept_fresh,
    one_line_failures,
    op_job,
    scheduled,
    table,
)
from assets_src.source_code import code_version, linked
from credit_risk_dagster.domain.features import FEATURES, PURPOSES, Purpose, select_features
from credit_risk_dagster.domain.model.outcome import load_outcome
from credit_risk_dagster.settings import ModelSettings, Settings
from resources.lake import Lake
from resources.postgres.connection import Warehouse

if TYPE_CHECKING:
    from credit_risk_dagster.domain.model.outcome import Outcome
    from credit_risk_dagster.domain.model.sample import Loans, Sample
    from credit_risk_dagster.pipelines.modelling import Modelling, Stored

_DEFAULTS = ModelSettings.at_load()

ENOUGH_OUTCOMES = dg.AssetCheckSpec(
    "enough_outcomes",
    asset="training_sample",
    description="The sample has enough good and bad loans to train and measure on. If it fails, "
    "nothing was trained: wait for more outcomes, or launch with another sample or outcome.",
)
NO_LEAKAGE = dg.AssetCheckSpec(
    "no_leakage",
    asset="training_sample",
    description="No feature alone separates good from bad with an AUC above 0.95: one that does "
    "was filled in after the decision. If it fails, nothing was trained: launch without it.",
)
FIT = dg.AssetCheckSpec(
    "fit_for_activation",
    asset="risk_model",
    description="What `credit-risk model activate` asks of the newest logistic model's benchmark: "
    "on later loans it ranks better than chance and its PD is a probability, it finds no fewer bad "
    "loans than the rules, and no number moves it against what the field expects. If it fails, the "
    "policy goes on alone; its description says why.",
)


class ModelConfig(dg.Config):
    """What to train on; without any of it, what CREDIT_RISK_MODEL_... say."""

    sample: str = Field(
        default=_DEFAULTS.sample,
        description="scored (the table), builtin (10,000 real loans of 2018), or the path of a "
        "LendingClub CSV on the machine of the run",
    )
    outcome: str = Field(
        default=_DEFAULTS.outcome,
        description="what a bad loan is: early_delinquency (late or worse against current or "
        "paid), matured (charged off or default against paid), or a YAML file",
    )
    features: list[str] = Field(
        default=_DEFAULTS.feature_names, description=f"of: {', '.join(FEATURES)}"
    )
    purpose: str = Field(
        default=_DEFAULTS.purpose,
        description=f"{' or '.join(PURPOSES)}: a model for decisions may not know the lender's own "
        "rate or grade",
        pattern=f"^({'|'.join(PURPOSES)})$",
    )
    skip_bad: bool = Field(
        default=_DEFAULTS.skip_bad,
        description="leave out the damaged rows of the sample's CSV, and count them",
    )
    seed: int = Field(default=_DEFAULTS.seed, ge=0, lt=2**31, description="of folds and draws")


def _spec(name: str, description: str, *deps: str, kinds: set[str]) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=deps,
        description=description,
        kinds=kinds,
        owners=OWNERS,
        skippable=True,
        code_version=code_version(
            "credit_risk_dagster.pipelines.modelling", "credit_risk_dagster.domain.model"
        ),
        freshness_policy=kept_fresh(_DEFAULTS.cron),
    )


_SPECS = [
    _spec(
        "training_sample",
        "Loans whose outcome is known, each as its first decision saw it: counts, hash, and who is "
        "left out. The rows stay where they came from.",
        "scored_applications",
        "loan_outcomes",
        kinds={"python"},
    ),
    _spec(
        "loan_vintages",
        "Bad rate by month of issue and months on book (Kaplan-Meier): table `risk_reports`.",
        "scored_applications",
        "loan_outcomes",
        kinds={"python", "postgres"},
    ),
    _spec(
        "risk_model",
        "A logistic regression of the outcome that no number contradicts, and its challengers "
        "(monotone gradient boosting; a scorecard where optbinning is installed): table `models`, "
        "every version.",
        "training_sample",
        kinds={"scikitlearn", "postgres"},
    ),
    _spec(
        "model_benchmark",
        "The policy's rules, the models, the interest rate alone and the model without it, on the "
        "same loans, out of fold and out of time: tables `model_benchmarks` and `model_curves`.",
        "training_sample",
        "risk_model",
        kinds={"python", "postgres"},
    ),
]


@dg.multi_asset(
    name="model_loans",
    group_name="model",
    specs=_SPECS,
    check_specs=[ENOUGH_OUTCOMES, NO_LEAKAGE, FIT],
)
def model_loans(
    context: dg.AssetExecutionContext,
    config: ModelConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Take a sample, train on it, measure, and store; stop where a check fails."""
    from credit_risk_dagster.domain.model.sample import SampleTooSmall, make_sample
    from credit_risk_dagster.pipelines import modelling, policies

    with one_line_failures():
        purpose = cast(Purpose, config.purpose)
        features = select_features(config.features, purpose)
        outcome, max_rows = load_outcome(config.outcome), settings.model.max_rows
        policy = policies.current_policy(warehouse, settings.policy)
        source = modelling.sample_source(config.sample, skip_bad=config.skip_bad)
        loans = modelling.read_loans(source, policy, warehouse, max_rows, lambda: lake)
        yield from _vintages(loans, outcome, warehouse, context.run.run_id)
        try:
            sample = make_sample(outcome, loans)
        except SampleTooSmall as error:
            yield _warning(ENOUGH_OUTCOMES, str(error))
            yield check_result(NO_LEAKAGE, True, "not looked at: there are too few outcomes")
            yield _warning(FIT, "nothing was trained: there are too few outcomes")
            return
        said = f"{sample.bads:,} bad of {len(sample):,} loans by {sample.outcome}"
        said += sample.left_out_words and f"; {sample.left_out_words}"
        yield check_result(ENOUGH_OUTCOMES, True, said)
        damaged = {} if isinstance(source, str) else {"damaged rows left out": source.damaged}
        yield dg.MaterializeResult(
            asset_key="training_sample", metadata=_sample_metadata(sample) | damaged
        )
        try:
            aucs = modelling.check_features(sample, features)
        except modelling.LeakingFeature as error:
            yield check_result(NO_LEAKAGE, False, str(error))
            yield _warning(FIT, "nothing was trained: a feature knows the outcome")
            return
        alone = table({"feature": name, "AUC alone": round(auc, 3)} for name, auc in aucs.items())
        yield check_result(NO_LEAKAGE, True, "no feature knows the outcome", {"features": alone})
        found = modelling.model(sample, features, policy, config.seed, context.log, purpose)
        stored = modelling.store(warehouse, found, context.run.run_id)
        yield dg.MaterializeResult(asset_key="risk_model", metadata=_model_metadata(found, stored))
        yield dg.MaterializeResult(
            asset_key="model_benchmark", metadata=_benchmark_metadata(found, stored)
        )
        yield _fitness(warehouse, stored)


def _fitness(warehouse: Warehouse, stored: "Stored") -> dg.AssetCheckResult:
    from credit_risk_dagster.domain.model.benchmark import BASELINE
    from credit_risk_dagster.pipelines.modelling import gate

    model_id = stored.models[BASELINE]
    if against := gate(warehouse, model_id):
        return _warning(FIT, f"model {model_id}: {'; '.join(against)}")
    way = f"`credit-risk model activate {model_id}`, or the job activate_model"
    return check_result(FIT, True, f"{way}, lets it score")


def _warning(spec: dg.AssetCheckSpec, description: str) -> dg.AssetCheckResult:
    return check_result(spec, False, description, severity=dg.AssetCheckSeverity.WARN)


def _sample_metadata(sample: "Sample") -> dict[str, Any]:
    return {
        "dagster/row_count": len(sample),
        "sample": sample.name,
        "outcome": sample.outcome,
        "bad loans": sample.bads,
        "bad rate (%)": round(100 * sample.bads / len(sample), 2),
        "left out": sample.left_out_words or "nobody",
        "sample hash": sample.content_hash,
        "loans by month of issue": table(
            [{"month": m, "loans": n, "bad": b} for m, n, b in sample.by_month()]
        ),
    }


def _vintages(
    loans: "Loans", outcome: "Outcome", warehouse: Warehouse, run_id: str
) -> Iterator[dg.MaterializeResult]:
    from credit_risk_dagster.pipelines import modelling

    found = modelling.vintages_of(loans, outcome)
    if not found:
        return
    modelling.store_vintages(warehouse, loans.name, outcome, found, run_id)
    rows = [
        {
            "month": vintage.month,
            "loans": vintage.loans,
            "bad": vintage.bads,
            "bad rate (%)": round(100 * vintage.bad_rate.value, 2),
            "months on book": vintage.months,
            "watched shorter than others": vintage.shorter,
        }
        for vintage in found
    ]
    metadata: dict[str, Any] = {
        "outcome": outcome.version,
        "vintages": table(rows),
        "loans with an outcome of which no decision is known": loans.undecided,
    }
    yield dg.MaterializeResult(asset_key="loan_vintages", metadata=metadata)


def _model_metadata(found: "Modelling", stored: "Stored") -> dict[str, Any]:
    from dashboard.charts import pictures

    effects = found.effects
    return {
        "model ids": table([{"kind": k, "model": i} for k, i in stored.models.items()]),
        "outcome": found.sample.outcome,
        "purpose": found.purpose,
        "features": ", ".join(feature.name for feature in found.features),
        "seed": found.seed,
        "sample hash": found.sample.content_hash,
        "inverse penalty C": found.trained[0].estimator.inverse_penalty,
        "odds ratios": table([_rounded(vars(effect)) for effect in effects]),
        "coefficients": dg.MetadataValue.md(pictures.effects(effects)),
    }


def _benchmark_metadata(found: "Modelling", stored: "Stored") -> dict[str, Any]:
    from dashboard.charts import pictures

    measured = found.benchmark
    baseline, rules = measured.subject("logistic"), measured.subject("rules")
    metadata: dict[str, Any] = {
        "verdict": measured.verdict,
        "benchmark": stored.benchmark_id,
        "outcome": found.sample.outcome,
        "policy": measured.policy,
        "subjects": table([_rounded(subject.figures()) for subject in measured.subjects]),
        **{
            f"plot: {name}": dg.MetadataValue.md(picture)
            for name, picture in pictures.benchmark(measured).items()
        },
        "bad rate by tier of the rules": table([_rounded(row) for row in rules.tiers or []]),
        "gains of the logistic model": table([_rounded(r) for r in baseline.evaluation.gains]),
        "gains of the rules": table([_rounded(row) for row in rules.evaluation.gains]),
    }
    if calibrated := baseline.evaluation.calibration:
        metadata["calibration of the logistic model"] = table(
            [_rounded(row) for row in calibrated["bins"]]
        )
    if baseline.comparison:
        metadata["who is flagged"] = table([_rounded(r) for r in baseline.comparison.profile])
    return metadata


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: "" if value is None else round(value, 4) if isinstance(value, float) else value
        for name, value in row.items()
    }


benchmark_models = asset_job(
    "benchmark_models",
    selection=dg.AssetSelection.assets(model_loans),
    description="Train models on loans with an outcome, and compare them with the policy's rules. "
    "The launch form chooses sample, outcome, features and seed.",
    tags={"dagster/max_runtime": str(6 * 3600)},
)
benchmark_schedule = scheduled(
    job=benchmark_models,
    cron_schedule=_DEFAULTS.cron,
    description="Trains and benchmarks on the loans whose outcome is known by then "
    "(CREDIT_RISK_MODEL_CRON).",
)


class ActivateConfig(dg.Config):
    """Which model is to score the stream."""

    model_id: int = Field(ge=1, description="a logistic one or a scorecard of the table models")
    why: str = Field(default="Not said", description="it is kept for ever")


@dg.op(description="Let a model score the stream, if its newest benchmark allows it.")
def activate(
    context: dg.OpExecutionContext,
    config: ActivateConfig,
    warehouse: dg.ResourceParam[Warehouse],
) -> None:
    """Activate, or fail with what speaks against it."""
    from credit_risk_dagster.pipelines.modelling import activate as activate_model_id

    with one_line_failures():
        model = activate_model_id(warehouse, config.model_id, config.why)
    context.log.info("%s scores the stream from the next batch on", model.version)


activate_model = op_job(
    "activate_model",
    activate,
    "Let an approved model score the stream beside the policy. Its newest benchmark is "
    "the gate, too: see the check fit_for_activation.",
)


defs = dg.Definitions(
    assets=linked(model_loans),
    jobs=[benchmark_models, activate_model],
    schedules=[benchmark_schedule],
)
