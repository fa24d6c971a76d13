"""Tables, and what their columns are of."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
from streamlit import column_config as columns

from dashboard.parts import formats

text = columns.TextColumn
name = partial(columns.TextColumn, pinned=True)
"""Of what a row is; it stays where a wide table is scrolled."""
count = partial(columns.NumberColumn, format="%,d")
percent = partial(columns.NumberColumn, format="%.1f %%")
"""Of values in percent; `share` is of values up to one."""
share = partial(columns.NumberColumn, format="percent")
number = partial(columns.NumberColumn, format="localized")
plain = partial(columns.NumberColumn, format="%d")
"""A number that is a name, such as an offset."""
dollars = partial(columns.NumberColumn, format="$%,d")
second = partial(columns.DatetimeColumn, format="D MMM HH:mm:ss")
minute = partial(columns.DatetimeColumn, format="D MMM HH:mm")
run = partial(columns.LinkColumn, "Run", display_text=r"runs/(.{8})")
"""Of `orchestration.run_url`: the beginning of the run's id."""


def table(rows: pd.DataFrame, shown: Mapping[str, Any], alt: str, **more: Any) -> Any:
    """Draw rows without their index.

    Args:
        shown: the columns in their order, each as its title or as one of the kinds above.
        alt: what the table has, for who does not see it.
        more: what `st.dataframe` takes.
    """
    return st.dataframe(
        rows,
        hide_index=True,
        placeholder=formats.UNKNOWN,
        column_order=list(shown),
        column_config=dict(shown),
        alt=alt,
        **more,
    )
