"""The strip of the first screen: a line for each thing that may be wrong."""

from datetime import timedelta
from functools import partial
from html import escape

import streamlit as st

from dashboard.data.strip import strip
from dashboard.parts.live import live
from dashboard.parts.signals import Signal

REFRESH_EVERY = timedelta(seconds=10)
_WORDS = {"green": "Green", "amber": "Amber", "red": "Red", "grey": "Unknown"}
# Each with white on it at 4.5:1 and more; a line's word says the same as its colour.
_STYLE = """
<style>
.signals { list-style: none; margin: 0 !important; padding: 0 !important; font-size: 0.95rem; }
.signals li { display: grid; grid-template-columns: 5rem 11rem 1fr; gap: 0.75rem;
  align-items: baseline; margin: 0 !important; padding: 0.3rem 0;
  border-top: 1px solid rgba(128, 140, 155, 0.25); }
.signals li:first-child { border-top: 0; }
.signals b { color: #fff; border-radius: 0.4rem; text-align: center; font-weight: 600;
  font-size: 0.8rem; padding: 0.1rem 0.3rem; }
.signals .green { background: #1e7a4c; }
.signals .amber { background: #9a5b00; }
.signals .red { background: #b3261e; }
.signals .grey { background: #5f6b78; }
.signals a { color: inherit; font-weight: 600; }
@media (max-width: 640px) {
  .signals li { grid-template-columns: 5rem 1fr; row-gap: 0.1rem; }
  .signals span { grid-column: 1 / -1; }
}
</style>
"""


@partial(live, every=REFRESH_EVERY)
def signal_strip() -> None:
    """Draw the strip."""
    with st.container(border=True):
        st.html(_STYLE + html(strip()))


def html(lines: list[Signal]) -> str:
    """The lines as a list, each with a link to its page."""
    items = "".join(
        f'<li><b class="{line.level}">{_WORDS[line.level]}</b>'
        f'<a href="{line.page}" target="_self">{escape(line.name)}</a>'
        f"<span>{escape(line.why)}</span></li>"
        for line in lines
    )
    return f'<ul class="signals" aria-label="Is anything wrong?">{items}</ul>'
