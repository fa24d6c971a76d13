"""Dashboard Risk; `make grafana` writes it as Grafana reads it."""

from grafana_foundation_sdk.builders import dashboard

from infra.grafana.layout import ANY, Panel, assembled, new_dashboard
from infra.grafana.panels import (
    GREEN,
    RED,
    YELLOW,
    bars,
    number,
    rows,
    series,
)


def risk() -> dashboard.Dashboard:
    """What is decided, of whom, and how well."""
    return assembled(
        new_dashboard(
            "credit-risk-risk",
            "Risk",
            "What the policy decides, whether the applicants are still those of the drift baseline "
            "(by default the first 5,000), and whether a model would do better.",
        ),
        {
            "Now": _now(),
            "Decisions": _decisions(),
            "Population": _population(),
            "Rules and models": _rules_and_models(),
        },
    )


def _now() -> list[Panel]:
    levels = {0.0: ("stable", GREEN), 1: ("moderate", YELLOW), 2: ("significant", RED)}
    return [
        number(
            "Decisions",
            "Within an hour; a loan that is decided again counts again.",
            "sum(max by (tier) (increase(credit_risk_decisions_total[1h])))",
            "short",
            ANY,
            width=4,
        ),
        number(
            "Watchlist",
            "Share of the decisions of an hour with an early warning.",
            'max(rate(credit_risk_decisions_total{tier="Watchlist"}[1h]))'
            " / sum(max by (tier) (rate(credit_risk_decisions_total[1h])))",
            "percentunit",
            ANY,
            width=4,
        ),
        number(
            "Rejected",
            "Share of the events of an hour that could not be scored.",
            'max(rate(credit_risk_events_total{outcome="rejected"}[1h]))'
            " / sum(max by (outcome) "
            '(rate(credit_risk_events_total{outcome=~"scored|rejected"}[1h])))',
            "percentunit",
            [(None, GREEN), (0.05, YELLOW), (0.1, RED)],
            width=4,
        ),
        number(
            "Drift",
            "Verdict of the newest drift report.",
            "max(credit_risk_drift_level)",
            "none",
            [(None, GREEN), (1, YELLOW), (2, RED)],
            width=4,
            words=levels,
        ),
        number(
            "Drift report",
            "Age of the newest.",
            "time() - max(credit_risk_drift_report_timestamp_seconds)",
            "s",
            [(None, GREEN), (86400, YELLOW), (2 * 86400, RED)],
            width=4,
        ),
        number(
            "Model benchmark",
            "Age of the newest.",
            "time() - max(credit_risk_model_benchmark_timestamp_seconds)",
            "s",
            [(None, GREEN), (7 * 86400, YELLOW), (14 * 86400, RED)],
            width=4,
        ),
    ]


def _decisions() -> list[Panel]:
    return [
        series(
            "Decisions by tier",
            "Decisions a second.",
            {"{{tier}}": "max by (tier) (rate(credit_risk_decisions_total[$__rate_interval]))"},
            "cps",
            stacked=True,
        ),
        series(
            "Share of each tier",
            "Of the decisions of the last five minutes.",
            {
                "{{tier}}": "max by (tier) (rate(credit_risk_decisions_total[5m]))"
                " / ignoring(tier) group_left"
                " sum(max by (tier) (rate(credit_risk_decisions_total[5m])))"
            },
            "percentunit",
            top=1,
        ),
        series(
            "Rejects by reason",
            "Events a second that could not be scored.",
            {
                "{{reason}}": "max by (reason) "
                "(rate(credit_risk_rejects_total[$__rate_interval])) > 0"
            },
            "cps",
            stacked=True,
        ),
        rows(
            "Early warnings by reason",
            "Applications of the period on the Watchlist, each loan once; one may have several "
            "reasons.",
            """
                SELECT reason, count(*) AS applications, round(avg(loan_amnt)) AS mean_loan_usd,
                    max(scored_at) AS newest
                FROM (
                    SELECT DISTINCT ON (
                        coalesce(loan_id, source_id || '/' || partition || '/' || "offset")
                    ) reasons, loan_amnt, scored_at
                    FROM ${schema}.scored_applications
                    WHERE risk_tier = 'Watchlist' AND $__timeFilter(scored_at)
                    ORDER BY coalesce(loan_id, source_id || '/' || partition || '/' || "offset"),
                        scored_at DESC
                ) AS newest, unnest(reasons) AS reason
                GROUP BY reason ORDER BY applications DESC
                """,
            width=12,
        ),
    ]


def _population() -> list[Panel]:
    # Without colours: whether a PSI is drift, chance and the rows have a say in, too.
    return [
        bars(
            "PSI by feature",
            "Population stability index of each feature in the newest drift report: moderate from "
            "0.1, significant above 0.25, but only above what chance explains; the table has the "
            "verdict.",
            "sort_desc(max by (feature) (credit_risk_psi))",
            "{{feature}}",
            "none",
            ANY,
        ),
        series(
            "PSI",
            "Of the risk tiers, and of the features that moved most.",
            {
                "risk tier": "max(credit_risk_tier_psi)",
                "{{feature}}": "topk(5, max by (feature) (credit_risk_psi))",
            },
            "none",
        ),
        rows(
            "Features of the newest drift report",
            "The applications against the baseline.",
            """
                SELECT feature, verdict, psi, psi_limit, ks, ks_p, chi2, chi2_p, mean,
                    reference_mean, missing_share, reference_missing_share
                FROM ${schema}.drift_features
                WHERE report_id = (SELECT max(report_id) FROM ${schema}.drift_reports)
                ORDER BY psi DESC NULLS LAST
                """,
        ),
    ]


def _rules_and_models() -> list[Panel]:
    return [
        bars(
            "Area under the ROC curve",
            "Of the policy's rules and of each model, out of fold, on the same loans. 0.5 is "
            "chance.",
            "max by (subject) (credit_risk_model_auc)",
            "{{subject}}",
            "none",
            [(None, RED), (0.55, YELLOW), (0.65, GREEN)],
            width=8,
        ),
        series(
            "AUC, Gini, KS",
            "From benchmark to benchmark.",
            {
                "{{subject}} AUC": "max by (subject) (credit_risk_model_auc)",
                "{{subject}} Gini": "max by (subject) (credit_risk_model_gini)",
                "{{subject}} KS": "max by (subject) (credit_risk_model_ks)",
            },
            "none",
            width=16,
            top=1,
        ),
        rows(
            "Newest benchmarks",
            "With 95 % intervals, and what follows from them.",
            """
                SELECT created_at, subject, outcome, rows, bads, auc, auc_low, auc_high, gini, ks,
                    brier, verdict
                FROM ${schema}.model_benchmarks ORDER BY created_at DESC, subject LIMIT 20
                """,
        ),
    ]
