"""Every name of Dagster's that is not its public API, so that an upgrade has one file to look at
(and `dagster_instance.py`, which has those of dagster-postgres).

Where one of them goes, pyproject.toml's upper bound on Dagster moves only together with this file.
So it does with what is known here of how Dagster starts runs.
"""

import multiprocessing
import os
import sys
from tempfile import gettempdir

from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.execution.compute_logs import redirect_stream
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus as CheckStatus,
)
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import (
    IO_TYPE_EXTENSION,
    LocalComputeLogManager,
)
from dagster._serdes import ConfigurableClassData
from dagster._utils.error import SerializableErrorInfo
from dagster._utils.schedules import cron_string_iterator

__all__ = [
    "IO_TYPE_EXTENSION",
    "CapturedLogContext",
    "CheckStatus",
    "ComputeIOType",
    "ConfigurableClassData",
    "DagsterHomeNotSetError",
    "InstigatorTick",
    "LocalComputeLogManager",
    "SerializableErrorInfo",
    "TickStatus",
    "cron_string_iterator",
    "fork_runs",
    "redirect_stream",
]

# What multiprocessing calls the fork server's, and the most that Linux takes: unix(7).
_SOCKET, _LONGEST_SOCKET = b"/pymp-12345678/listener-12345678", 107


def fork_runs(*modules: str) -> None:
    """Let the code server that imports this fork its runs from a process that has these modules.

    Dagster's code server spawns a Python for each run, by multiprocessing's context of that name,
    and each imports all code anew: two seconds of a processor, which the run that goes on beside it
    feels. Python's fork server imports it once, when the first run starts, and ends with the code
    server; it is the `forkserver` that Dagster's own multiprocess executor offers for steps. Runs
    have the code that the code server loaded, until it is loaded again. On Linux alone: elsewhere
    system libraries do not bear a fork. Where temporary files lie too deep for a socket, runs are
    spawned as ever.
    """
    if sys.platform == "linux" and len(os.fsencode(gettempdir()) + _SOCKET) <= _LONGEST_SOCKET:
        forking = multiprocessing.get_context("forkserver")
        forking.set_forkserver_preload([*modules])
        vars(multiprocessing.get_context("spawn"))["Process"] = forking.Process
