"""The dashboard's way to the warehouse: one pool for all viewers, whose connections only read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psycopg
import streamlit as st

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import WarehouseSettings
from resources.postgres.connection import WarehouseReader, fetch_all

PROBLEMS = (PlatformError, psycopg.Error)
"""What any query of the dashboard may raise; `live.explain` says it to the viewer."""

_CONNECTIONS = 15
# A page that refreshes every two seconds must rather fail than queue up behind itself.
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Snapshot:
    """The warehouse at one moment: all queries see the same rows."""

    connection: psycopg.Connection[Any]

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a query, by the names of its columns."""
        return fetch_all(self.connection, query, parameters)

    def one(self, query: str, **parameters: Any) -> dict[str, Any]:
        """The row of a query that always has one."""
        (row,) = self.rows(query, **parameters)
        return row

    def frame(self, query: str, zone: str, **parameters: Any) -> pd.DataFrame:
        """The rows of a query, with its times in a zone."""
        cursor = self.connection.execute(query, parameters)
        frame = pd.DataFrame(
            cursor.fetchall(), columns=[column.name for column in cursor.description or ()]
        )
        for column in frame.columns.intersection([*_TIMES]):
            frame[column] = pd.to_datetime(frame[column], utc=True).dt.tz_convert(zone)
        return frame

    def now(self, zone: str) -> pd.Timestamp:
        """The moment, in a zone."""
        return pd.Timestamp(self.one("SELECT now()")["now"]).tz_convert(zone)


_TIMES = (
    *("scored_at", "reviewed_at", "committed_at", "updated_at", "archived_at", "rejected_at"),
    *("created_at", "activated_at", "retired_at", "window_start", "window_end", "last"),
    *("opened_at", "due_at", "decided_at", "closed_at"),
)


@contextmanager
def snapshot() -> Iterator[Snapshot]:
    """Borrow a connection of the dashboard's role for some queries, each of at most 5 seconds.

    Raises: one of `PROBLEMS`.
    """
    reader = _reader(WarehouseSettings().of_dashboard())
    with reader.session() as connection, connection.transaction():
        yield Snapshot(connection)


def _address(settings: WarehouseSettings) -> tuple[str, str]:
    return settings.database_url.get_secret_value(), settings.db_schema


@st.cache_resource(
    max_entries=1,
    show_spinner=False,
    hash_funcs={WarehouseSettings: _address},
    on_release=lambda reader: reader.__exit__(),
)
def _reader(settings: WarehouseSettings) -> WarehouseReader:
    return WarehouseReader(settings, _CONNECTIONS, _PATIENCE_SECONDS).__enter__()
