"""What pages are laid out of: a head, panels with a title and a caption, and key figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

figure = partial(st.metric, delta_color="off", delta_arrow="off", border=True, height="stretch")
"""A key figure; what is told below its value is no change for the better or the worse."""


def on_phone() -> bool:
    """Whether the viewer's browser says that it is a phone's."""
    return "Mobi" in st.context.headers.get("User-Agent", "")


@contextmanager
def collapsed_on_phone(label: str) -> Iterator[None]:
    """Behind a button on a phone, where it would take the first screen; else as it is."""
    if on_phone():
        with st.popover(label, icon=":material/tune:"):
            yield
    else:
        yield


@contextmanager
def head(title: str) -> Iterator[None]:
    """The page's title, and beside it what the page can be switched to."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.title(title, anchor=False)
        yield


@contextmanager
def panel(title: str, caption: str = "", where: DeltaGenerator | None = None) -> Iterator[None]:
    """A part of a page in a border, as high as the one beside it.

    Args:
        caption: of what and of when it is.
        where: a column; without one, below what there is.
    """
    with (where.container if where else st.container)(border=True, height="stretch"):
        st.header(title, anchor=False)
        yield
        if caption:
            st.caption(caption)
