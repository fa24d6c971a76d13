"""Every name of Dagster's that is not its public API, so that an upgrade has one file to look at.

Where one of them goes, pyproject.toml's upper bound on Dagster moves only together with this file.
"""

from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus as CheckStatus,
)
from dagster._utils.error import SerializableErrorInfo
from dagster._utils.schedules import cron_string_iterator

__all__ = [
    "CheckStatus",
    "DagsterHomeNotSetError",
    "InstigatorTick",
    "SerializableErrorInfo",
    "TickStatus",
    "cron_string_iterator",
]
