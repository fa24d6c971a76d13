"""The assets of the stream: the topic, and what the drain makes of it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any

import dagster as dg
from pydantic import Field

from assets_src.columns import REJECTED_EVENTS, SCORED_APPLICATIONS
from assets_src.common import (
    OWNERS,
    asset_job,
    check_result,
    kept_fresh,
    one_line_failures,
    scheduled,
    table,
)
from assets_src.source_code import code_version, linked, written_in
from credit_risk_dagster.base_settings import SettingInvalid
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.bounds import Bound
from credit_risk_dagster.pipelines.drain import DrainReport, drain
from credit_risk_dagster.settings import DrainSettings, KafkaSettings, Settings
from resources.kafka.broker import Broker
from resources.kafka.errors import TopicReplaced
from resources.postgres.connection import Warehouse
from resources.postgres.lost import LostEvents
from resources.postgres.micro_batch import Ledger
from resources.postgres.reconciliation import EVERYTHING, Checked, Reconciliation
from resources.postgres.sums import wrong_sums

# What the sensor asks for: this lane, of so many.
LANE_TAG, LANES_TAG = "credit_risk/lane", "credit_risk/lanes"
# Whoever launches a run by hand wants what is there to be drained, and an end.
_LAUNCH_SECONDS, _LAUNCH_IDLE_SECONDS = 60.0, 5.0
_SHOWN = 20

_log = logging.getLogger(__name__)


def _topic() -> str:
    """The configured topic. Wrong settings stop runs, and not the loading of their code."""
    try:
        return KafkaSettings().topic
    except SettingInvalid:
        return "unknown: the settings KAFKA_* are wrong"


def _decided_by() -> str:
    """What decides: the code, and the file of CREDIT_RISK_POLICY_FILE; which policy is
    active is in each materialization."""
    domain = "credit_risk_dagster.domain"
    modules = ("decoding", "cleaning", "columns", "policy", "decision", "scoring", "pd")
    code = code_version(*(f"{domain}.{module}" for module in modules))
    policy = DrainSettings.at_load().policy_file
    with suppress(OSError):  # runs say it
        return f"{code} {policy.stem}@{sha256(policy.read_bytes()).hexdigest()[:12]}"
    return code


loan_applications = dg.AssetSpec(
    "loan_applications",
    group_name="stream",
    description="The Kafka topic that carries loan applications, one LendingClub row an event.",
    kinds={"kafka"},
    owners=OWNERS,
    metadata={"topic": _topic(), **written_in(__file__)},
)

RECONCILIATION = dg.AssetCheckSpec(
    "reconciliation",
    asset="scored_applications",
    description=(
        "Every offset that was committed since the last check, by whichever run, is stored exactly "
        "once: scored, rejected or a gap, counted in the tables. If it fails, stop the sensor; "
        "`credit-risk reconciliation ls` names the offsets, and the broker still has the events "
        "within its retention. It fails until each finding is cleared by name. Events that the "
        "broker removed before they were read are lost: a warning here, until `credit-risk lost "
        "acknowledge`."
    ),
)


class OffsetBound(dg.Config):
    """Offsets of one partition that a run may process."""

    partition: int = Field(ge=0)
    first_offset: int = Field(ge=0, description="not after the committed offset")
    until_offset: int = Field(ge=0, description="the first offset that is not processed")


class DrainConfig(dg.Config):
    """Launch without configuration to drain what is there."""

    lane: int = Field(default=0, ge=0, description="which of CREDIT_RISK_LANES lanes to drain")
    session_seconds: float | None = Field(
        default=None,
        ge=0,
        description="how long the run stays; 0 is one batch; default CREDIT_RISK_SESSION_SECONDS",
    )
    bounds: list[OffsetBound] = Field(
        default_factory=list,
        description="process at most these offsets, e.g. [{partition: 0, first_offset: 0, "
        "until_offset: 500}]; empty means no limit",
    )


@dg.multi_asset(
    name="score_stream",
    group_name="stream",
    specs=[
        dg.AssetSpec(
            "scored_applications",
            deps=[loan_applications],
            description="Applications, cleaned and scored by the credit policy, with the offset "
            "each came from.",
            kinds={"postgres", "python"},
            owners=OWNERS,
            skippable=True,
            code_version=_decided_by(),
            freshness_policy=kept_fresh(),
            metadata={"dagster/column_schema": SCORED_APPLICATIONS},
        ),
        dg.AssetSpec(
            "rejected_events",
            deps=[loan_applications],
            description="Events that cannot be scored: the reason and the exact bytes.",
            kinds={"postgres", "python"},
            owners=OWNERS,
            skippable=True,
            code_version=_decided_by(),
            metadata={"dagster/column_schema": REJECTED_EVENTS},
        ),
    ],
    check_specs=[RECONCILIATION],
)
def score_stream(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    settings: dg.ResourceParam[Settings],
    broker: dg.ResourceParam[Broker],
    warehouse: dg.ResourceParam[Warehouse],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Drain a lane of the topic for one session."""
    with one_line_failures():
        try:
            report = drain(
                *(broker, warehouse, settings.policy),
                _session(config, settings.drain, context.run.tags),
                run_id=context.run.run_id,
                lane=config.lane,
                bounds=[Bound(b.partition, b.first_offset, b.until_offset) for b in config.bounds],
                interrupts=(dg.DagsterExecutionInterruptedError,),
                log=context.log,
                progress=lambda so_far: _observe(context, so_far),
            )
        except TopicReplaced as error:
            yield check_result(RECONCILIATION, False, str(error))
            raise
    with warehouse.session() as connection:
        stored = Ledger(connection).stored()
    yield from _materializations(report, *stored)
    with warehouse.session() as connection:
        checked = Reconciliation(connection).check_new(context.run.run_id)
        lost = LostEvents(connection).unacknowledged()
    yield check_result(RECONCILIATION, **_reconciled(checked, "since the last check", lost))


def _observe(context: dg.AssetExecutionContext, so_far: DrainReport) -> None:
    """Show what a session did so far, which goes on, whatever becomes of that."""
    metadata = _metadata(so_far)
    try:
        for name, rows in (
            ("scored_applications", so_far.scored),
            ("rejected_events", so_far.rejected),
        ):
            if rows:
                context.log_event(dg.AssetObservation(name, metadata=metadata))
    except Exception as error:  # noqa: BLE001 (Dagster's storage may be any database, and fail in any way)
        _log.warning("Dagster does not take what the session did so far: %s", error)


def _session(
    config: DrainConfig, settings: DrainSettings, tags: Mapping[str, str]
) -> DrainSettings:
    """The settings of one session: what the launch says of them goes first."""
    # One that the sensor asked for before CREDIT_RISK_LANES changed is at no fault, and ends well.
    outdated = tags.get(LANES_TAG, str(settings.lanes)) != str(settings.lanes)
    if config.lane >= settings.lanes and not outdated:
        raise dg.Failure(
            f"lane {config.lane} does not exist: CREDIT_RISK_LANES is {settings.lanes}, so lanes "
            f"are 0 to {settings.lanes - 1}",
            allow_retries=False,
        )
    return session_of(settings, tags, config.session_seconds)


def session_of(
    settings: DrainSettings, tags: Mapping[str, str], seconds: float | None
) -> DrainSettings:
    """The settings with how long a run with these tags stays: as its launch said, if it did."""
    changed: dict[str, float] = {}
    if LANE_TAG not in tags and settings.idle_seconds is None:
        changed["idle_seconds"] = _LAUNCH_IDLE_SECONDS
        changed["session_seconds"] = min(settings.session_seconds, _LAUNCH_SECONDS)
    if seconds is not None:
        changed["session_seconds"] = seconds
    return settings.model_copy(update=changed)


def _materializations(
    report: DrainReport, scored: int, rejected: int
) -> Iterator[dg.MaterializeResult]:
    """One for each asset that got rows: a quiet session leaves none. With what the tables have."""
    metadata = _metadata(report) if report.ranges else {}
    if report.scored:
        yield dg.MaterializeResult(
            asset_key="scored_applications",
            metadata={
                "dagster/row_count": scored,
                **{f"tier: {tier}": count for tier, count in report.tiers.items()},
                **metadata,
            },
        )
    if report.rejected:
        reasons = table({"reason": r, "events": n} for r, n in report.reasons.most_common())
        yield dg.MaterializeResult(
            asset_key="rejected_events",
            metadata={
                "dagster/row_count": rejected,
                "reject reasons": reasons,
                **metadata,
            },
        )


def _reconciled(checked: Checked, what: str, lost: int = 0) -> dict[str, Any]:
    """What a count of the tables, and unacknowledged lost events, mean for a check."""
    found = "; ".join(map(str, checked.open[:_SHOWN]))
    more = f"; and {len(checked.open) - _SHOWN} more" if len(checked.open) > _SHOWN else ""
    later = f"; {checked.left:,} more are for the next check" if checked.left else ""
    rows = [
        {
            "source": source_id,
            "partition": count.partition,
            "first offset": count.first_offset,
            "next offset": count.next_offset,
            "scored": count.scored,
            "rejected": count.rejected,
            "gaps": count.gaps,
            "forgotten": count.forgotten,
            "dropped by retention": count.dropped,
            "missing or doubled": count.difference,
        }
        for source_id, count in checked.counted
    ]
    said = (
        f"{found}{more}: `credit-risk reconciliation ls`"
        if checked.open
        else f"each of the {counted(checked.offsets, 'offset')} {what} is stored once{later}"
    )
    if lost:
        said += (
            f"; {counted(lost, 'event is', 'events are')} lost, which the broker removed before "
            "they were read: `credit-risk lost ls` shows them, `credit-risk lost acknowledge` ends "
            "this warning"
        )
    only_lost = lost and not checked.open
    return {
        "passed": not (checked.open or lost),
        "description": said,
        "metadata": ({"lost": lost} if lost else {})
        | ({"stored rows by partition": table(rows)} if rows else {}),
        "severity": dg.AssetCheckSeverity.WARN if only_lost else dg.AssetCheckSeverity.ERROR,
    }


# Of the topic, which no run materializes: a check of what is materialized each minute is dropped
# each minute.
@dg.asset_check(
    asset=loan_applications.key,
    description="Every offset that was ever committed is stored exactly once, or was dropped by "
    "retention: counted once a day in all of the tables. If it fails, `credit-risk reconciliation "
    "ls` names the offsets: somebody changed rows behind the ledger, or restored a part of them. "
    "It fails until each finding is cleared by name. And the sums that pages read are those of "
    "their rows.",
)
def reconciliation_of_everything(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
    """Count everything; a database that does not answer fails the check in one line."""
    try:
        with warehouse.session(EVERYTHING) as connection:
            checked = Reconciliation(connection).check_everything()
            wrong = wrong_sums(connection)
    except PlatformError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    result = _reconciled(checked, "of every source")
    result["passed"] = result["passed"] and not wrong
    result["description"] = "; ".join((result["description"], *wrong))
    return dg.AssetCheckResult(**result)


def _metadata(report: DrainReport) -> dict[str, Any]:
    events = report.scored + report.rejected
    busy = sum(report.busy_seconds.values()) or 1.0
    return {
        "offsets": table(
            {"partition": p, "first offset": first, "next offset": following}
            for p, (first, following) in sorted(report.ranges.items())
        ),
        "policy": report.policy,
        "model": report.model_error or report.model or "none",
        "experiments": "; ".join((*report.experiments, *report.problems)) or "none",
        "lane": report.lane,
        "scored": report.scored,
        "rejected": report.rejected,
        "gaps": report.gaps,
        "lost": report.lost,
        "micro-batches": report.batches,
        "ended": report.ended,
        "session (s)": round(report.seconds, 1),
        "throughput (events/s)": round(events / max(report.seconds, 1e-9), 1),
        "latency by the clock of the": report.clock,
        "latency p50 (ms)": round(report.latency(50) * 1000),
        "latency p95 (ms)": round(report.latency(95) * 1000),
        "latency p99 (ms)": round(report.latency(99) * 1000),
        "work by stage (%)": table(
            {"stage": stage, "seconds": round(seconds, 3), "share": round(100 * seconds / busy)}
            for stage, seconds in report.busy_seconds.items()
        ),
    }


score_applications = asset_job(
    "score_applications",
    selection=dg.AssetSelection.assets("scored_applications", "rejected_events").without_checks()
    | dg.AssetSelection.checks(dg.AssetCheckKey(RECONCILIATION.asset_key, RECONCILIATION.name)),
    description="Drain the topic into Postgres, scored exactly once. Launch it as it is to drain "
    "what is there, or with `bounds` to process at most those offsets.",
    tags={"dagster/max_retries": "0"},  # the sensor is sooner, and knows the offsets of then
)

reconcile_everything = asset_job(
    "reconcile_everything",
    selection=dg.AssetSelection.checks(reconciliation_of_everything),
    description="Count every stored row against the committed offsets. Launch it at any time.",
    tags={"dagster/max_runtime": str(12 * 3600)},
)
reconcile_schedule = scheduled(
    job=reconcile_everything, cron_schedule="23 5 * * *", description="Once a day, after retention."
)

defs = dg.Definitions(
    assets=linked(dg.AssetsDefinition(specs=[loan_applications]), score_stream),
    asset_checks=[reconciliation_of_everything],
    jobs=[score_applications, reconcile_everything],
    schedules=[reconcile_schedule],
)
