"""Offset bounds of a session, and what it reads within them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from credit_risk_dagster.domain.lanes import lane_of
from credit_risk_dagster.errors import PlatformError
from resources.kafka.watch import TopicState
from resources.postgres.micro_batch import Progress


class BoundsError(PlatformError):
    """Offset bounds that cannot be processed without skipping offsets."""


@dataclass(frozen=True)
class Bound:
    """Offsets that a run may process: from first_offset up to and without until_offset."""

    partition: int
    first_offset: int
    until_offset: int


def partitions_of(topic: TopicState, lanes: int, lane: int, bounds: Sequence[Bound]) -> list[int]:
    """Those of the bounds, or else of the lane. Raises BoundsError."""
    if not bounds:
        return [partition for partition in topic.offsets if lane_of(partition, lanes) == lane]
    for bound in bounds:
        if bound.partition not in topic.offsets:
            raise BoundsError(
                f"bounds name partition {bound.partition}, but {topic.topic} has partitions "
                f"{min(topic.offsets)} to {max(topic.offsets)}"
            )
        if bound.until_offset < bound.first_offset:
            raise BoundsError(
                f"bounds of partition {bound.partition} end at {bound.until_offset}, before they "
                f"begin at {bound.first_offset}"
            )
    return sorted(bound.partition for bound in bounds)


def next_offsets(topic: TopicState, progress: Sequence[Progress]) -> dict[int, int]:
    """Where each partition is read on: what the broker no longer has is lost."""
    found = {partition: first for partition, (first, _) in topic.offsets.items()}
    for row in progress:
        found[row.partition] = max(row.next_offset, found.get(row.partition, 0))
    return found


def check_bounds(bounds: Sequence[Bound], committed: Mapping[int, int]) -> None:
    """Raise BoundsError where they would skip offsets."""
    for bound in bounds:
        if bound.first_offset > committed[bound.partition]:
            raise BoundsError(
                f"bounds of partition {bound.partition} begin at {bound.first_offset}, but "
                f"offsets from {committed[bound.partition]} on are not processed yet, and "
                "none may be skipped"
            )
