"""The drift report as one HTML file: this platform's numbers, and Evidently's distributions.

Evidently draws each column of two samples. The baseline keeps no rows, so its columns are made of
its counts: each alone is distributed exactly as in the baseline, together they are no applications.
The statistics that Evidently shows are the ones computed here, not its own with other bins.
"""

import logging
from collections.abc import Callable
from html import escape
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.drift.baseline import FEATURES, MISSING, OTHER, Feature, Reference
from credit_risk_dagster.domain.drift.comparison import FeatureDrift
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.drift import DriftReport
from credit_risk_dagster.pipelines.html_reports import put_page
from resources.lake import Lake
from resources.postgres.connection import Warehouse
from resources.postgres.drift import DriftLedger

_REFERENCE_ROWS = 5_000
_HTML_ROWS = 5_000


def publish_html(
    report: DriftReport, warehouse: Warehouse, lake: Lake, log: logging.Logger
) -> None:
    """Make the HTML of a report and put it on S3. What goes wrong is noted in the report: its
    numbers are stored, and stay."""
    try:
        if find_spec("evidently") is None:
            raise PlatformError("Evidently is not installed; the extra `report` has it")
        with warehouse.session("drift") as connection:
            sample = DriftLedger(connection).sample(report.period, report.window.rows, _HTML_ROWS)
        key = put_page(lake, "drift", report.period.end, render(report, sample))
        with warehouse.session("drift") as connection:
            DriftLedger(connection).set_html(report.report_id, key)
    except PlatformError as error:
        report.html_problem = str(error)
    except Exception as error:
        log.warning("Evidently failed", exc_info=True)
        report.html_problem = f"Evidently failed: {type(error).__name__}: {error}"
    else:
        report.html_key, report.html_problem = key, ""
        return
    log.warning("no HTML report: %s", report.html_problem)


def render(report: DriftReport, sample: pa.Table) -> str:
    """The HTML file of a report.

    Args:
        report: its numbers.
        sample: rows of its window, for the pictures.
    """
    references = {r.feature: r for r in report.baseline.references}
    reference, current = {}, {}
    for feature in FEATURES:
        before = _reference_column(references[feature.name])
        now = _current_column(feature, references[feature.name], sample)
        if before.notna().any() and now.notna().any():  # Evidently refuses a column without values
            reference[feature.name], current[feature.name] = before, now
    page = _evidently(report, pd.DataFrame(reference), pd.DataFrame(current)) if reference else ""
    if "<body>" not in page:
        page = "<!doctype html><html><head><meta charset='UTF-8'></head><body></body></html>"
    title = f"Drift to {report.period.end:%Y-%m-%d %H:%M:%S} UTC"
    return page.replace("<head>", f"<head><title>{title}</title>", 1).replace(
        "<body>", f"<body>{_summary(report, title)}", 1
    )


def _evidently(report: DriftReport, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.presets import DataDriftPreset

    def known(drift: FeatureDrift) -> Callable[..., tuple[float, bool]]:
        return lambda *_: (drift.psi or 0.0, drift.verdict == "significant")

    methods = {}
    for drift in report.drift.features:
        if drift.feature in reference:
            methods[drift.feature] = StatTest(
                name=f"credit_risk_psi_{drift.feature}",
                display_name="PSI over the baseline's bins",
                allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
                default_threshold=report.thresholds.significant,
            )
            register_stattest(methods[drift.feature], known(drift))
    kinds = {f.name: f.kind for f in FEATURES}
    definition = DataDefinition(
        numerical_columns=[name for name in methods if kinds[name] == "number"],
        categorical_columns=[name for name in methods if kinds[name] == "category"],
    )
    preset = DataDriftPreset(
        columns=list(methods),
        per_column_method=methods,
        drift_share=0.01,  # the population drifts when one feature does
    )
    snapshot = Report([preset]).run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(reference, data_definition=definition),
    )
    html: str = snapshot.get_html_str(as_iframe=False)
    return html


def _reference_column(reference: Reference) -> pd.Series:
    if reference.kind == "category":
        names = [*reference.categories, OTHER]
        return pd.Series(_thinned(np.array(names, object), reference.counts)).replace(MISSING, None)
    # The support has the smallest value, so nothing is below it; what is between two values that
    # were kept counts as the lower one.
    values = np.repeat(reference.support, 2)
    counts = np.append(reference.support_counts[1:], reference.missing)
    return pd.Series(_thinned(np.append(values, np.nan), counts), dtype=float)


def _thinned(values: Any, counts: Any) -> Any:
    """Each value as often as it was counted, or evenly fewer when they are many."""
    total = int(counts.sum())
    step = max(1, -(-total // _REFERENCE_ROWS))
    return values[np.searchsorted(np.cumsum(counts), np.arange(0, total, step), side="right")]


def _current_column(feature: Feature, reference: Reference, sample: pa.Table) -> pd.Series:
    column = sample[feature.column]
    if feature.kind == "number":
        return pd.Series(column.to_pandas(), dtype=float)
    texts = pc.cast(column, pa.string()).to_pandas().astype(object)
    return texts.where(texts.isna() | texts.isin(reference.categories), OTHER)


# --- the numbers ----------------------------------------------------------------------------------

_STYLE = """<style>
.credit-risk { font: 15px/1.5 Roboto, system-ui, sans-serif; margin: 24px auto; max-width: 1400px;
  padding: 0 24px; color: #1a1a1a; background: #fff; }
.credit-risk h1 { font-size: 26px; font-weight: 500; margin: 0 0 4px; }
.credit-risk table { border-collapse: collapse; width: 100%; margin-top: 16px; }
.credit-risk td { white-space: nowrap; }
.credit-risk th, .credit-risk td { padding: 4px 8px; text-align: right;
  border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
.credit-risk th { font-weight: 500; }
.credit-risk th:first-child, .credit-risk td:first-child, .credit-risk td:last-child,
.credit-risk th:last-child { text-align: left; }
.credit-risk .significant { color: #b3261e; font-weight: 600; }
.credit-risk .moderate { color: #8a5300; font-weight: 600; }
.credit-risk .note { color: #555; font-size: 13px; }
</style>"""


def _summary(report: DriftReport, title: str) -> str:
    drift, period = report.drift, report.period
    limits = drift.watchlist_limits
    rows = "".join(_row(feature) for feature in drift.features)
    watchlist = (
        f"Watchlist {_percent(drift.watchlist_share)}"
        + (
            f" (95 %: {' to '.join(map(_percent, drift.watchlist_interval))};"
            if drift.watchlist_interval
            else ""
        )
        + (f" control limits {' to '.join(map(_percent, limits))})" if limits else "")
        + (
            f", of the last 24 hours {_percent(drift.day_share)} "
            f"(control limits {' to '.join(map(_percent, drift.day_limits))})"
            if drift.day_limits
            else ""
        )
        + f", rejected {_percent(drift.reject_share)}, PSI of the tiers {_figure(drift.tier_psi)}."
    )
    return (
        f"{_STYLE}<section class='credit-risk'><h1>{escape(title)}: "
        f"<span class='{drift.verdict}'>{_words(drift.verdict)}</span></h1>"
        f"<p>{counted(report.window.rows, 'decision')} made from "
        f"{period.start:%Y-%m-%d %H:%M:%S} to {period.end:%Y-%m-%d %H:%M:%S} UTC, compared with "
        f"baseline {report.stored.baseline_id}: {escape(report.baseline.origin)}. {watchlist}</p>"
        "<table><tr><th>feature</th><th>PSI</th><th>without drift</th><th>chance limit</th>"
        "<th>KS</th><th>p</th><th>chi-square</th><th>p</th><th>mean</th><th>was</th>"
        "<th>median</th><th>was</th><th>missing</th><th>was</th><th>verdict</th></tr>"
        f"{rows}</table><p class='note'>PSI from {report.thresholds.moderate:g} on is moderate, "
        f"above {report.thresholds.significant:g} significant, when it is also above what chance "
        "has in one week in 20. The pictures below are of at most 5,000 rows; the "
        "baseline's are drawn from its counts, each column for itself.</p></section>"
    )


def _row(drift: FeatureDrift) -> str:
    cells = [
        *(_figure(drift.psi), _figure(drift.psi_floor), _figure(drift.psi_limit)),
        *(_figure(drift.ks), _figure(drift.ks_p), _figure(drift.chi2), _figure(drift.chi2_p)),
        *(_figure(drift.mean), _figure(drift.reference_mean)),
        *(_figure(drift.median), _figure(drift.reference_median)),
        *(_percent(drift.missing_share), _percent(drift.reference_missing_share)),
    ]
    return (
        f"<tr><td>{escape(drift.feature)}</td>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + f"<td class='{drift.verdict}'>{_words(drift.verdict)}</td></tr>"
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f} %"


def _words(verdict: str) -> str:
    return verdict.replace("_", " ")
