"""Credit risk monitoring on Dagster: streaming loan applications, scored exactly once."""

import gc

# What is imported by now stays. Otherwise the garbage collector walks through Dagster again and
# again while this package is imported: half a second of each run's start.
gc.freeze()
