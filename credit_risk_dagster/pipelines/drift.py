"""Drift: freezing a baseline, and reporting how far the newest applications are from it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import psycopg
import pyarrow as pa

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.drift.baseline import COLUMNS, Baseline, freeze, with_score
from credit_risk_dagster.domain.drift.comparison import Drift, Thresholds, Window, compare_window
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.loan_files import LoanFile, csv_loans
from credit_risk_dagster.pipelines.policies import require
from credit_risk_dagster.settings import DriftSettings
from resources.postgres.baselines import Baselines, StoredBaseline
from resources.postgres.connection import Warehouse
from resources.postgres.drift import DriftLedger, Period

_CSV_CHUNK = 5_000


class TooFewApplications(PlatformError):
    """There are not enough applications yet to make a baseline of."""


class NothingScored(PlatformError):
    """Nothing of the topic was ever scored."""


# --- the baseline ---------------------------------------------------------------------------------


def freeze_baseline(
    warehouse: Warehouse,
    settings: DriftSettings,
    topic: str,
    policy: Policy,
    *,
    rows: int | None = None,
    name: str | None = None,
    activate: bool = True,
) -> tuple[StoredBaseline, bool]:
    """Freeze the first scored applications of the topic, or the loans of a CSV.

    Args:
        settings: a LendingClub CSV, the whole of which is taken, or how many applications.
        topic: whose newest source is meant.
        policy: decides the loans of a CSV.
        rows: so many applications of the stream, whatever the settings say.
        name: for people; a default says where the rows came from.
        activate: compare with it from now on, if it is the first; another one needs an approval.

    Returns:
        The baseline, and whether it is new: one with exactly these counts is not stored again.

    Raises:
        TooFewApplications, NothingScored, WarehouseUnavailable, NotMigrated.
        LoansUnavailable: the CSV cannot be read.
    """
    csv = None
    if rows is None and settings.baseline_csv:
        csv = csv_loans(settings.baseline_csv, skip_bad=settings.baseline_skip_bad)
    with warehouse.session("baseline") as connection:
        ledger = DriftLedger(connection)
        if csv:
            baseline, source_id = freeze_csv(csv, policy), None
        else:
            source_id = _source(ledger, topic)
            baseline = _freeze_first(ledger, topic, source_id, rows or settings.baseline_rows)
        name = name or (csv.name if csv else f"{topic}, first {baseline.rows:,}")
        baselines = Baselines(connection)
        with baselines.changing():
            baseline_id, new = baselines.add(baseline, name, source_id)
            if activate and baselines.active() is None:
                baselines.activate(baseline_id, "The first baseline")
        return _stored(baselines, baseline_id), new


def _freeze_first(ledger: DriftLedger, topic: str, source_id: int, rows: int) -> Baseline:
    found, rejected = ledger.first_rows(source_id, rows)
    if len(found) < rows:
        raise TooFewApplications(
            f"topic {topic} has {counted(len(found), 'scored application')}, a baseline of "
            f"{rows:,} needs more: wait, lower CREDIT_RISK_DRIFT_BASELINE_ROWS, or give a CSV"
        )
    origin = f"the first {rows:,} scored applications of topic {topic}, source {source_id}"
    return freeze(found, rejected=rejected, origin=origin)


def freeze_csv(csv: LoanFile, policy: Policy) -> Baseline:
    """A baseline of a LendingClub CSV's loans, cleaned and decided as the stream's are.

    Raises:
        LoansUnavailable: the file cannot be read.
        TooFewApplications: none of its loans can be scored.
    """
    encode = msgspec.json.Encoder().encode
    loans = iter(csv)
    parts, rejected = [], 0
    while chunk := [encode(loan) for loan in islice(loans, _CSV_CHUNK)]:
        assessment = assess(decode(chunk), policy)
        scored = with_score(pa.Table.from_batches([assessment.scored]))
        parts.append(scored.select([*COLUMNS, "risk_tier"]))
        rejected += len(assessment.rejected_at)
    if not sum(map(len, parts)):
        raise TooFewApplications(f"{csv.name}: none of its loans can be scored")
    origin = "; ".join(filter(None, (f"the loans of {csv.name}", csv.left_out())))
    return freeze(pa.concat_tables(parts), rejected=rejected, origin=origin)


def activate_baseline(warehouse: Warehouse, baseline_id: int, why: str) -> StoredBaseline:
    """Compare with this baseline from now on.

    Raises:
        NotInOrder: there is none of that id, or nobody other than its author approved it.
        NotPermitted, WarehouseUnavailable, NotMigrated: as their names say.
    """
    with warehouse.session("baseline") as connection:
        require(connection, "approve")
        baselines = Baselines(connection)
        with baselines.changing():
            baselines.activate(baseline_id, why)
        return _stored(baselines, baseline_id)


def _stored(baselines: Baselines, baseline_id: int) -> StoredBaseline:
    return next(b for b in baselines.all() if b.baseline_id == baseline_id)


def _source(ledger: DriftLedger, topic: str) -> int:
    source_id = ledger.newest_source(topic)
    if source_id is None:
        raise NothingScored(
            f"nothing of topic {topic} was scored yet: `credit-risk produce` sends applications"
        )
    return source_id


# --- the report -----------------------------------------------------------------------------------


@dataclass
class DriftReport:
    """A report, as it is stored.

    Attributes:
        stored, baseline: what the window was compared with; `froze` when it was made for it.
        html_key: of the report on S3; None when there is none, and `html_problem` says why.
        seconds: until the numbers were stored.
    """

    report_id: int
    stored: StoredBaseline
    baseline: Baseline
    period: Period
    window: Window
    drift: Drift
    thresholds: Thresholds
    froze: bool
    seconds: float
    html_key: str | None = None
    html_problem: str = "not asked for"


def report_drift(
    warehouse: Warehouse,
    settings: DriftSettings,
    topic: str,
    policy: Policy,
    *,
    run_id: str,
    last_rows: int | None = None,
    last_hours: float | None = None,
) -> DriftReport:
    """Compare the newest applications with the active baseline, and store the numbers.

    Without a baseline, the settings' one is frozen first.

    Args:
        last_rows, last_hours: the newest so many, or those scored in so many hours; without
            either, what the settings say.

    Raises:
        TooFewApplications: there is no baseline, and not enough for one.
        NothingScored, WarehouseUnavailable, NotMigrated.
    """
    started = time.monotonic()
    if last_rows is None:
        last_hours = last_hours or settings.window_hours
    thresholds = Thresholds(settings.psi_moderate, settings.psi_significant, settings.min_rows)
    froze = not _has_baseline(warehouse)
    if froze:
        freeze_baseline(warehouse, settings, topic, policy)
    with warehouse.session("drift") as connection:
        ledger = DriftLedger(connection)
        source_id = _source(ledger, topic)
        stored = Baselines(connection).active()
        assert stored is not None  # noqa: S101 (there is always one once there was one)
        baseline = Baselines(connection).get(stored.baseline_id)
        with _one_snapshot(connection):
            period = (
                ledger.last_hours(source_id, last_hours)
                if last_hours
                else ledger.last_rows(source_id, last_rows or settings.window_rows)
            )
            if period is None:
                raise NothingScored(f"no application of topic {topic} is stored any more")
            window = ledger.count(period, baseline.references)
        drift = compare_window(baseline, window, thresholds)
        report_id = ledger.save(stored.baseline_id, period, window, drift, run_id)
    seconds = time.monotonic() - started
    return DriftReport(
        report_id, stored, baseline, period, window, drift, thresholds, froze, seconds
    )


def _has_baseline(warehouse: Warehouse) -> bool:
    with warehouse.session("drift") as connection:
        return Baselines(connection).active() is not None


@contextmanager
def _one_snapshot(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A transaction whose queries all see the same rows."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
