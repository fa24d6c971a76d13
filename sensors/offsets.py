"""The offset sensor: keeps a run on every lane, or where runs end when it is quiet, on every lane
whose committed offsets are behind the broker's. It holds no state that matters.
"""

import time
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import dagster as dg
import psycopg

from assets_src.scoring import (
    LANE_TAG,
    LANES_TAG,
    RECONCILIATION,
    score_applications,
    session_of,
)
from credit_risk_dagster.domain.lanes import lane_of
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.status import StreamState, stream_state
from credit_risk_dagster.settings import DrainSettings, Settings
from resources.kafka.broker import Broker
from resources.kafka.errors import TopicReplaced
from resources.postgres.connection import Warehouse
from resources.postgres.lanes import connected_runs
from resources.postgres.micro_batch import Ledger

# A run that starts for so many times longer than CREDIT_RISK_RUN_START_SECONDS is taken for gone. A
# machine that is busy takes longer, and runs that are requested meanwhile make it busier. (A run
# that dies while it starts is failed by its code server at once.) One that waits in Dagster's queue
# starts some time, however long that is.
START_PATIENCE = 4
# Between its creation and the queue a run is for a moment, or for ever, if who created it died.
UNSUBMITTED_SECONDS = 7200.0
# Runs that fail before they commit anything are started again less and less often.
FRUITLESS_RUNS = 3
LONGEST_PAUSE_SECONDS = 300.0


UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


class RunState(Enum):
    """What a lane's unfinished run is doing, by the lock of its own and the ledger."""

    QUEUED = "is queued"
    STARTING = "is starting"
    LIVE = "drains"
    GONE = "is gone"


@dataclass(frozen=True)
class LaneRun:
    """An unfinished run that has partitions of a lane.

    Attributes:
        session_seconds: since it started; None before it is connected.
        lasts: how many seconds its session is to be.
    """

    run_id: str
    state: RunState
    session_seconds: float | None
    lasts: float


@dataclass(frozen=True)
class Launch:
    """What a run was launched to drain.

    Attributes:
        lane: of so many `lanes`; None of what nobody recorded.
        partitions: of its bounds; empty without.
        session_seconds: as the launch says; None when it does not.
    """

    lane: int | None
    lanes: int | None
    partitions: frozenset[int]
    session_seconds: float | None

    def has(self, partition: int, lanes: int) -> bool:
        """Whether it drains a partition, of so many lanes now. It began, or begins, with those or
        with those of its launch; what cannot be known is taken for it."""
        if self.partitions:
            return partition in self.partitions
        if self.lane is None or (self.lanes is None and self.lane >= lanes):
            return True
        return self.lane in {lane_of(partition, n) for n in (lanes, self.lanes or lanes)}


@dataclass(frozen=True)
class Plan:
    """Whether to request a run for a lane, and why (not)."""

    request: bool
    why: str


def plan_lane(
    backlog: int,
    runs: Iterable[LaneRun],
    start_seconds: float,
    *,
    always_on: bool = False,
) -> Plan:
    """Decide for one lane whose runs take so long to start, and which has a run without events,
    too, when it is always on.

    A run that is gone does not count: its connection, and with it its lock on the lane, ended,
    whatever Dagster knows of it yet.
    """
    present = [run for run in runs if run.state is not RunState.GONE]
    if not present:
        if backlog > 0:
            return Plan(True, f"{backlog:,} new event{'' if backlog == 1 else 's'}")
        return Plan(always_on, "nobody drains it" if always_on else "no new events")
    names = " and ".join(f"run {run.run_id[:8]}" for run in present)
    left = 0.0
    for run in present:
        if run.session_seconds is None or run.lasts == 0:  # a successor, or one that ends by itself
            return Plan(
                False, f"{names} share it" if len(present) > 1 else f"{names} {run.state.value}"
            )
        left = max(left, run.lasts - run.session_seconds)
    if left <= start_seconds:
        have = "has" if len(present) == 1 else "have"
        return Plan(True, f"successor of {names}, which {have} {left:.0f} s left")
    if len(present) > 1:
        return Plan(False, f"{names} share it")
    return Plan(False, f"{names} drains, {left:.0f} s left, {counted(backlog, 'event')} behind")


def launch_of(run: dg.DagsterRun) -> Launch:
    """What a run was launched to drain, by its configuration: a launch by hand has no tags."""
    config: Any = run.run_config
    for name in ("ops", "score_stream", "config"):
        config = config.get(name) if isinstance(config, Mapping) else None
    config = config if isinstance(config, Mapping) else {}
    lane = config.get("lane", run.tags.get(LANE_TAG, 0))
    bounds = config.get("bounds") or []
    seconds = config.get("session_seconds")
    with suppress(TypeError, ValueError, KeyError):
        return Launch(
            int(lane),
            int(run.tags[LANES_TAG]) if LANES_TAG in run.tags else None,
            frozenset(int(bound["partition"]) for bound in bounds),
            None if seconds is None else float(seconds),
        )
    # From a variable of the run's environment, say.
    return Launch(None, None, frozenset(), None)


def backlog_by_lane(stream: StreamState, lanes: int) -> dict[int, int]:
    """Offsets that are not committed, by lane."""
    backlog = dict.fromkeys(range(lanes), 0)
    for partition, waiting in stream.waiting().items():
        backlog[lane_of(partition, lanes)] += waiting
    return backlog


def pause_after_failures(fruitless: int, seconds_since: float) -> float:
    """Seconds still to wait after so many fruitless runs in a row, the last one so long ago."""
    if fruitless < FRUITLESS_RUNS:
        return 0.0
    pause = min(10.0 * 2 ** (fruitless - FRUITLESS_RUNS), LONGEST_PAUSE_SECONDS)
    return max(0.0, pause - seconds_since)


@dg.sensor(
    job=score_applications,
    minimum_interval_seconds=1,  # every round of the daemon, which makes one every five seconds
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps a drain run on each lane: requests one, and before its session ends the "
    "next one.",
)
def loan_applications_offsets(
    context: dg.SensorEvaluationContext,
    settings: dg.ResourceParam[Settings],
    broker: dg.ResourceParam[Broker],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.SensorResult | dg.SkipReason:
    """One tick: a run request for each lane that needs a run, or the reason why none does."""
    try:
        drain = settings.drain
        with broker.watch() as watch, warehouse.session() as connection:
            stream = stream_state(watch, connection)
            plans = _plan_lanes(context.instance, stream, connection, drain)
    except TopicReplaced as error:
        return _report_replaced(context, error)
    except PlatformError as error:
        return dg.SkipReason(str(error))
    requests = [
        dg.RunRequest(
            run_config={"ops": {"score_stream": {"config": {"lane": lane}}}},
            tags={
                LANE_TAG: str(lane),
                LANES_TAG: str(drain.lanes),
                "credit_risk/why": plan.why,
                # Run monitoring ends a run that hangs; a healthy one is far below this.
                "dagster/max_runtime": str(round(3 * drain.session_seconds + 300)),
            },
        )
        for lane, plan in plans.items()
        if plan.request
    ]
    if not requests:
        if context.cursor:
            context.update_cursor("")  # what it was about is over
        return dg.SkipReason("; ".join(f"lane {lane}: {plan.why}" for lane, plan in plans.items()))
    for lane, plan in plans.items():
        context.log.info("lane %d: %s", lane, plan.why)
    return dg.SensorResult(run_requests=requests, cursor="")


def _plan_lanes(
    instance: dg.DagsterInstance,
    stream: StreamState,
    connection: psycopg.Connection[Any],
    settings: DrainSettings,
) -> dict[int, Plan]:
    ledger = Ledger(connection)
    backlog = backlog_by_lane(stream, settings.lanes)
    unfinished = [
        record
        for record in instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED))
        if is_drain(record.dagster_run)
    ]
    launches = [launch_of(record.dagster_run) for record in unfinished]
    run_ids = [record.dagster_run.run_id for record in unfinished]
    connected, worked = connected_runs(connection, run_ids), ledger.session_seconds(run_ids)
    plans = {}
    for lane in range(settings.lanes):
        # By partitions: after a change of CREDIT_RISK_LANES, runs of the lanes before have them.
        partitions = [p for p in stream.topic.offsets if lane_of(p, settings.lanes) == lane]
        # One that stays gives way to who is in line, so no partition waits for another's run.
        always_on = settings.idle_seconds is None and settings.session_seconds > 0
        alike = [{p} for p in partitions] if always_on else [set(partitions)]
        found = [
            plan_lane(
                backlog[lane],
                [
                    _lane_run(record, connected, worked, settings)
                    for record, launch in zip(unfinished, launches, strict=True)
                    if any(launch.has(partition, settings.lanes) for partition in some)
                ],
                settings.run_start_seconds,
                always_on=always_on,
            )
            for some in alike
        ]
        nothing = Plan(False, "it has no partition")
        plan = next((plan for plan in found if plan.request), found[0] if found else nothing)
        if held := _held_back(stream, lane, settings.lanes):
            plan = replace(plan, why=f"{plan.why}; {held}")
        if plan.request and (pause := _pause(instance, ledger, lane)):
            plan = Plan(
                False,
                f"{plan.why}, but the last runs failed before they committed anything: see their "
                f"errors. Next try in {pause:.0f} s",
            )
        plans[lane] = plan
    return plans


def _held_back(stream: StreamState, lane: int, lanes: int) -> str:
    """What of the lane no run can read yet, and why."""
    return "; ".join(
        f"partition {partition}: {transaction}"
        for partition, transaction in sorted(stream.topic.open_transactions.items())
        if lane_of(partition, lanes) == lane
    )


def is_drain(run: dg.DagsterRun) -> bool:
    """Whether a run drains: the sensor's job, or the asset, materialized by hand."""
    return run.job_name == score_applications.name or bool(
        run.asset_selection and RECONCILIATION.asset_key in run.asset_selection
    )


def _lane_run(
    record: dg.RunRecord,
    connected: Container[str],
    worked: dict[str, float],
    settings: DrainSettings,
) -> LaneRun:
    run = record.dagster_run
    session_seconds = worked.get(run.run_id)
    if run.run_id in connected and record.start_time:  # the first event may come late, or never
        session_seconds = time.time() - record.start_time
    # Since it has that status: how long it was in the queue before says nothing.
    age = time.time() - record.update_timestamp.timestamp()
    patience = START_PATIENCE * settings.run_start_seconds
    if run.status is dg.DagsterRunStatus.NOT_STARTED:
        patience = UNSUBMITTED_SECONDS
    if run.run_id in connected:
        state = RunState.LIVE
    elif session_seconds is not None:
        state = RunState.GONE
    elif run.status is dg.DagsterRunStatus.QUEUED:
        state = RunState.QUEUED
    else:
        state = RunState.STARTING if age < patience else RunState.GONE
    session = session_of(settings, run.tags, launch_of(run).session_seconds)
    return LaneRun(run.run_id, state, session_seconds, session.session_seconds)


def _pause(instance: dg.DagsterInstance, ledger: Ledger, lane: int) -> float:
    """Seconds to wait because the lane's last runs failed without committing anything."""
    finished = instance.get_run_records(
        dg.RunsFilter(
            job_name=score_applications.name, statuses=FINISHED, tags={LANE_TAG: str(lane)}
        ),
        limit=FRUITLESS_RUNS + 6,
    )
    worked = ledger.session_seconds([record.dagster_run.run_id for record in finished])
    fruitless = 0
    for record in finished:
        run = record.dagster_run
        if run.status is not dg.DagsterRunStatus.FAILURE or run.run_id in worked:
            break
        fruitless += 1
    if not fruitless:
        return 0.0
    return pause_after_failures(fruitless, time.time() - (finished[0].end_time or 0.0))


def _report_replaced(
    context: dg.SensorEvaluationContext, error: TopicReplaced
) -> dg.SensorResult | dg.SkipReason:
    """Fail the reconciliation check, once for each incident, and request nothing."""
    message = str(error)
    if context.cursor == error.incident:
        return dg.SkipReason(message)
    evaluation = dg.AssetCheckEvaluation(
        asset_key=RECONCILIATION.asset_key,
        check_name=RECONCILIATION.name,
        passed=False,
        description=message,
    )
    return dg.SensorResult(skip_reason=message, asset_events=[evaluation], cursor=error.incident)


defs = dg.Definitions(sensors=[loan_applications_offsets])
