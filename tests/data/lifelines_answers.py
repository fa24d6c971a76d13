# /// script
# requires-python = ">=3.11"
# dependencies = ["lifelines==0.30.0"]
# ///
"""What lifelines, an independent implementation of Kaplan and Meier, says of drawn loans; kept as
lifelines_answers.json, because the platform does not need it. `.venv/bin/uv run` of this file, in
an environment of its own, writes the answers anew.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_suffix(".json")
SIZES = (5, 50, 500, 2_000)


def drawn_loans(size: int) -> tuple[Any, Any]:
    """Ages in months at which loans were bad, or else last seen; and which were bad."""
    random = np.random.default_rng(size)
    return random.integers(0, 24, size), random.random(size) < 0.3


def answers(size: int) -> dict[str, list[float | None]]:
    """Age to survival and its 95 % limits, where they have a value."""
    from lifelines import KaplanMeierFitter

    fitter = KaplanMeierFitter().fit(*drawn_loans(size))
    limits = fitter.confidence_interval_survival_function_
    found = {}
    for age in fitter.survival_function_.index[1:]:
        values = [float(fitter.predict(age)), *map(float, limits.loc[age])]
        found[str(int(age))] = [None if math.isnan(value) else value for value in values]
    return found


def stored() -> dict[str, dict[str, list[float | None]]]:
    """The answers by size, as the file has them."""
    found: dict[str, dict[str, list[float | None]]] = json.loads(FILE.read_text())
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps({str(size): answers(size) for size in SIZES}, indent=1) + "\n")
    print(f"{FILE.name} is written")
