"""The dashboards. `make grafana` writes them into infra/grafana/dashboards/ as Grafana reads them.

Queries take the maximum over the API's replicas (`max by`), each of which tells the same.
Thresholds are those of the alerts and of the objectives.
"""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DynamicConfigValue,
    VariableOption,
)

from infra.grafana.panels import (
    BLUE,
    GREEN,
    RED,
    YELLOW,
    Steps,
    bars,
    density,
    number,
    rows,
    series,
)

_TAG = "credit-risk"
_ANY: Steps = [(None, BLUE)]


def _zero_or(color: str) -> Steps:
    return [(None, GREEN), (1, color)]


def pipeline_health() -> dashboard.Dashboard:
    """Rate, errors, duration and saturation of the stream; the archive; Dagster."""
    return (
        _dashboard(
            "credit-risk-pipeline",
            "Pipeline health",
            "Is every application scored, in time, exactly once? Rate, errors, duration and "
            "saturation of the stream, and how Dagster does.",
        )
        .with_row(dashboard.Row("Now"))
        .with_panel(
            number(
                "Events",
                "Events committed a second, scored or rejected.",
                'sum(max by (outcome) (rate(credit_risk_events_total{outcome!="gap"}'
                "[$__rate_interval])))",
                "eps",
                _ANY,
            )
        )
        .with_panel(
            number(
                "Oldest waiting event",
                "How long the oldest event that is not committed has waited in the topic.",
                "max(credit_risk_lag_seconds)",
                "s",
                [(None, GREEN), (5, YELLOW), (30, RED)],
            )
        )
        .with_panel(
            number(
                "Late events",
                "Share of events that took more than 0.4 s to their commit. The objective allows "
                "5 %.",
                "1 - max(rate(credit_risk_event_to_commit_seconds_bucket"
                '{le="0.4"}[$__rate_interval]))'
                " / max(rate(credit_risk_event_to_commit_seconds_count[$__rate_interval]))",
                "percentunit",
                [(None, GREEN), (0.05, YELLOW), (0.3, RED)],
            )
        )
        .with_panel(
            number(
                "Last commit",
                "Seconds since the newest batch was committed. Without applications it grows.",
                "time() - max(credit_risk_last_commit_timestamp_seconds)",
                "s",
                [(None, GREEN), (60, YELLOW), (120, RED)],
            )
        )
        .with_panel(
            number(
                "Rejected",
                "Share of events that could not be scored.",
                'max(rate(credit_risk_events_total{outcome="rejected"}[$__rate_interval]))'
                ' / sum(max by (outcome) (rate(credit_risk_events_total{outcome!="gap"}'
                "[$__rate_interval])))",
                "percentunit",
                [(None, GREEN), (0.05, YELLOW), (0.1, RED)],
            )
        )
        .with_panel(
            number(
                "Missing or doubled",
                "Offsets of the newest checked run that are not stored exactly once. Anything but "
                "0 is an incident: see the runbook.",
                "max(credit_risk_reconciliation_difference_offsets)",
                "none",
                _zero_or(RED),
            )
        )
        .with_panel(
            number(
                "Servers up",
                "Of warehouse, broker and Dagster's storage, how many answer.",
                "max(credit_risk_warehouse_up) + max(credit_risk_broker_up)"
                " + max(credit_risk_dagster_up)",
                "none",
                [(None, RED), (3, GREEN)],
            )
        )
        .with_panel(
            number(
                "Failed runs",
                "Runs that failed within an hour, of all jobs.",
                'sum(max by (job_name) (credit_risk_dagster_runs{status="FAILURE"})) or vector(0)',
                "none",
                [(None, GREEN), (1, YELLOW), (3, RED)],
            )
        )
        .with_row(dashboard.Row("Rate, errors, duration"))
        .with_panel(
            series(
                "Events by outcome",
                "Committed a second. A gap is an offset that the broker no longer had.",
                {
                    "{{outcome}}": "max by (outcome) "
                    "(rate(credit_risk_events_total[$__rate_interval]))"
                },
                "eps",
                stacked=True,
            )
        )
        .with_panel(
            series(
                "Event to commit",
                "Seconds from the broker's timestamp to the commit, as percentiles of the ledger's "
                "histogram. The line is the objective of the 95th.",
                {
                    f"p{q}": f"histogram_quantile({q / 100:g}, max by (le) "
                    "(rate(credit_risk_event_to_commit_seconds_bucket[$__rate_interval])))"
                    for q in (50, 95, 99)
                },
                "s",
                steps=[(None, GREEN), (0.4, RED)],
            )
        )
        .with_panel(
            density(
                "Latency",
                "How many events a second took how long to their commit.",
                "max by (le) (rate(credit_risk_event_to_commit_seconds_bucket[$__rate_interval]))",
                "s",
            )
        )
        .with_panel(
            series(
                "Work by stage",
                "Seconds of work a second: 1 is a processor, or the database, kept busy. copy and "
                "commit run beside the others.",
                {
                    "{{stage}}": "max by (stage) "
                    "(rate(credit_risk_batch_stage_duration_seconds_sum[$__rate_interval]))"
                },
                "s",
                stacked=True,
            )
        )
        .with_row(dashboard.Row("Saturation"))
        .with_panel(
            series(
                "Lag",
                "Offsets in the topic that are not committed yet, by partition.",
                {"partition {{partition}}": "max by (partition) (credit_risk_lag_events)"},
                "short",
            )
        )
        .with_panel(
            series(
                "Waiting time",
                "How long the oldest event of each partition that is not committed has waited.",
                {"partition {{partition}}": "max by (partition) (credit_risk_lag_seconds)"},
                "s",
                steps=[(None, GREEN), (30, RED)],
            )
        )
        .with_panel(
            series(
                "Duration of a batch's stages",
                "95th percentile, of batches of any size.",
                {
                    "{{stage}}": "histogram_quantile(0.95, max by (stage, le) "
                    "(rate(credit_risk_batch_stage_duration_seconds_bucket[$__rate_interval])))"
                },
                "s",
            )
        )
        .with_panel(
            series(
                "Size of a batch",
                "Events in a transaction, on average. At CREDIT_RISK_MAX_BATCH_EVENTS it is full.",
                {
                    "events": 'sum(max by (outcome) (rate(credit_risk_events_total{outcome!="gap"}'
                    "[$__rate_interval]))) / max(rate(credit_risk_batches_total[$__rate_interval]))"
                },
                "short",
            )
        )
        .with_row(dashboard.Row("Archive and storage"))
        .with_panel(
            series(
                "Not archived",
                "Age of the oldest committed event that is not on S3; a run archives every five "
                "minutes.",
                {"partition {{partition}}": "max by (partition) (credit_risk_archive_lag_seconds)"},
                "s",
                steps=[(None, GREEN), (1800, RED)],
            )
        )
        .with_panel(
            series(
                "Largest tables",
                "With their indexes, over all time partitions.",
                {"{{table}}": "topk(6, max by (table) (credit_risk_table_bytes))"},
                "bytes",
                stacked=True,
            )
        )
        .with_row(dashboard.Row("Dagster"))
        .with_panel(
            series(
                "Runs",
                "Those that are not finished, and those that finished within an hour, by job and "
                "status.",
                {"{{job_name}} {{status}}": "max by (job_name, status) (credit_risk_dagster_runs)"},
                "short",
                width=8,
            )
        )
        .with_panel(
            series(
                "Daemons",
                "Seconds since each daemon last said that it is alive; it does every 30.",
                {
                    "{{daemon}}": "time() - max by (daemon) "
                    "(credit_risk_dagster_daemon_heartbeat_timestamp_seconds)"
                },
                "s",
                width=8,
                steps=[(None, GREEN), (120, RED)],
            )
        )
        .with_panel(
            series(
                "Sensors",
                "Seconds since each sensor was last evaluated, and how long the oldest run waits "
                "to begin.",
                {
                    "{{name}}": "time() - max by (name) "
                    '(credit_risk_dagster_last_tick_timestamp_seconds{kind="sensor"})',
                    "oldest waiting run": "max(credit_risk_dagster_oldest_queued_run_seconds)",
                },
                "s",
                width=8,
                steps=[(None, GREEN), (180, RED)],
            )
        )
        .with_panel(
            rows(
                "Newest batches",
                "The ledger: what was committed, by which run, and how long it took.",
                """
                SELECT batch_id, committed_at, run_id, lane, scored, rejected, gaps,
                    round((latency_sum_s / nullif(scored + rejected, 0))::numeric, 3)
                        AS mean_latency_s,
                    round((fetch_ms + decode_ms + score_ms + copy_ms)::numeric, 1) AS work_ms
                FROM ${schema}.batches WHERE $__timeFilter(committed_at)
                ORDER BY committed_at DESC LIMIT 50
                """,
            ).override_by_name("run_id", _run_link())
        )
    )


def risk() -> dashboard.Dashboard:
    """What is decided, of whom, and how well."""
    psi: Steps = [(None, GREEN), (0.1, YELLOW), (0.25, RED)]
    levels = {0.0: ("stable", GREEN), 1: ("moderate", YELLOW), 2: ("significant", RED)}
    return (
        _dashboard(
            "credit-risk-risk",
            "Risk",
            "What the policy decides, whether the applicants are still those it was made for, and "
            "whether a model would do better.",
        )
        .with_row(dashboard.Row("Now"))
        .with_panel(
            number(
                "Applications",
                "Scored within an hour.",
                "sum(max by (tier) (increase(credit_risk_decisions_total[1h])))",
                "short",
                _ANY,
                width=4,
            )
        )
        .with_panel(
            number(
                "Watchlist",
                "Share of the applications of an hour with an early warning.",
                'max(rate(credit_risk_decisions_total{tier="Watchlist"}[1h]))'
                " / sum(max by (tier) (rate(credit_risk_decisions_total[1h])))",
                "percentunit",
                _ANY,
                width=4,
            )
        )
        .with_panel(
            number(
                "Rejected",
                "Share of the events of an hour that could not be scored.",
                'max(rate(credit_risk_events_total{outcome="rejected"}[1h]))'
                ' / sum(max by (outcome) (rate(credit_risk_events_total{outcome!="gap"}[1h])))',
                "percentunit",
                [(None, GREEN), (0.05, YELLOW), (0.1, RED)],
                width=4,
            )
        )
        .with_panel(
            number(
                "Drift",
                "Verdict of the newest drift report.",
                "max(credit_risk_drift_level)",
                "none",
                [(None, GREEN), (1, YELLOW), (2, RED)],
                width=4,
                words=levels,
            )
        )
        .with_panel(
            number(
                "Drift report",
                "Age of the newest.",
                "time() - max(credit_risk_drift_report_timestamp_seconds)",
                "s",
                [(None, GREEN), (86400, YELLOW), (2 * 86400, RED)],
                width=4,
            )
        )
        .with_panel(
            number(
                "Model benchmark",
                "Age of the newest.",
                "time() - max(credit_risk_model_benchmark_timestamp_seconds)",
                "s",
                [(None, GREEN), (7 * 86400, YELLOW), (14 * 86400, RED)],
                width=4,
            )
        )
        .with_row(dashboard.Row("Decisions"))
        .with_panel(
            series(
                "Decisions by tier",
                "Applications scored a second.",
                {"{{tier}}": "max by (tier) (rate(credit_risk_decisions_total[$__rate_interval]))"},
                "cps",
                stacked=True,
            )
        )
        .with_panel(
            series(
                "Share of each tier",
                "Of the applications of the last five minutes.",
                {
                    "{{tier}}": "max by (tier) (rate(credit_risk_decisions_total[5m]))"
                    " / ignoring(tier) group_left"
                    " sum(max by (tier) (rate(credit_risk_decisions_total[5m])))"
                },
                "percentunit",
                top=1,
            )
        )
        .with_panel(
            series(
                "Rejects by reason",
                "Events a second that could not be scored.",
                {
                    "{{reason}}": "max by (reason) "
                    "(rate(credit_risk_rejects_total[$__rate_interval])) > 0"
                },
                "cps",
                stacked=True,
            )
        )
        .with_panel(
            rows(
                "Early warnings by reason",
                "Applications of the period on the Watchlist; one may have several reasons.",
                """
                SELECT reason, count(*) AS applications, round(avg(loan_amnt)) AS mean_loan_usd,
                    max(scored_at) AS newest
                FROM ${schema}.scored_applications, unnest(reasons) AS reason
                WHERE risk_tier = 'Watchlist' AND $__timeFilter(scored_at)
                GROUP BY reason ORDER BY applications DESC
                """,
                width=12,
            )
        )
        .with_row(dashboard.Row("Population"))
        .with_panel(
            bars(
                "PSI by feature",
                "Population stability index of each feature in the newest drift report: moderate "
                "from 0.1, significant above 0.25.",
                "sort_desc(max by (feature) (credit_risk_psi))",
                "{{feature}}",
                "none",
                psi,
            )
        )
        .with_panel(
            series(
                "PSI",
                "Of the risk tiers, and of the features that moved most.",
                {
                    "risk tier": "max(credit_risk_tier_psi)",
                    "{{feature}}": "topk(5, max by (feature) (credit_risk_psi))",
                },
                "none",
                steps=psi,
            )
        )
        .with_panel(
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
            )
        )
        .with_row(dashboard.Row("Rules and models"))
        .with_panel(
            bars(
                "Area under the ROC curve",
                "Of the policy's rules and of each model, out of fold, on the same loans. 0.5 is "
                "chance.",
                "max by (subject) (credit_risk_model_auc)",
                "{{subject}}",
                "none",
                [(None, RED), (0.55, YELLOW), (0.65, GREEN)],
                width=8,
            )
        )
        .with_panel(
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
            )
        )
        .with_panel(
            rows(
                "Newest benchmarks",
                "With 95 % intervals, and what follows from them.",
                """
                SELECT created_at, subject, outcome, rows, bads, auc, auc_low, auc_high, gini, ks,
                    brier, verdict
                FROM ${schema}.model_benchmarks ORDER BY created_at DESC, subject LIMIT 20
                """,
            )
        )
    )


ALL = (pipeline_health, risk)


def _dashboard(uid: str, title: str, description: str) -> dashboard.Dashboard:
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([_TAG])
        .timezone("browser")
        .refresh("10s")
        .time("now-30m", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .editable()
        .variables(
            [
                _datasource("prometheus", "Prometheus", "credit-risk-prometheus"),
                _datasource("warehouse", "Warehouse", "credit-risk-warehouse", "postgres"),
                dashboard.ConstantVariable("schema").label("Schema").value("credit_risk"),
                _address("dagster_url", "Dagster", "http://127.0.0.1:3000"),
                _address("dashboard_url", "Dashboard", "http://127.0.0.1:8501"),
            ]
        )
        .links(
            [
                dashboard.DashboardLink("Credit risk")
                .type(DashboardLinkType.DASHBOARDS)
                .tags([_TAG])
                .keep_time(True)
                .include_vars(True),
                _link("Dagster", "${dagster_url}/overview/activity/timeline", "Runs and sensors"),
                _link("Dashboard", "${dashboard_url}", "What the credit-risk team looks at"),
            ]
        )
    )


def _datasource(
    name: str, label: str, uid: str, kind: str | None = None
) -> dashboard.DatasourceVariable:
    return (
        dashboard.DatasourceVariable(name)
        .label(label)
        .type(kind or name)
        .current(VariableOption(selected=True, text=label, value=uid))
    )


def _address(name: str, label: str, url: str) -> dashboard.TextBoxVariable:
    return (
        dashboard.TextBoxVariable(name)
        .label(f"Address of {label}")
        .default_value(url)
        .current(VariableOption(selected=True, text=url, value=url))
    )


def _link(title: str, url: str, tooltip: str) -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink(title)
        .type(DashboardLinkType.LINK)
        .url(url)
        .tooltip(tooltip)
        .icon("external link")
        .target_blank(True)
    )


def _run_link() -> list[DynamicConfigValue]:
    """Leads from a run's id to the run in Dagster."""
    return [
        DynamicConfigValue(
            "links",
            [
                {
                    "title": "The run in Dagster",
                    "url": "${dagster_url}/runs/${__value.raw}",
                    "targetBlank": True,
                }
            ],
        )
    ]
