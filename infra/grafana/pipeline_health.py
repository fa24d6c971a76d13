"""Dashboard Pipeline health; `make grafana` writes it as Grafana reads it."""

from grafana_foundation_sdk.builders import dashboard

from infra.grafana.layout import ANY, Panel, assembled, new_dashboard, run_link, zero_or
from infra.grafana.panels import (
    GREEN,
    RED,
    YELLOW,
    density,
    number,
    rows,
    series,
)


def pipeline_health() -> dashboard.Dashboard:
    """Rate, errors, duration and saturation of the stream; the archive; Dagster."""
    return assembled(
        new_dashboard(
            "credit-risk-pipeline",
            "Pipeline health",
            "Is every application scored, in time, exactly once? Rate, errors, duration and "
            "saturation of the stream, and how Dagster does.",
        ),
        {
            "Now": _now(),
            "What must not be": _must_not_be(),
            "Rate, errors, duration": _rate_errors_duration(),
            "Saturation": _saturation(),
            "Archive and storage": _archive_and_storage(),
            "Dagster": _dagster(),
        },
    )


def _now() -> list[Panel]:
    return [*_stream_now(), *_servers_now()]


def _stream_now() -> list[Panel]:
    return [
        number(
            "Events",
            "Events committed a second, scored or rejected.",
            'sum(max by (outcome) (rate(credit_risk_events_total{outcome=~"scored|rejected"}'
            "[$__rate_interval])))",
            "eps",
            ANY,
        ),
        number(
            "Oldest waiting event",
            "How long the oldest event that is not committed has waited in the topic.",
            "max(credit_risk_lag_seconds)",
            "s",
            [(None, GREEN), (5, YELLOW), (30, RED)],
        ),
        number(
            "Late events",
            "Share of events that took more than 0.4 s to their commit. The objective allows 5 %.",
            "1 - max(rate(credit_risk_event_to_commit_seconds_bucket"
            '{le="0.4"}[$__rate_interval]))'
            " / max(rate(credit_risk_event_to_commit_seconds_count[$__rate_interval]))",
            "percentunit",
            [(None, GREEN), (0.05, YELLOW), (0.3, RED)],
        ),
        number(
            "Last commit",
            "Seconds since the newest batch was committed. Without applications it grows.",
            "time() - max(credit_risk_last_commit_timestamp_seconds)",
            "s",
            [(None, GREEN), (60, YELLOW), (120, RED)],
        ),
    ]


def _servers_now() -> list[Panel]:
    return [
        number(
            "Rejected",
            "Share of events that could not be scored.",
            'max(rate(credit_risk_events_total{outcome="rejected"}[$__rate_interval]))'
            ' / sum(max by (outcome) (rate(credit_risk_events_total{outcome=~"scored|rejected"}'
            "[$__rate_interval])))",
            "percentunit",
            [(None, GREEN), (0.05, YELLOW), (0.1, RED)],
        ),
        number(
            "Missing or doubled",
            "Offsets that are not stored exactly once, until somebody clears them by name. "
            "Anything but 0 is an incident: see the runbook.",
            "max(credit_risk_reconciliation_difference_offsets)",
            "none",
            zero_or(RED),
        ),
        number(
            "Servers up",
            "Of warehouse, broker and Dagster's storage, how many answer.",
            "max(credit_risk_warehouse_up) + max(credit_risk_broker_up)"
            " + max(credit_risk_dagster_up)",
            "none",
            [(None, RED), (3, GREEN)],
        ),
        number(
            "Failed runs",
            "Runs that failed within an hour, of all jobs.",
            'sum(max by (job_name) (credit_risk_dagster_runs{status="FAILURE"})) or vector(0)',
            "none",
            [(None, GREEN), (1, YELLOW), (3, RED)],
        ),
    ]


def _must_not_be() -> list[Panel]:
    return [
        number(
            "Lost events",
            "Events that the broker removed before they were scored, until somebody says to know.",
            "max(credit_risk_lost_events_unacknowledged)",
            "none",
            zero_or(RED),
            width=4,
        ),
        number(
            "Topic",
            "Whether it is missing, or is not the one that was scored: then nothing is.",
            "max(credit_risk_topic_missing) + 2 * max(credit_risk_topic_replaced)",
            "none",
            zero_or(RED),
            width=4,
            words={0: ("as it was", GREEN), 1: ("missing", RED), 2: ("replaced", RED)},
        ),
        number(
            "Held back",
            "Offsets that nobody can read until a producer's transaction is over.",
            "sum(max by (partition) (credit_risk_open_transaction_offsets))",
            "none",
            zero_or(YELLOW),
            width=4,
        ),
        number(
            "Unstorable, 1 h",
            "Events of an hour that Postgres refused, which are rejected for that.",
            "max(increase(credit_risk_unstorable_events_total[1h]))",
            "none",
            zero_or(YELLOW),
            width=4,
        ),
        number(
            "Failing checks",
            "Asset checks that failed when they were last evaluated, warnings too.",
            "sum(max by (asset, check, severity) (credit_risk_check_failed)) or vector(0)",
            "none",
            zero_or(YELLOW),
            width=4,
        ),
        number(
            "Oldest answer",
            "What is shown here is from the last answer of each server; this is the oldest.",
            "max(min by (server) (credit_risk_answer_age_seconds))",
            "s",
            [(None, GREEN), (15, YELLOW), (60, RED)],
            width=4,
        ),
    ]


def _rate_errors_duration() -> list[Panel]:
    return [
        series(
            "Events by outcome",
            "Committed a second. A gap is an offset that the broker no longer had.",
            {"{{outcome}}": "max by (outcome) (rate(credit_risk_events_total[$__rate_interval]))"},
            "eps",
            stacked=True,
        ),
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
        ),
        density(
            "Latency",
            "How many events a second took how long to their commit.",
            "max by (le) (rate(credit_risk_event_to_commit_seconds_bucket[$__rate_interval]))",
            "s",
        ),
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
        ),
    ]


def _saturation() -> list[Panel]:
    return [
        series(
            "Lag",
            "Offsets in the topic that are not committed yet, by partition.",
            {"partition {{partition}}": "max by (partition) (credit_risk_lag_events)"},
            "short",
        ),
        series(
            "Waiting time",
            "How long the oldest event of each partition that is not committed has waited.",
            {"partition {{partition}}": "max by (partition) (credit_risk_lag_seconds)"},
            "s",
            steps=[(None, GREEN), (30, RED)],
        ),
        series(
            "Duration of a batch's stages",
            "95th percentile, of batches of any size.",
            {
                "{{stage}}": "histogram_quantile(0.95, max by (stage, le) "
                "(rate(credit_risk_batch_stage_duration_seconds_bucket[$__rate_interval])))"
            },
            "s",
        ),
        series(
            "Size of a batch",
            "Events in a transaction, on average. At CREDIT_RISK_MAX_BATCH_EVENTS it is full.",
            {
                "events": "sum(max by (outcome) (rate(credit_risk_events_total"
                '{outcome=~"scored|rejected"}[$__rate_interval])))'
                " / max(rate(credit_risk_batches_total[$__rate_interval]))"
            },
            "short",
        ),
    ]


def _archive_and_storage() -> list[Panel]:
    return [
        series(
            "Not archived",
            "Age of the oldest committed event that is not on S3; a run archives every five "
            "minutes.",
            {"partition {{partition}}": "max by (partition) (credit_risk_archive_lag_seconds)"},
            "s",
            steps=[(None, GREEN), (1800, RED)],
        ),
        series(
            "Largest tables",
            "With their indexes, over all time partitions.",
            {"{{table}}": "topk(6, max by (table) (credit_risk_table_bytes))"},
            "bytes",
            stacked=True,
        ),
    ]


def _dagster() -> list[Panel]:
    return [
        series(
            "Runs",
            "Those that are not finished, and those that finished within an hour, by job and "
            "status.",
            {"{{job_name}} {{status}}": "max by (job_name, status) (credit_risk_dagster_runs)"},
            "short",
            width=8,
        ),
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
        ),
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
        ),
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
        ).override_by_name("run_id", run_link()),
    ]
