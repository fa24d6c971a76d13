"""Logging, the same in every process: one line an entry on stderr, JSON when that is no terminal.

Modules log with `logging.getLogger(__name__)`; what an entry is about goes into `extra`, what a
whole request or run is about into structlog's context variables. Nothing of an application but its
coordinates (partition, offset, batch) is ever logged.
"""

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict

from credit_risk_dagster.settings import LogSettings

PACKAGES = ("credit_risk_dagster", "resources", "assets_src", "sensors", "infra")


def configure(settings: LogSettings | None = None, *, in_dagster: bool = False) -> None:
    """Set up this process's logging; a second call replaces the first.

    Args:
        settings: level and format; read from the environment by default.
        in_dagster: leave other loggers alone, which Dagster has set up in its own processes.
    """
    settings = settings or LogSettings()
    handler = _Handler(sys.stderr)
    handler.setFormatter(_formatter(settings))
    for name in PACKAGES:
        logging.getLogger(name).setLevel(settings.level)
    for name in PACKAGES if in_dagster else ("",):
        logger = logging.getLogger(name)
        for before in [h for h in logger.handlers if isinstance(h, _Handler)]:
            logger.removeHandler(before)
        logger.addHandler(handler)


class _Handler(logging.StreamHandler[Any]):
    """A handler of ours, to be told from others'."""


def _without_color(_logger: Any, _method: str, entry: EventDict) -> EventDict:
    """Drop uvicorn's second version of its messages."""
    entry.pop("color_message", None)
    return entry


def _formatter(settings: LogSettings) -> logging.Formatter:
    as_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    # Without local variables: they hold applications.
    traces = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    rendering: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if as_text
        else [
            structlog.processors.ExceptionRenderer(traces),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=str),
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ExtraAdder(),
            _without_color,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
    )
