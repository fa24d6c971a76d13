"""What the newest drift report and the newest benchmark say."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from credit_risk_dagster.api.metrics.families import gauge
from resources.postgres.metrics import Snapshot

# A verdict of drift as a number; too few rows for one is none.
DRIFT_LEVELS = {"stable": 0, "moderate": 1, "significant": 2}


def report_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Of a snapshot of the warehouse."""
    yield from _drift(snapshot)
    yield from _benchmark(snapshot)


def _drift(snapshot: Snapshot) -> Iterator[Metric]:
    report = snapshot.drift
    if report is None:
        return
    yield gauge(
        "drift_report_timestamp_seconds",
        "When the newest drift report was made",
        [({}, report["created_at"])],
    )
    yield gauge(
        "drift_level",
        "Verdict of the newest drift report: 0 stable, 1 moderate, 2 significant",
        [({}, DRIFT_LEVELS.get(report["verdict"]))],
    )
    yield gauge(
        "tier_psi",
        "Population stability index of the risk tiers, in the newest drift report",
        [({}, report["tier_psi"])],
    )
    features = [({"feature": row["feature"]}, row) for row in snapshot.features]
    yield gauge(
        "psi",
        "Population stability index of a feature, in the newest drift report",
        [(labels, row["psi"]) for labels, row in features],
    )
    yield gauge(
        "feature_drift_level",
        "Verdict on a feature in the newest drift report: 0 stable, 1 moderate, 2 significant",
        [(labels, DRIFT_LEVELS.get(row["verdict"])) for labels, row in features],
    )


def _benchmark(snapshot: Snapshot) -> Iterator[Metric]:
    if not snapshot.benchmark:
        return
    yield gauge(
        "model_benchmark_timestamp_seconds",
        "When the rules and the models were last compared",
        [({}, snapshot.benchmark[0]["created_at"])],
    )
    for name, text in (
        ("auc", "Area under the ROC curve"),
        ("auc_low", "Lower end of the confidence interval of the area under the ROC curve"),
        ("auc_high", "Upper end of the confidence interval of the area under the ROC curve"),
        ("gini", "Gini coefficient"),
        ("ks", "Kolmogorov-Smirnov statistic"),
        ("brier", "Brier score"),
    ):
        yield gauge(
            f"model_{name}",
            f"{text} of the rules or a model, in the newest benchmark",
            [({"subject": row["subject"]}, row[name]) for row in snapshot.benchmark],
        )
