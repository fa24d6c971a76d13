"""Families of commands; `credit_risk_dagster.cli` puts them together."""
