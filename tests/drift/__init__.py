"""Drift: statistics, ledger, assets, command line."""
