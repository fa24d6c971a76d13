"""The Dagster code location: everything that Dagster knows of the platform."""

import dagster as dg

from assets_src.archive import (
    archive_checksums,
    archive_raw_events,
    archive_schedule,
    raw_event_archive,
    verify_archive_job,
    verify_schedule,
)
from assets_src.drift import (
    drift_baseline,
    drift_report,
    drift_schedule,
    freeze_baseline_job,
    report_drift_job,
)
from assets_src.model import activate_model, benchmark_models, benchmark_schedule, model_loans
from assets_src.rebuild import rebuild_from_archive, rebuilt_applications
from assets_src.redrive import redrive_rejected
from assets_src.retention import apply_retention, retention_schedule
from assets_src.scoring import loan_applications, score_applications, score_stream
from assets_src.segments import roll_up_segments, segments_by_hour, segments_schedule
from assets_src.stream_checks import (
    check_stream,
    check_stream_schedule,
    freshness,
    schema_change,
)
from credit_risk_dagster import logs
from resources.configurable import BrokerResource, LakeResource, WarehouseResource
from sensors.alerts import failing_sensors, run_failures
from sensors.offsets import loan_applications_offsets
from sensors.population import population_drifted

# Dagster's processes that run this code (its code server, each run) begin here.
logs.configure(in_dagster=True)

defs = dg.Definitions(
    assets=[
        loan_applications,
        score_stream,
        raw_event_archive,
        rebuilt_applications,
        drift_baseline,
        drift_report,
        model_loans,
        segments_by_hour,
    ],
    asset_checks=[archive_checksums, freshness, schema_change],
    jobs=[
        score_applications,
        archive_raw_events,
        verify_archive_job,
        rebuild_from_archive,
        redrive_rejected,
        apply_retention,
        freeze_baseline_job,
        report_drift_job,
        benchmark_models,
        activate_model,
        check_stream,
        roll_up_segments,
    ],
    schedules=[
        archive_schedule,
        verify_schedule,
        retention_schedule,
        drift_schedule,
        benchmark_schedule,
        check_stream_schedule,
        segments_schedule,
    ],
    sensors=[loan_applications_offsets, population_drifted, run_failures, failing_sensors],
    resources={
        "broker": BrokerResource(),
        "warehouse": WarehouseResource(),
        "lake": LakeResource(),
    },
)
