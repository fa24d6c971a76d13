"""`credit-risk model`: benchmark, train, list and activate models."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from credit_risk_dagster.cli.console import err, out, print_json
from credit_risk_dagster.cli.options import (
    NOT_SAID,
    Json,
    SkipBad,
    Why,
    lake,
    told,
    warehouse,
    warehouse_session,
)
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.settings import DrainSettings, ModelSettings

if TYPE_CHECKING:
    from credit_risk_dagster.domain.fairness import Segment
    from credit_risk_dagster.domain.intervals import Interval
    from credit_risk_dagster.domain.model.benchmark import Benchmark
    from credit_risk_dagster.pipelines.modelling import Modelling
    from resources.postgres.models import StoredModel

app = typer.Typer(help="The statistical model beside the policy.", no_args_is_help=True)

Sample = Annotated[
    str | None,
    typer.Option(
        help="scored (the table), builtin (10,000 real loans), or a LendingClub CSV; default "
        "CREDIT_RISK_MODEL_SAMPLE."
    ),
]
OutcomeName = Annotated[
    str | None,
    typer.Option(
        help="early_delinquency, matured, or a YAML file; default CREDIT_RISK_MODEL_OUTCOME."
    ),
]
Features = Annotated[
    str | None,
    typer.Option(help="Columns, comma-separated; default CREDIT_RISK_MODEL_FEATURES."),
]
PurposeName = Annotated[
    str | None,
    typer.Option(
        "--purpose",
        help="benchmark, or decision: without the lender's own rate and grade; default "
        "CREDIT_RISK_MODEL_PURPOSE.",
    ),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Of folds and draws; default CREDIT_RISK_MODEL_SEED.")
]
ModelId = Annotated[int, typer.Argument(help="Id of the model: see `credit-risk model ls`.")]


@app.command()
def benchmark(
    sample: Sample = None,
    outcome: OutcomeName = None,
    features: Features = None,
    purpose: PurposeName = None,
    seed: Seed = None,
    skip_bad: SkipBad = False,
    json_: Json = False,
) -> None:
    """Train models, compare them with the policy's rules, and store nothing.

    Needs no server unless the sample is the table's.
    """
    found = _model(sample, outcome, features, purpose, seed, skip_bad)
    if json_:
        print_json(asdict(found.benchmark))
        return
    _print_benchmark(found)


@app.command("train")
def train_command(
    sample: Sample = None,
    outcome: OutcomeName = None,
    features: Features = None,
    purpose: PurposeName = None,
    seed: Seed = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train models, compare them with the policy's rules, and store both."""
    import uuid

    from credit_risk_dagster.pipelines.modelling import store

    found = _model(sample, outcome, features, purpose, seed, skip_bad)
    stored = store(warehouse(), found, f"model-{uuid.uuid4()}")
    _print_benchmark(found)
    ids = ", ".join(f"{kind} {model_id}" for kind, model_id in stored.models.items())
    out.print(f"\nstored as benchmark {stored.benchmark_id}; models: {ids}")


@app.command("vintages")
def show_vintages(
    sample: Sample = None,
    outcome: OutcomeName = None,
    skip_bad: SkipBad = False,
    json_: Json = False,
) -> None:
    """Show how the loans of each month went bad as they grew older (Kaplan-Meier)."""
    from credit_risk_dagster.domain.model.outcome import load_outcome
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.pipelines import modelling

    settings = ModelSettings()
    loans = modelling.read_loans(
        modelling.sample_source(sample or settings.sample, skip_bad=skip_bad or settings.skip_bad),
        load_policy(DrainSettings().policy_file),
        warehouse(),
        settings.max_rows,
        lake,
    )
    chosen = load_outcome(outcome or settings.outcome)
    found = modelling.vintages_of(loans, chosen)
    if json_:
        print_json([asdict(vintage) for vintage in found])
        return
    rows = [
        {
            "month": vintage.month,
            "loans": vintage.loans,
            "bad": vintage.bads,
            "bad rate, 95 % interval": _interval(vintage.bad_rate, 4),
            "months on book": f"{vintage.months}{' (fewer than others)' * vintage.shorter}",
        }
        for vintage in found
    ]
    title = f"Bad by {chosen.version}; compare vintages at the same age"
    out.print(_table(title, rows) if rows else "nothing was observed of these loans")
    if loans.undecided:
        out.print(
            f"left out: {counted(loans.undecided, 'loan')} with an outcome and no known decision"
        )


@app.command("ls")
def ls(json_: Json = False) -> None:
    """List the models, the newest first."""
    from resources.postgres.models import ModelStore

    with warehouse_session("model") as connection:
        models = ModelStore(connection).models()
    if json_:
        print_json([{**vars(model), "active": model.active} for model in models])
        return
    table = Table("id", Column("version, outcome", no_wrap=True), "state", "trained at", "AUC")
    for model in models:
        table.add_row(
            *(str(model.model_id), f"{model.version}\n{model.outcome}", _state(model)),
            *(f"{model.created_at:%Y-%m-%d %H:%M}", f"{model.metrics['auc']:.3f}"),
        )
    out.print(table)


def _state(model: "StoredModel") -> str:
    if model.active:
        return "active"
    if model.retired_at:
        return "retired"
    return "" if model.can_score else "challenger"


@app.command()
def fairness(
    sample: Annotated[
        str, typer.Option(help="builtin (10,000 real loans), or a LendingClub CSV.")
    ] = "builtin",
    outcome: OutcomeName = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="A column of the loans to compare by, too, as a protected class."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="CSV of protected classes, or of their probabilities (BISG), by loan or segment."
        ),
    ] = None,
    skip_bad: SkipBad = False,
    json_: Json = False,
) -> None:
    """Compare whom the policy flags, and misses, by home, state, grade, age of credit and
    application type. Needs no server."""
    from credit_risk_dagster.domain.model.outcome import load_outcome
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.pipelines import fairness as fair
    from credit_risk_dagster.pipelines import modelling
    from credit_risk_dagster.pipelines.classes import read_classes
    from credit_risk_dagster.pipelines.loans import builtin_loans

    loans = (
        builtin_loans()
        if sample == modelling.BUILTIN
        else modelling.sample_file(sample, skip_bad=skip_bad)
    )
    found = fair.fairness(
        loans,
        load_policy(DrainSettings().policy_file),
        load_outcome(outcome or ModelSettings().outcome),
        ("application_type", *(column or ())),
        read_classes(classes) if classes else None,
    )
    if json_:
        print_json([asdict(segment) for segment in found])
        return
    rows = [_fairness_row(segment) for segment in found if segment.verdict != "too_few_rows"]
    out.print(
        _table("Not flagged, against the segment with most; 95 % intervals", rows)
        if rows
        else "no attribute has two segments of 100 loans"
    )


def _interval(of: "Interval", digits: int = 3) -> str:
    return f"{of.value:.{digits}f} ({of.low:.{digits}f} to {of.high:.{digits}f})"


def _fairness_row(segment: "Segment") -> dict[str, Any]:
    return {
        "segment": f"{segment.attribute}: {segment.value}",
        "n": segment.rows,
        "impact ratio": _interval(segment.ratio),
        "verdict": segment.verdict,
        "rate, SD": f"{segment.difference:+.2f}",
        "recall": _interval(segment.recall, 2),
        "false positive": _interval(segment.false_positive),
    }


@app.command()
def approve(model_id: ModelId, why: Why) -> None:
    """Approve a model that somebody else trained."""
    from credit_risk_dagster.pipelines.policies import approve as approve_model

    with warehouse_session("model") as connection:
        given = approve_model(connection, "model", model_id, why)
    out.print(f"model {model_id} is approved by {given.who}")


@app.command()
def activate(model_id: ModelId, why: Why = NOT_SAID) -> None:
    """Let an approved model score the stream, if its newest benchmark allows it."""
    from credit_risk_dagster.pipelines.modelling import activate as activate_model

    model = activate_model(warehouse(), model_id, why)
    out.print(f"{model.version} scores the stream from the next batch on")


@app.command()
def deactivate(why: Why = NOT_SAID) -> None:
    """Let the policy score the stream alone."""
    from credit_risk_dagster.pipelines.policies import require
    from resources.postgres.models import ModelStore

    with warehouse_session("model") as connection:
        require(connection, "approve")
        retired = ModelStore(connection).deactivate(why)
    out.print("no model was active" if retired is None else f"model {retired} is retired")


@app.command()
def document(
    model_id: ModelId,
    html: Annotated[bool, typer.Option("--html", help="Write HTML instead of Markdown.")] = False,
) -> None:
    """Write a model's document to stdout: purpose, data, limits, tests, approvals, next review."""
    from credit_risk_dagster.domain.model.card import to_html, to_markdown
    from credit_risk_dagster.pipelines.model_document import model_document
    from credit_risk_dagster.settings import DashboardSettings

    with warehouse_session("model") as connection:
        found = model_document(connection, model_id, DashboardSettings().dagster_url)
    sys.stdout.write(to_html(*found) if html else to_markdown(*found))


@app.command()
def export(model_id: ModelId) -> None:
    """Write what scoring needs of a model to stdout, as JSON: for `credit-risk score --model`."""
    from credit_risk_dagster.domain.pd import model_file
    from resources.postgres.models import ModelStore

    with warehouse_session("model") as connection:
        scorer = ModelStore(connection).scorer(model_id)
    assert scorer is not None  # noqa: S101 (of an id, there is one or an error)
    sys.stdout.buffer.write(model_file(scorer) + b"\n")


def _model(
    sample: str | None,
    outcome: str | None,
    features: str | None,
    purpose: str | None,
    seed: int | None,
    skip_bad: bool,
) -> "Modelling":
    from credit_risk_dagster.domain.features import select_features
    from credit_risk_dagster.domain.model.outcome import load_outcome
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.pipelines import modelling

    given: dict[str, Any] = {
        "sample": sample,
        "outcome": outcome,
        "features": features,
        "purpose": purpose,
        "seed": seed,
    }
    settings = ModelSettings(**{name: value for name, value in given.items() if value is not None})
    chosen = select_features(settings.feature_names, settings.purpose)
    policy = load_policy(DrainSettings().policy_file)
    source = modelling.sample_source(settings.sample, skip_bad=skip_bad or settings.skip_bad)
    loans = modelling.load_sample(
        source, load_outcome(settings.outcome), policy, warehouse(), settings.max_rows, lake
    )
    if said := told(source):
        err.print(said.removeprefix("; "), soft_wrap=True)
    log = logging.getLogger(__name__)
    return modelling.model(loans, chosen, policy, settings.seed, log, settings.purpose)


# --- what is printed ----------------------------------------------------------------------------


def _print_benchmark(found: "Modelling") -> None:
    sample, measured = found.sample, found.benchmark
    out.print(
        f"{sample.bads:,} bad of {len(sample):,} loans of sample {sample.name} "
        f"({sample.content_hash[:12]}) by {sample.outcome}; rules of {measured.policy}\n"
        f"features: {', '.join(feature.name for feature in found.features)}; seed {found.seed}; "
        f"purpose {found.purpose}{sample.left_out_words and f'; {sample.left_out_words}'}"
    )
    for table in _tables(measured):
        out.print(table)
    out.print(measured.verdict)
    for kind, against in found.objections().items():
        said = "; ".join(against) or "nothing speaks against it"
        out.print(f"\nActivation of {_words(kind)}: {said}")


def _tables(measured: "Benchmark") -> list[Table]:
    figures = _turned([subject.figures() for subject in measured.subjects])
    tables = [
        _table("Out of fold, each loan by a model that has not seen it", figures),
        _table("Bad rate by tier of the rules", measured.subject("rules").tiers or []),
    ]
    for subject in measured.subjects:
        tables.append(_table(f"Gains of {_words(subject.name)}", subject.evaluation.gains))
        if calibrated := subject.evaluation.calibration:
            tables.append(_table(f"Calibration of {_words(subject.name)}", calibrated["bins"]))
        if subject.comparison:
            title = (
                f"Flagged by the rules and by {_words(subject.name)}, "
                f"{subject.comparison.flagged:,} loans each"
            )
            tables.append(_table(title, _turned(subject.comparison.profile)))
    return tables


def _turned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as columns; their first value names them."""
    first, *names = rows[0]
    return [{"": name, **{str(row[first]): row[name] for row in rows}} for name in names]


def _words(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " "))


_WORDS = {
    "rules": "the rules",
    "scorecard": "the scorecard",
    "price": "the interest rate alone",
    "without_price": "logistic without the lender's own rate and grade",
}


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for at, name in enumerate(rows[0]):
        table.add_column(name.replace("_", " "), justify="right" if at else "left")
    for row in rows:
        name, *cells = map(_cell, row.values())
        table.add_row(name.replace("_", " "), *cells)
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) >= 1 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
