"""Processes that die by kill -9 at a step of their work.

One process imports everything and forks one for each death: a new interpreter would take longer
than what it is started for.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, BinaryIO

from credit_risk_dagster.pipelines.archive_decisions import _Copy
from credit_risk_dagster.pipelines.forget import forget
from credit_risk_dagster.pipelines.lake_maintenance import maintain
from credit_risk_dagster.settings import PROJECT_ROOT
from resources.lake import Lake
from resources.lake_tables import LakeTable
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.forgetting import Forgettings
from tests.platform.pipeline import LOG, Pipeline

STEPS = {
    f"{owner.__name__}.{name}": (owner, name)
    for owner, name in (
        *((Lake, "put"), (Lake, "delete"), (LakeTable, "commit"), (LakeTable, "vacuum")),
        *((LakeTable, "checkpoint"), (ArchiveLedger, "confirm"), (ArchiveLedger, "mirror")),
        *((_Copy, "_commit"), (Forgettings, "forget"), (Forgettings, "close_lake")),
    )
}


def archive(pipeline: Pipeline) -> None:
    pipeline.archive(max_object_events=10)


def keep_up(pipeline: Pipeline) -> None:
    maintain(pipeline.warehouse, pipeline.lake, pipeline.kafka.topic, timedelta(days=7), log=LOG)


def forget_five(pipeline: Pipeline) -> None:
    forget(pipeline.warehouse, pipeline.lake, "5", by="Ada", why="request 31", log=LOG)


class Mortals:
    """Makes processes that die."""

    def __enter__(self) -> "Mortals":
        self._maker = subprocess.Popen(
            [sys.executable, "-m", "tests.platform.killed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT_ROOT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._maker.stdin
        assert self._maker.stdout
        self._maker.stdin.close()
        self._maker.wait(10)
        self._maker.stdout.close()

    def kill(self, work: Callable[[Pipeline], None], pipeline: Pipeline, at: str) -> None:
        """Do this work until that step, as "after Lake.put", and fail unless it came there."""
        assert self._done(work, pipeline, at) == -signal.SIGKILL, f"{work.__name__} {at}"

    def modules(self, work: Callable[[Pipeline], None], pipeline: Pipeline) -> set[str]:
        """Do all of this work; returns what was imported by its end."""
        done = self._done(work, pipeline, "")
        assert isinstance(done, set), done
        return done

    def _done(self, work: Callable[[Pipeline], None], pipeline: Pipeline, at: str) -> Any:
        assert self._maker.stdin
        assert self._maker.stdout
        settings = pipeline.kafka, pipeline.warehouse._settings, pipeline.lake._settings
        pickle.dump((work.__name__, settings, at, dict(os.environ)), self._maker.stdin)
        self._maker.stdin.flush()
        return pickle.load(self._maker.stdout)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    with suppress(EOFError):
        while True:
            work, settings, at, environment = pickle.load(requests)
            child = os.fork()
            if not child:
                _die(globals()[work], settings, at, environment, answers)
            _, status = os.waitpid(child, 0)
            if status or at:
                pickle.dump(os.waitstatus_to_exitcode(status), answers)
                answers.flush()


def _die(
    work: Callable[[Pipeline], None],
    settings: Any,
    at: str,
    environment: dict[str, str],
    answers: BinaryIO,
) -> None:
    """Ends this process, whatever happens."""
    try:
        os.environ.update(environment)
        if at:
            _let_die(at)
        kafka, warehouse, lake = settings
        work(Pipeline(kafka, Warehouse(warehouse), lambda: Lake(lake)))
        if not at:
            pickle.dump(set(sys.modules), answers)
            answers.flush()
        os._exit(0)
    except BaseException:  # noqa: BLE001 (what was forked must not go on as the maker)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _let_die(at: str) -> None:
    moment, step = at.split()
    owner, name = STEPS[step]
    whole = getattr(owner, name)

    def die(*args: Any, **options: Any) -> None:
        if moment == "after":
            whole(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, die)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers)
