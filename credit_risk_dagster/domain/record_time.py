"""The time of a record. A producer may write any number there, and some write none."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NO_TIME = -1
# Whose clock a record's time is of, by the type that its batch has: CreateTime and LogAppendTime.
CLOCKS = {0: "producer", 1: "broker"}
UNKNOWN_CLOCK = "unknown"
# Kafka is younger than 2000. Seconds, microseconds and nanoseconds that were taken for milliseconds
# lie outside, and so does everything that Postgres, Parquet's readers or Python's datetime refuse.
_FIRST, _END = (int(np.datetime64(f"{year}", "ms").astype(np.int64)) for year in ("2000", "2100"))


def record_times(written: Sequence[int | None]) -> npt.NDArray[np.int64]:
    """Milliseconds since the epoch, where the number can be that, else `NO_TIME`; shape (n,)."""
    try:
        times = np.array(written, np.int64)
    except (OverflowError, TypeError):  # a sum beyond 64 bits; none in the oldest format
        times = np.array([at if at and abs(at) < _END else NO_TIME for at in written], np.int64)
    return np.where((times >= _FIRST) & (times < _END), times, NO_TIME)
