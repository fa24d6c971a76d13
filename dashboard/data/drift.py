"""What the Drift page shows: the reports against a baseline, and the features of one."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
import streamlit as st

from dashboard.data.connection import snapshot
from dashboard.parts.periods import PERIODS

DRIFT_REPORTS = 500


@dataclass(frozen=True)
class DriftHistory:
    """The drift reports of a period against one baseline, the oldest first.

    Attributes:
        baselines: every baseline, the active one first: `baseline_id`, `name`, `rows`, `active`.
        baseline_id: of the one whose reports these are; None without any.
        reports: the newest `DRIFT_REPORTS` of them, with the columns of `drift_reports`, times in
            the zone.
        features: `report_id`, `feature`, `psi`, `psi_limit` and `verdict` of each of them.
    """

    as_of: pd.Timestamp
    baselines: pd.DataFrame
    baseline_id: int | None
    reports: pd.DataFrame
    features: pd.DataFrame


@st.cache_data(ttl=10, max_entries=50, show_spinner=False)
def drift_history(period: str, baseline_id: int | None, zone: str) -> DriftHistory:
    """The reports of one of `PERIODS` against a baseline; None is the active one."""
    with snapshot() as db:
        as_of = db.now(zone)
        baselines = db.frame(_BASELINES, zone)
        if baseline_id not in baselines["baseline_id"].to_list():
            baseline_id = None if baselines.empty else int(baselines["baseline_id"].iloc[0])
        length = PERIODS[period].length
        since = datetime.min.replace(tzinfo=UTC) if length is None else as_of - length
        newest = db.frame(
            _DRIFT_REPORTS, zone, baseline=baseline_id, since=since, reports=DRIFT_REPORTS
        )
        reports = newest[::-1].reset_index(drop=True)
        features = db.frame(_DRIFT_HISTORY, zone, reports=reports["report_id"].to_list())
    return DriftHistory(as_of, baselines, baseline_id, reports, features)


@st.cache_data(ttl="10min", max_entries=50, show_spinner=False)
def drift_features(report_id: int) -> pd.DataFrame:
    """Every feature of a report, as `drift_features` and, for its bins, `edges`, `categories` and
    `reference_shares` of the baseline."""
    with snapshot() as db:
        return db.frame(_DRIFT_FEATURES, "UTC", report=report_id)


_BASELINES = """
    SELECT baseline_id, name, rows,
           EXISTS (SELECT FROM activations WHERE kind = 'baseline' AND subject_id = baseline_id
                   AND effective_from <= now() AND effective_to IS NULL) AS active
      FROM drift_baselines ORDER BY active DESC, baseline_id DESC
"""
_DRIFT_REPORTS = """
    SELECT * FROM drift_reports WHERE baseline_id = %(baseline)s AND created_at >= %(since)s
     ORDER BY created_at DESC, report_id DESC LIMIT %(reports)s
"""
_DRIFT_HISTORY = """
    SELECT report_id, feature, psi, psi_limit, verdict FROM drift_features
     WHERE report_id = ANY(%(reports)s) ORDER BY report_id, feature
"""
_DRIFT_FEATURES = """
    SELECT f.*, b.edges, b.categories, b.shares AS reference_shares
      FROM drift_features f
      JOIN drift_reports r USING (report_id)
      JOIN drift_baseline_features b USING (baseline_id, feature)
     WHERE f.report_id = %(report)s ORDER BY f.psi DESC NULLS LAST, f.feature
"""
