"""Parts of a page that redraw themselves, and what they say when the warehouse cannot answer."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import ParamSpec
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
import streamlit as st

from credit_risk_dagster.base_settings import SettingInvalid
from credit_risk_dagster.errors import PlatformError
from dashboard.data.connection import PROBLEMS
from resources.postgres.connection import NotMigrated

REFRESH_EVERY = timedelta(seconds=2)

_logger = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True)
class Problem:
    """What keeps a page from showing anything, in words for the person in front of it."""

    title: str
    remedy: str
    detail: str


def guarded(
    draw: Callable[_Arguments, None], then: str = "Reload the page to try again."
) -> Callable[_Arguments, None]:
    """Let a problem with the warehouse take the place of a part of a page.

    The part should ask for all its data before it draws anything.
    """

    @wraps(draw)
    def attempt(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            draw(*args, **kwargs)
        except PROBLEMS as error:
            problem = explain(error)
            _logger.warning("%s: %s", problem.title, problem.detail)
            _show(problem, then)

    return attempt


def live(
    draw: Callable[_Arguments, None], every: timedelta = REFRESH_EVERY
) -> Callable[_Arguments, None]:
    """Redraw a part of a page every two seconds; a problem takes its place until it is over.

    The part should ask for all its data before it draws anything.
    """
    return st.fragment(run_every=every)(guarded(draw, then="This page comes back by itself."))


def viewer_zone() -> str:
    """The time zone of the viewer's browser, UTC where it tells none that is known here."""
    name = st.context.timezone or "UTC"
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError):
        return "UTC"


def explain(error: PlatformError | psycopg.Error) -> Problem:
    """Say what is wrong and what to do about it."""
    # The further lines of a driver's message repeat the statement or guess at the reason.
    detail = str(error).partition("\n")[0]
    state = getattr(error.__cause__ or error, "sqlstate", None)
    if isinstance(error, SettingInvalid):
        return Problem(
            "The configuration is not valid",
            "Correct it: `.env.example` explains each variable.",
            "; ".join(str(error).splitlines()),
        )
    if state == "42501":
        return Problem(
            "The dashboard's database user may not read the warehouse",
            "Run `credit-risk migrate`, or `credit-risk grant-reader` as the tables' owner.",
            detail,
        )
    if isinstance(error, NotMigrated):
        return Problem(
            "The warehouse has no tables yet, or older ones than this page needs",
            "Run `credit-risk migrate`, or start everything at once with `make demo`.",
            detail,
        )
    if state == "57014":
        return Problem(
            "The warehouse takes too long to answer",
            "It may be busy: look at its load and its locks.",
            detail,
        )
    return Problem(
        "The warehouse does not answer",
        "Start Postgres, or point `DASHBOARD_DATABASE_URL` (without one, `DATABASE_URL`) at the "
        "right server. "
        "`make demo` starts everything at once.",
        detail,
    )


def _show(problem: Problem, then: str) -> None:
    st.warning(
        f"**{problem.title}.** {problem.remedy} {then}",
        icon=":material/database_off:",
    )
    st.code(problem.detail, language=None, wrap_lines=True)
