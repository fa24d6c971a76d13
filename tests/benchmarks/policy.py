"""What deciding costs: the default policy against comparisons by hand, and a large table."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from credit_risk_dagster.domain.cleaning import clean
from credit_risk_dagster.domain.decision import decide
from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.policy import Policy, load_policy, validate_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.benchmarks.lab import OpenLab
from tests.benchmarks.report import Bar, Section, table

MICROSECONDS = 1e6


@dataclass(frozen=True)
class Size:
    """Events of a batch, rules of the large table, and how often each is timed: the best counts."""

    events: int
    rules: int
    rounds: int


FULL = Size(events=10_000, rules=200, rounds=30)
QUICK = Size(events=10_000, rules=200, rounds=10)
SMALLEST = Size(events=200, rules=20, rounds=1)

_NUMBERS = {
    "loan_amnt": 40_000,
    "annual_inc": 200_000,
    "dti": 60,
    "int_rate": 30,
    "revol_util": 120,
    "delinq_2yrs": 3,
    "inq_last_6mths": 5,
    "credit_history_years": 40,
    "emp_length_yrs": 10,
    "term_months": 60,
    "pd": 1,
    "dti_joint": 40,
    "annual_inc_joint": 200_000,
}
_CATEGORIES = {
    "purpose": ("car", "credit_card", "debt_consolidation"),
    "grade": ("A", "B", "C", "D"),
    "addr_state": ("CA", "NY", "TX"),
    "home_ownership": ("RENT", "OWN"),
    "application_type": ("joint", "individual"),
    "figures": ("combined", "fallback"),
}


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Time scoring and deciding in this process; needs no server."""
    say(f"policy: batches of {size.events:,} events")
    loans = builtin_loans()[: size.events]
    events = decode([msgspec.json.encode(loan) for loan in loans])
    default = load_policy(DEFAULT_POLICY)
    columns = clean(events, default.program.joint).columns()
    random = np.random.default_rng(0)
    columns["pd"] = random.random(len(loans))
    large = _large(size.rules, random)

    def best(work: Callable[[], Any]) -> float:
        return min(_seconds(work) for _ in range(size.rounds)) * MICROSECONDS / len(loans)

    scoring = best(lambda: assess(events, default))
    deciding = best(lambda: decide(default.program, columns).reasons())
    by_hand = best(lambda: _by_hand(columns))
    of_large = best(lambda: decide(large.program, columns).reasons())
    results = {
        "scoring_us": scoring,
        "deciding_us": deciding,
        "by_hand_us": by_hand,
        "rules": size.rules,
        "columns": len(large.program.columns),
        "large_us": of_large,
    }
    grid = table("Policies", "us an event")
    grid.add_row(f"clean and score by {default.name}", f"{scoring:.2f}")
    grid.add_row("of that, the policy", f"{deciding:.2f}")
    grid.add_row("four comparisons and their bands, by hand", f"{by_hand:.2f}")
    grid.add_row(f"{size.rules} rules on {len(large.program.columns)} columns", f"{of_large:.2f}")
    against = 100 * scoring / (scoring - deciding + by_hand)
    bars = [
        Bar("scoring by the default policy, in % of comparisons by hand", against, 110, "%", True),
        Bar("a table of many rules, an event", of_large, 20, "us", True),
    ]
    return Section("policy", results, grid, bars)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _by_hand(columns: dict[str, Any]) -> tuple[Any, ...]:
    """The decisions of lendingclub-v1 as they were made before there were tables, but for writing
    the reasons out."""
    fired = (
        columns["dti"] >= 30,
        columns["revol_util"] >= 80,
        columns["delinq_2yrs"] > 0,
        columns["inq_last_6mths"] >= 2,
    )
    warning = (fired[0] | fired[1]) & (fired[2] | fired[3])
    bits = sum((flag.astype(np.int8) << bit) for bit, flag in enumerate(fired))
    dti, util, rate = (
        np.where(np.isnan(columns[name]), -1, np.searchsorted(edges, columns[name]))
        for name, edges in (
            ("dti", (20, 30, 40)),
            ("revol_util", (30, 60, 80)),
            ("int_rate", (10, 15, 20)),
        )
    )
    tier = np.where(warning, 2, np.where(np.maximum(dti, util) >= 2, 1, 0)).astype(np.int8)
    return tier, np.where(warning, bits, 0), dti, util, rate


def _large(rules: int, random: np.random.Generator) -> Policy:
    """A table whose rules test three of all columns each, in every way there is."""
    names = [*_NUMBERS, *_CATEGORIES, "issue_d"]

    def test(name: str) -> dict[str, Any]:
        if name == "issue_d":
            return {name: ">= 2018-02"}
        if name in _CATEGORIES:
            values = _CATEGORIES[name]
            return {name: str(random.choice([values[0], f"not({', '.join(values[:2])})"]))}
        at = round(float(random.uniform(0, _NUMBERS[name])), 2)
        return {name: str(random.choice([f">= {at}", f"< {at}", f"[{at / 2}..{at}]"]))}

    rows = []
    for at in range(rules):
        one, two, three = (names[(at * 3 + k) % len(names)] for k in range(3))
        when = random.choice(["all", "any"])
        rows.append(
            {
                "id": f"rule-{at}",
                "when": {when: [test(one), {"not": test(two)}], **test(three)},
                "tier": str(random.choice(["Elevated", "Watchlist"])),
                "reason": f"R{at}",
                "words": "A rule",
            }
        )
    bands = {"dti": [20, 30, 40], "revol_util": [30, 60, 80], "int_rate": [10, 15, 20]}
    return validate_policy({"name": "large", "bands": bands, "rules": rows}, "of the benchmark")
