"""Lanes: how partitions are dealt to the runs that work at the same time."""


def lane_of(partition: int, lanes: int) -> int:
    """The lane that a partition is dealt to."""
    return partition % lanes
