"""What the platform can do, measured: `python -m tests.benchmarks --help`."""
