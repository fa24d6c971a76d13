"""The states of the USA as a grid of equal tiles: a map on which small states can be read too."""

_GRID = (
    "AK .. .. .. .. .. .. .. .. .. ME",
    ".. .. .. .. .. .. .. .. .. VT NH",
    "WA ID MT ND MN IL WI MI NY RI MA",
    "OR NV WY SD IA IN OH PA NJ CT ..",
    "CA UT CO NE MO KY WV VA MD DE ..",
    ".. AZ NM KS AR TN NC SC DC .. ..",
    ".. .. .. OK LA MS AL GA .. .. ..",
    "HI .. .. TX .. .. .. .. FL .. ..",
)
TILES = {
    state: (column, row)
    for row, line in enumerate(_GRID)
    for column, state in enumerate(line.split())
    if state != ".."
}
"""Each state's column and row, from the top left."""

STATES = (*sorted(TILES), "")
"""Every state, and '' for unknown."""
