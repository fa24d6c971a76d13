"""Families of commands; `credit_risk_dagster.cli.main` puts them together."""
