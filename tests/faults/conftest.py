"""The platform of a fault test is that of the end-to-end tests."""

from tests.e2e.conftest import pipeline, start_platform

__all__ = ["pipeline", "start_platform"]
