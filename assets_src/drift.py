"""The assets of drift: the baseline, the report with its checks, and their jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets_src.common import (
    OWNERS,
    asset_job,
    check_result,
    kept_fresh,
    one_line_failures,
    scheduled,
    table,
)
from assets_src.source_code import code_version, linked
from credit_risk_dagster.domain.drift.comparison import Drift
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.pipelines.drift import (
    DriftReport,
    NothingScored,
    TooFewApplications,
    freeze_baseline,
    report_drift,
)
from credit_risk_dagster.pipelines.policies import current_policy
from credit_risk_dagster.settings import DriftSettings, Settings
from resources.lake import Lake
from resources.postgres.baselines import StoredBaseline
from resources.postgres.connection import Warehouse

_CRON = DriftSettings.at_load().cron

BASELINE = dg.AssetKey("drift_baseline")
REPORT = dg.AssetKey("drift_report")

PSI_SIGNIFICANT = dg.AssetCheckSpec(
    "psi_significant",
    asset=REPORT,
    description=(
        "No feature's PSI is above 0.25 (CREDIT_RISK_DRIFT_PSI_SIGNIFICANT) and above what chance "
        "explains. If it fails, the applicants are others than those of the baseline (by default "
        "the first 5,000): open the HTML report, ask who sends the applications what changed (a "
        "channel, a campaign, a unit), and tell the policy's owner before the next decision on "
        "limits. If the change is here to stay, freeze a new baseline."
    ),
)
PSI_MODERATE = dg.AssetCheckSpec(
    "psi_moderate",
    asset=REPORT,
    description=(
        "No feature's PSI is from 0.10 (CREDIT_RISK_DRIFT_PSI_MODERATE) to 0.25. If it fails, "
        "nothing is urgent: look whether the next reports go on rising, and at the feature's "
        "distribution."
    ),
)
REJECT_SHARE = dg.AssetCheckSpec(
    "reject_share",
    asset=REPORT,
    description=(
        "The share of events that cannot be scored is not above its control limit (what the days "
        "before and chance explain, but for one week in 20). If it fails, applications are not "
        "decided: `credit-risk rejected ls` tells the reasons, `rejected show` an event; tell the "
        "producer, and `rejected redrive` after the fix."
    ),
)
WATCHLIST_SHARE = dg.AssetCheckSpec(
    "watchlist_share",
    asset=REPORT,
    description=(
        "The Watchlist's share is within its control limits (what the days before and chance "
        "explain, but for one week in 20). If it fails, compare the drifted features: a rise with "
        "drift in DTI, utilization, delinquencies or inquiries is the population; without it, ask "
        "whether the policy was changed. Tell the underwriters how many cases to expect."
    ),
)


class BaselineConfig(dg.Config):
    """What to freeze; without any of it, what CREDIT_RISK_DRIFT_BASELINE_* say."""

    rows: int | None = Field(
        default=None, ge=100, le=100_000, description="first applications of the stream"
    )
    csv: str = Field(default="", description="a LendingClub CSV on the run's machine instead")
    skip_bad: bool = Field(
        default=False, description="leave out the CSV's damaged rows, and count them"
    )
    name: str = Field(default="", max_length=100, description="for people")
    activate: bool = Field(
        default=True, description="compare with it from now on if it is the first"
    )


@dg.asset(
    key=BASELINE,
    group_name="drift",
    deps=["scored_applications"],
    description="The population that drift is measured from, frozen: bin edges and shares of every "
    "feature, and no rows. Materializing it freezes another one.",
    kinds={"postgres", "python"},
    owners=OWNERS,
    code_version=code_version(
        "credit_risk_dagster.pipelines.drift", "credit_risk_dagster.domain.drift"
    ),
)
def drift_baseline(
    config: BaselineConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult:
    """Freeze a baseline."""
    csv = Path(config.csv) if config.csv else None
    with one_line_failures():
        stored, new = freeze_baseline(
            warehouse,
            settings.drift.with_csv(csv, skip_bad=config.skip_bad),
            settings.kafka.topic,
            current_policy(warehouse, settings.policy),
            rows=None if csv else config.rows,
            name=config.name or None,
            activate=config.activate,
        )
    return dg.MaterializeResult(metadata={**_baseline_metadata(stored), "new": new})


def _baseline_metadata(stored: StoredBaseline) -> dict[str, Any]:
    return {
        "dagster/row_count": stored.rows,
        "baseline": stored.baseline_id,
        "name": stored.name,
        "origin": stored.origin,
        "rejected": stored.rejected,
        "active": stored.active,
        "content hash": stored.content_hash,
    }


class ReportConfig(dg.Config):
    """Which window to report; without any of it, what CREDIT_RISK_DRIFT_WINDOW_* say."""

    last_rows: int | None = Field(default=None, ge=1, description="the newest applications")
    last_hours: float | None = Field(
        default=None, gt=0, description="what was scored in so many hours instead"
    )
    html: bool = Field(default=True, description="also make the HTML report and put it on S3")


@dg.asset(
    key=REPORT,
    group_name="drift",
    deps=[BASELINE, "scored_applications", "rejected_events"],
    description="How far the newest applications are from the baseline: PSI, Kolmogorov-Smirnov, "
    "chi-square and shifts of every feature, and the decisions' shares.",
    kinds={"postgres", "s3", "python"},
    owners=OWNERS,
    code_version=code_version(
        "credit_risk_dagster.pipelines.drift", "credit_risk_dagster.domain.drift"
    ),
    freshness_policy=kept_fresh(_CRON),
    output_required=False,
    check_specs=[PSI_SIGNIFICANT, PSI_MODERATE, REJECT_SHARE, WATCHLIST_SHARE],
)
def drift_report(
    context: dg.AssetExecutionContext,
    config: ReportConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    lake: dg.ResourceParam[Lake],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Compare a window with the active baseline; the first report freezes the baseline."""
    if config.last_rows and config.last_hours:
        raise dg.Failure("give last_rows or last_hours, not both", allow_retries=False)
    with one_line_failures():
        try:
            report = report_drift(
                warehouse,
                settings.drift,
                settings.kafka.topic,
                current_policy(warehouse, settings.policy),
                run_id=context.run.run_id,
                last_rows=config.last_rows,
                last_hours=config.last_hours,
            )
        except (TooFewApplications, NothingScored) as error:
            context.log.info("no report: %s", error)
            for spec in (PSI_SIGNIFICANT, PSI_MODERATE, REJECT_SHARE, WATCHLIST_SHARE):
                yield check_result(spec, True, f"no report yet: {error}")
            return
    if report.froze:
        context.log_event(
            dg.AssetMaterialization(
                BASELINE,
                description="frozen by the first report",
                metadata=_baseline_metadata(report.stored),
            )
        )
    if config.html:
        # Evidently is slow to import.
        from credit_risk_dagster.pipelines.evidently_report import publish_html

        publish_html(report, warehouse, lake, context.log)
    yield dg.MaterializeResult(asset_key=REPORT, metadata=_metadata(report))
    yield from _checks(report)


def _checks(report: DriftReport) -> Iterator[dg.AssetCheckResult]:
    drift, rows = report.drift, report.window.rows
    small = rows < report.thresholds.min_rows
    few = (
        f"{counted(rows, 'application is', 'applications are')} too few to tell: "
        "CREDIT_RISK_DRIFT_MIN_ROWS is "
        f"{report.thresholds.min_rows:,}"
    )
    for spec, verdict, severity in (
        (PSI_SIGNIFICANT, "significant", dg.AssetCheckSeverity.ERROR),
        (PSI_MODERATE, "moderate", dg.AssetCheckSeverity.WARN),
    ):
        found = [(f.feature, f.psi) for f in drift.features if f.verdict == verdict]
        if drift.tier_verdict == verdict:
            found.append(("the tiers", drift.tier_psi))
        found.sort(key=lambda item: -(item[1] or 0))
        said = ", ".join(f"{name} {psi:.3f}" for name, psi in found)
        yield check_result(
            spec,
            not found,
            few if small else f"PSI of {said}" if found else f"none of the features is {verdict}",
            {"features": len(found), "highest PSI": max(f.psi or 0.0 for f in drift.features)},
            severity,
        )
    reject = drift.reject_limits[1] if drift.reject_limits else 1.0
    rejected = drift.reject_share or 0.0
    yield check_result(
        REJECT_SHARE,
        rejected <= reject or small,
        few if small else f"{rejected:.2%} of the events were rejected, limit {reject:.2%}",
        {"reject share": rejected, "upper limit": reject},
    )
    yield _watchlist_check(drift, few if small else None)


def _watchlist_check(drift: Drift, few: str | None) -> dg.AssetCheckResult:
    shares = {
        "the window": (drift.watchlist_share, drift.watchlist_limits),
        "the last 24 hours": (drift.day_share, drift.day_limits),
    }
    known = {of: (share or 0.0, *limits) for of, (share, limits) in shares.items() if limits}
    return check_result(
        WATCHLIST_SHARE,
        bool(few) or all(low <= share <= high for share, low, high in known.values()),
        few
        or "on the Watchlist: "
        + "; ".join(
            f"{share:.2%} of {of}, limits {low:.2%} to {high:.2%}"
            for of, (share, low, high) in known.items()
        ),
        {
            f"{name}, {of}": value
            for of, found in known.items()
            for name, value in zip(("share", "lower limit", "upper limit"), found, strict=True)
        },
        dg.AssetCheckSeverity.WARN,
    )


def _metadata(report: DriftReport) -> dict[str, Any]:
    from dashboard.charts.pictures import distributions, drift_of_features

    drift, period = report.drift, report.period
    low, high = drift.watchlist_interval or (None, None)
    figures: dict[str, Any] = {
        "tier PSI": drift.tier_psi,
        "watchlist share": drift.watchlist_share,
        "watchlist share, 95 % low": low,
        "watchlist share, 95 % high": high,
        "reject share": drift.reject_share,
    }
    return {
        "verdict": drift.verdict.replace("_", " "),
        "dagster/row_count": report.window.rows,
        "PSI": dg.MetadataValue.md(drift_of_features(report)),
        "baseline and window": dg.MetadataValue.md(distributions(report)),
        "features": _features(drift),
        "HTML report": report.html_key or f"none: {report.html_problem}",
        **{name: value for name, value in figures.items() if value is not None},
        "window start": dg.MetadataValue.timestamp(period.start),
        "window end": dg.MetadataValue.timestamp(period.end),
        "baseline": f"{report.stored.baseline_id}: {report.baseline.origin}",
        "report": report.report_id,
        "seconds": round(report.seconds, 2),
    }


def _features(drift: Drift) -> dg.TableMetadataValue:
    def figure(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    return table(
        {
            "feature": f.feature,
            "verdict": f.verdict.replace("_", " "),
            "PSI": figure(f.psi),
            "without drift": figure(f.psi_floor),
            "chance limit": figure(f.psi_limit),
            "KS": figure(f.ks),
            "chi-square": figure(f.chi2),
            "p": figure(f.chi2_p if f.ks_p is None else f.ks_p),
            "mean": figure(f.mean),
            "mean was": figure(f.reference_mean),
            "median": figure(f.median),
            "median was": figure(f.reference_median),
            "missing": figure(f.missing_share),
            "missing was": figure(f.reference_missing_share),
        }
        for f in sorted(drift.features, key=lambda feature: -(feature.psi or 0))
    )


freeze_baseline_job = asset_job(
    "freeze_baseline",
    selection=dg.AssetSelection.assets(BASELINE),
    description="Freeze the population that drift is measured from: the first applications of the "
    "stream, or a CSV. Reports compare with the first one from then on, unless `activate` is "
    "false; with another one when somebody else approved it.",
)
report_drift_job = asset_job(
    "report_drift",
    selection=dg.AssetSelection.assets(REPORT),
    description="Compare the newest applications with the baseline. Launch it as it is, or with "
    "`last_rows` or `last_hours`.",
    tags={"dagster/max_runtime": "3600"},
)
drift_schedule = scheduled(
    job=report_drift_job,
    cron_schedule=_CRON,
    description="Reports drift of the newest applications (CREDIT_RISK_DRIFT_CRON).",
)

defs = dg.Definitions(
    assets=linked(drift_baseline, drift_report),
    jobs=[freeze_baseline_job, report_drift_job],
    schedules=[drift_schedule],
)
