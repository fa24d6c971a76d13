"""Logging, the same in every process: one line an entry on stderr, JSON when that is no terminal.

An entry of JSON has the names that Dagster's own processes give it by `--log-format json`: event,
level, logger, timestamp. Modules log with `logging.getLogger(__name__)`; what an entry is about
goes into `extra`, what a whole request or run is about into structlog's context variables. Nothing
of an application but its coordinates (partition, offset, batch) is ever logged.
"""

import logging
import sys
import traceback
from typing import Any, TextIO

import coloredlogs
import structlog
from structlog.typing import EventDict, ExcInfo

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import LogSettings

PACKAGES = ("credit_risk_dagster", "resources", "assets_src", "sensors", "infra")


def configure(settings: LogSettings | None = None, *, in_dagster: bool = False) -> None:
    """Set up this process's logging; a second call replaces the first.

    Args:
        settings: level and format; read from the environment by default.
        in_dagster: leave other loggers alone, which Dagster has set up in its own processes, but
            give what Dagster itself says there of runs, sensors and schedules the same form.
    """
    settings = settings or (LogSettings.at_load() if in_dagster else LogSettings())
    handler = _Handler(sys.stderr)
    handler.setFormatter(_formatter(settings))
    for name in PACKAGES:
        logging.getLogger(name).setLevel(settings.level)
    for name in PACKAGES if in_dagster else ("",):
        logger = logging.getLogger(name)
        for before in [h for h in logger.handlers if isinstance(h, _Handler)]:
            logger.removeHandler(before)
        logger.addHandler(handler)
    if in_dagster:
        _take_over_from_dagster(settings)


def _take_over_from_dagster(settings: LogSettings) -> None:
    """Write what Dagster says of runs, sensors and schedules as this project's entries, and from
    their level on.

    Dagster has a setting for the format of its daemon and its webserver alone; the rest goes
    through coloredlogs, to loggers that are made anew for each run and each tick.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(_formatter(settings))
    handler.setLevel(settings.level)
    for before in logging.getLogger("dagster").handlers:  # its warnings
        before.setFormatter(handler.formatter)

    def install(*, logger: logging.Logger, **_style: Any) -> None:
        logger.addHandler(handler)

    coloredlogs.install = install


class _Handler(logging.StreamHandler[Any]):
    """A handler of ours, to be told from others'."""


def _without_color(_logger: Any, _method: str, entry: EventDict) -> EventDict:
    """Drop uvicorn's second version of its messages."""
    entry.pop("color_message", None)
    return entry


def _of_dagster(_logger: Any, _method: str, entry: EventDict) -> EventDict:
    """Of a record of Dagster's: the message, and where it came from under the names of ours."""
    about = entry.pop("dagster_meta", None)
    for name in ("dagster_event", "dagster_event_batch_metadata"):
        entry.pop(name, None)
    if about is None:
        return entry
    # Dagster's text is where it came from, the message, and the trace of an error.
    message = about["orig_message"]
    _, found, rest = entry["event"].partition(f" - {message}")
    where = {
        "job": about.get("job_name"),
        "run_id": about.get("run_id"),
        "step": about.get("step_key"),
        "tick_of": about.get("name"),
    }
    entry.update((name, value) for name, value in where.items() if value)
    if found:
        entry["event"] = message + rest
    return entry


def _trace(exc_info: ExcInfo) -> list[str]:
    """An exception and those that it came from, the outermost first: where, and of which kind.

    Its message only when it is of the platform's own words, and no local variables: "could not
    convert string to float: ..." goes on with a value of an application.
    """
    error: BaseException | None = exc_info[1]
    traces = []
    while error is not None:
        message = f": {error}" if isinstance(error, PlatformError) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        traces.append(f"{frames}{type(error).__name__}{message}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return traces


def _write_trace(stream: TextIO, exception: ExcInfo) -> None:
    stream.write("\nfrom\n".join(_trace(exception)))


def _formatter(settings: LogSettings) -> logging.Formatter:
    as_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    rendering: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_write_trace
            )
        ]
        if as_text
        else [
            structlog.processors.ExceptionRenderer(_trace),
            structlog.processors.JSONRenderer(default=str),
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ExtraAdder(),
            _without_color,
            _of_dagster,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
    )
