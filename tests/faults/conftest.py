"""The platform of a fault test is that of the live ones."""

from tests.platform.start import start_platform

__all__ = ["start_platform"]
