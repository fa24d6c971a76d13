# /// script
# requires-python = ">=3.11"
# dependencies = ["optbinning==0.21.0"]
# ///
"""What optbinning, an independent implementation, says about drawn loans; kept as
optbinning_answers.json, because its solvers take 310 MB. `.venv/bin/uv run` of this file, in an
environment of its own, writes the answers anew.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_suffix(".json")
SEEDS = range(20)


def drawn_loans(seed: int, size: int = 500, ties: bool = False) -> tuple[Any, Any]:
    """Outcomes (true is bad) and PDs that they follow; with ties, of a few distinct values."""
    random = np.random.default_rng(seed)
    pd = 1 / (1 + np.exp(-random.normal(-1, 1, size)))
    if ties:
        pd = np.round(pd, 1)
    bad = random.random(size) < pd
    bad[:2] = (True, False)
    return bad, pd


def drawn_counts(seed: int) -> tuple[Any, Any]:
    """Loans in each of some bins, before and now; no bin is empty."""
    random = np.random.default_rng(seed)
    bins = random.integers(2, 12)
    before, now = (random.integers(1, 1 + 10**power, bins) for power in random.integers(1, 6, 2))
    return before, now


def answers() -> dict[str, list[float]]:
    """The figures of each seed's draws."""
    from optbinning.binning.metrics import jeffrey
    from optbinning.metrics.classification import gini, ks

    found: dict[str, list[float]] = {"gini": [], "ks": [], "psi": []}
    for seed in SEEDS:
        bad, pd = drawn_loans(seed)
        before, now = drawn_counts(seed)
        found["gini"].append(float(gini(bad, pd)))
        found["ks"].append(float(ks(bad, pd)[0]))
        found["psi"].append(float(jeffrey(now / now.sum(), before / before.sum(), return_sum=True)))
    return found


def stored() -> dict[str, list[float]]:
    """The figures of each seed's draws, as the file has them."""
    found: dict[str, list[float]] = json.loads(FILE.read_text())
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(answers(), indent=1) + "\n")
    print(f"{FILE.name} is written")
