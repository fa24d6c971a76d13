"""Credit risk monitoring on Dagster: streaming loan applications, scored exactly once."""
