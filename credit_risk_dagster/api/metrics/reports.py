"""What the newest drift report, benchmark and report of the portfolio say."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from credit_risk_dagster.api.metrics.families import gauge
from credit_risk_dagster.domain.cases import FEWEST
from credit_risk_dagster.domain.limits import Limit, measure
from resources.postgres.metrics import Snapshot

# A verdict of drift as a number; too few rows for one is none.
DRIFT_LEVELS = {"stable": 0, "moderate": 1, "significant": 2}
LIMIT_LEVELS = {"green": 0, "amber": 1, "red": 2}


def report_metrics(snapshot: Snapshot, limits: Sequence[Limit]) -> Iterator[Metric]:
    """Of a snapshot of the warehouse."""
    yield from _drift(snapshot)
    yield from _benchmark(snapshot)
    yield from _limits(snapshot, limits)
    yield from _bad_rates(snapshot)


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


def _limits(snapshot: Snapshot, limits: Sequence[Limit]) -> Iterator[Metric]:
    yield gauge(
        "limit_threshold_ratio",
        "From which share on a limit of the portfolio is amber, and red",
        [
            ({"limit": limit.name, "level": level}, threshold)
            for limit in limits
            for level, threshold in (("amber", limit.amber), ("red", limit.red))
        ],
    )
    if snapshot.portfolio is None:
        return
    yield gauge(
        "portfolio_report_timestamp_seconds",
        "When the portfolio was last measured",
        [({}, snapshot.portfolio["created_at"])],
    )
    measured = [({"limit": one.limit.name}, one) for one in measure(limits, snapshot.portfolio)]
    yield gauge(
        "limit_ratio",
        "Share that the portfolio has of what is limited, in its newest report",
        [(labels, one.value) for labels, one in measured],
    )
    yield gauge(
        "limit_level",
        "Whether that is within its limit: 0 green, 1 amber, 2 red",
        [(labels, LIMIT_LEVELS.get(one.level)) for labels, one in measured],
    )


def _bad_rates(snapshot: Snapshot) -> Iterator[Metric]:
    if snapshot.reviews is None:
        return
    yield gauge(
        "review_report_timestamp_seconds",
        "When the newest report of reviews was made",
        [({}, snapshot.reviews["created_at"])],
    )
    rates = [({"cases": row["of"]}, row) for row in snapshot.reviews["bad_rates"]]
    yield gauge(
        "case_outcome_loans",
        "Loans of closed cases whose outcome is known, by whether the policy was overridden",
        [(labels, row["loans"]) for labels, row in rates],
    )
    yield gauge(
        "case_bad_rate",
        f"Share of those that went bad, with its 95 % interval; not below {FEWEST} loans",
        [
            (labels | {"bound": bound}, value)
            for labels, row in rates
            if row["loans"] >= FEWEST
            for bound, value in row["share"].items()
        ],
    )
