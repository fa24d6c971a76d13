"""A model's document, out of the database: what it is for, and not; data, limits, tests with their
figures, approvals, and when it is due for review. Every figure names the run that it is of."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import psycopg

from credit_risk_dagster.domain.features import FEATURES, LENDERS_DECISION
from credit_risk_dagster.domain.model.card import Row, Section
from credit_risk_dagster.domain.model.gate import objections
from credit_risk_dagster.domain.model.outcome import probability_of
from credit_risk_dagster.domain.pd import ModelUnreadable, read_coefficients
from resources.postgres.approvals import Approvals
from resources.postgres.connection import fetch_all
from resources.postgres.models import ModelMissing

REVIEW_AFTER: Final = timedelta(days=365)


def model_document(
    connection: psycopg.Connection[Any], model_id: int, dagster_url: str
) -> tuple[str, list[Section]]:
    """Title and sections.

    Args:
        connection: needs to read only.
        dagster_url: where runs are looked at.

    Raises:
        ModelMissing: there is none of that id.
    """
    found = fetch_all(connection, _MODEL, {"model_id": model_id})
    if not found:
        raise ModelMissing(f"there is no model {model_id}: see `credit-risk model ls`")
    (model,) = found
    measured = fetch_all(connection, _BENCHMARK, {"model_id": model_id})
    run = f"{dagster_url.rstrip('/')}/runs/"
    return (
        f"Model {model_id}: {model['version']}",
        [
            _purpose(model, run),
            _data(model, measured[0] if measured else None),
            _features(model),
            Section("Limits", _LIMITS),
            _tests(model, measured[0] if measured else None, run),
            _approvals(connection, model),
        ],
    )


def _purpose(model: Mapping[str, Any], run: str) -> Section:
    name, horizon = probability_of(model["outcome"])
    is_decision = model["purpose"] == "decision"
    use = (
        "It is meant to take part in decisions: it does not know the lender's own rate and grade."
        if is_decision
        else "It is a benchmark for the policy's rules, and knows what the lender decided where "
        f"{', '.join(LENDERS_DECISION)} are among its features: it is not for decisions."
    )
    return Section(
        "Purpose",
        (
            f"A {model['kind'].replace('_', ' ')} for the {name} by {model['outcome']}; {horizon}.",
            use,
            "It scores beside the policy, which decides: its PD and what raises it are no reasons "
            "for an adverse action notice.",
            f"Trained {model['created_at']:%Y-%m-%d %H:%M} UTC by code {model['code_version']}, "
            f"seed {model['seed']}. Run: {run}{model['run_id']}",
        ),
    )


def _data(model: Mapping[str, Any], measured: Mapping[str, Any] | None) -> Section:
    left = (measured or {}).get("left_out") or {}
    said = ", ".join(f"{why} {count:,}" for why, count in left.items())
    return Section(
        "Data",
        (
            f"{model['rows']:,} loans of sample {model['sample']} ({model['sample_hash'][:12]}), "
            f"{model['bads']:,} of them bad ({100 * model['bads'] / model['rows']:.2f} %); each as "
            "its first decision saw it.",
            f"Left out without an outcome: {said}." if said else "Nobody known was left out.",
        ),
    )


def _features(model: Mapping[str, Any]) -> Section:
    directions = {1: "more is riskier", -1: "less is riskier", 0: "a category"}
    effects = {effect["name"]: effect for effect in model["metrics"].get("effects") or ()}
    rows: list[Row] = [("Feature", "What the field expects", "Odds ratio (95 %)")]
    for name in model["features"]:
        effect = effects.get(name)
        rows.append(
            (
                name,
                directions[FEATURES[name].risk_rises] if name in FEATURES else "",
                _interval(effect["odds_ratio"], effect["low"], effect["high"], 2) if effect else "",
            )
        )
    return Section("Features", (), tuple(rows))


_LIMITS = (
    "All loans of its sample had been accepted: nothing is known of the declined (no reject "
    "inference), and on other applicants its figures may not hold.",
    "Inputs beyond the sample's 0.5 and 99.5 percentiles count as those; a missing value counts as "
    "the worst.",
    "It cannot see that the same people become riskier than its PD says, before outcomes arrive.",
    "Excluded by name: what is known only after the decision, and where a person lives.",
)


def _tests(model: Mapping[str, Any], row: Mapping[str, Any] | None, run: str) -> Section:
    if row is None:
        return Section("Tests", ("It was never measured.",))
    late, calibration = row["out_of_time"] or {}, row["calibration"] or {}
    later = late.get("calibration") or {}
    rows: list[Row] = [
        ("Test", "Figure"),
        ("AUC out of fold (95 %)", _interval(row["auc"], row["auc_low"], row["auc_high"])),
        ("Gini", _number(row["gini"])),
        ("KS", _number(row["ks"])),
        ("Brier score", _number(row["brier"], 4)),
        ("Brier skill", _number(calibration.get("brier_skill"), 4)),
        ("Calibration slope", _number(calibration.get("slope"))),
        ("Calibration intercept", _number(calibration.get("intercept"))),
    ]
    if late:
        rows += [
            (
                f"AUC from {late['month']} on, n {late['rows']:,} (95 %)",
                _interval(late["auc"], late["auc_low"], late["auc_high"]),
            ),
            (
                "Expected bad for each that was, then (95 %)",
                _interval(later.get("ratio"), later.get("ratio_low"), later.get("ratio_high"), 2),
            ),
        ]
    try:
        coefficients = model["coefficients"] and read_coefficients(model["coefficients"])
        against = objections(row, coefficients or None)
    except ModelUnreadable as error:
        against = [str(error)]
    gate = "; ".join(against) if against else "nothing speaks against it"
    return Section(
        "Tests",
        (
            f"Benchmark {row['benchmark_id']} of {row['created_at']:%Y-%m-%d}, beside policy "
            f"{row['policy']}. Run: {run}{row['run_id']}",
            f"The gate of activation: {gate}.",
        ),
        tuple(rows),
    )


def _approvals(connection: psycopg.Connection[Any], model: Mapping[str, Any]) -> Section:
    own = [a for a in Approvals(connection, "model").all() if a.subject_id == model["model_id"]]
    rows: list[Row] = [("When (UTC)", "What", "Who", "Why")]
    rows += [(f"{a.decided_at:%Y-%m-%d %H:%M}", a.action, a.who, a.why) for a in own]
    approved = [a.decided_at for a in own if a.action == "approve"]
    due = (approved[-1] if approved else model["created_at"]) + REVIEW_AFTER
    return Section(
        "Approvals and review",
        (
            f"Next review by {due:%Y-%m-%d}, a year after the last approval (or its training), and "
            "earlier when the population or the performance moves.",
            *(() if own else ("Nobody decided anything about it yet.",)),
        ),
        tuple(rows) if own else (),
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    ends = f"{_number(low, digits)} to {_number(high, digits)}"
    return _number(value, digits) if low is None else f"{_number(value, digits)} ({ends})"


_MODEL = """
SELECT model_id, kind, version, created_at, run_id, outcome, purpose, features, sample,
    sample_hash, seed, rows, bads, code_version, metrics, coefficients::text AS coefficients
FROM models WHERE model_id = %(model_id)s
"""
_BENCHMARK = """
SELECT * FROM model_benchmarks WHERE model_id = %(model_id)s ORDER BY benchmark_id DESC LIMIT 1
"""
