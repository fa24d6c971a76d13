"""Which processes run for a stack."""

from pathlib import Path

import psutil


def processes_of(state: Path) -> list[psutil.Process]:
    """Everything that runs for the state directory."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "environ", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and (
            str(state) in " ".join(process.info["cmdline"] or [])
            or (process.info["environ"] or {}).get("CREDIT_RISK_STACK") == str(state)
        )
    ]
