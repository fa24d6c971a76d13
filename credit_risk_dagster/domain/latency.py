"""Event-to-commit latency as a histogram that can be summed over batches, runs and replicas."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Seconds. Bucket i counts the events at or below bound i and above the one before; one more bucket
# counts the rest. Dense where the objective is (p50 0.2 s, p95 0.4 s), sparse where only the order
# of magnitude matters. Changing the bounds makes stored histograms unreadable: append a migration.
BOUNDS_SECONDS: tuple[float, ...] = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.275, 0.3, 0.35, 0.4),
    *(0.45, 0.5, 0.6, 0.7, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0, 3600.0),
)

# Seconds of a batch's stages, in the totals that Postgres keeps (migration 0009): the same rule.
STAGE_BOUNDS_SECONDS: tuple[float, ...] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


def histogram(
    seconds: npt.NDArray[np.float64], bounds: Sequence[float] = BOUNDS_SECONDS
) -> npt.NDArray[np.int64]:
    """Count latencies by bucket, shape (len(bounds) + 1,). Clock skew counts as zero."""
    bucket = np.searchsorted(bounds, seconds, side="left")
    return np.bincount(bucket, minlength=len(bounds) + 1)


def percentile(buckets: Sequence[int], q: float) -> float:
    """Estimate the q-th percentile (0..100) in seconds by linear interpolation inside its bucket.

    The estimate is off by at most the width of one bucket. Above the last bound it is that bound;
    for an empty histogram it is NaN.
    """
    counts = np.asarray(buckets, dtype=np.float64)
    total = counts.sum()
    if total == 0:
        return float("nan")
    cumulative = np.concatenate(([0.0], np.cumsum(counts)))
    edges = np.array([0.0, *BOUNDS_SECONDS, BOUNDS_SECONDS[-1]])
    rank = max(total * q / 100, np.finfo(np.float64).tiny)  # the 0th is in the first used bucket
    # The first bucket whose cumulative count reaches the rank, then the position inside it.
    bucket = int(np.searchsorted(cumulative[1:], rank, side="left"))
    bucket = min(bucket, len(counts) - 1)
    share = (rank - cumulative[bucket]) / max(counts[bucket], 1.0)
    return float(edges[bucket] + share * (edges[bucket + 1] - edges[bucket]))
