# /// script
# requires-python = ">=3.11"
# dependencies = ["optbinning==1.0.0"]
# ///
"""What optbinning, an independent implementation, says about drawn loans; kept as
optbinning_answers.json and optbinning_bins.json, because its solvers take 310 MB. `.venv/bin/uv
run` of this file, in an environment of its own, writes the answers anew.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_suffix(".json")
BINS_FILE = FILE.with_name("optbinning_bins.json")
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


def drawn_applications() -> tuple[Any, dict[str, Any]]:
    """Outcomes and features of drawn applications, with missing values."""
    random = np.random.default_rng(12)
    size = 4_000
    dti, history = random.uniform(0, 50, size), random.uniform(0, 40, size)
    purpose = random.choice(["car", "house", "medical", "moving"], size).astype(object)
    odds = -4 + 0.05 * dti - 0.03 * history + 0.8 * (purpose == "medical")
    bad = random.random(size) < 1 / (1 + np.exp(-odds))
    dti[random.random(size) < 0.05] = np.nan
    purpose[random.random(size) < 0.05] = None
    return bad, {"dti": dti, "credit_history_years": history, "purpose": purpose}


TRENDS = {"dti": "ascending", "credit_history_years": "descending", "purpose": "auto"}


def bins() -> dict[str, Any]:
    """Of each feature its splits, the weight of evidence of its bins, the missing one the last, and
    that of the first hundred applications."""
    from optbinning import OptimalBinning

    bad, features = drawn_applications()
    found: dict[str, Any] = {}
    for name, values in features.items():
        kind = "categorical" if name == "purpose" else "numerical"
        binning = OptimalBinning(name, dtype=kind, monotonic_trend=TRENDS[name])
        binning.fit(values, bad.astype(int))
        evidence = binning.binning_table.build()["WoE"].iloc[:-1].astype(float).tolist()
        del evidence[-2]  # of special values, which there are not
        splits = [np.asarray(split).tolist() for split in binning.splits]
        transformed = binning.transform(values[:100], metric="woe", metric_missing="empirical")
        found[name] = {"splits": splits, "evidence": evidence, "of": transformed.tolist()}
    return found


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
    BINS_FILE.write_text(json.dumps(bins(), indent=1) + "\n")
    print(f"{FILE.name} and {BINS_FILE.name} are written")
