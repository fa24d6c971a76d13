"""The Dagster code location: everything that Dagster knows of the platform, by subject."""

import logging

import dagster as dg

from assets_src import (
    archive,
    drift,
    forget,
    maintenance,
    model,
    outcomes,
    policies,
    portfolio,
    rebuild,
    redrive,
    retention,
    reviews,
    scoring,
    segments,
    stream_checks,
    weekly,
)
from credit_risk_dagster import logs
from credit_risk_dagster.base_settings import misspelt, wrong
from credit_risk_dagster.settings import GROUPS, ApiSettings, DashboardSettings
from resources.configurable import resources
from resources.dagster_internals import fork_runs
from sensors import alerts, first_reports, observation, offsets, population

# Dagster's processes that run this code (its code server, each run) begin here.
logs.configure(in_dagster=True)
for line in misspelt(GROUPS):
    logging.getLogger(__name__).warning(line)
# The code loads all the same: the runs and ticks that need a wrong one fail with its line.
for line in wrong(group for group in GROUPS if group not in (ApiSettings, DashboardSettings)):
    logging.getLogger(__name__).error(line)

_SUBJECTS = (
    *(scoring, stream_checks, archive, maintenance, rebuild, redrive, retention, forget),
    *(drift, outcomes, model, portfolio, policies, segments, reviews, weekly),
    *(offsets, observation, population, first_reports, alerts),
)

defs = dg.Definitions.merge(
    *(subject.defs for subject in _SUBJECTS), dg.Definitions(resources=resources())
)
# Dagster asks for it in any case, each run anew unless it is there when the run is forked.
defs.get_repository_def()
# Each run imports besides: Dagster's storage, and pandas, for which pyarrow looks.
fork_runs(__name__, "dagster_postgres", "upath.core", "pandas", "pyarrow.pandas_compat")
