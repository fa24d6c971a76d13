"""The policy lab's times on a big table: to read its sample, and to answer a moved slider."""

import time
from statistics import median
from typing import Any

from credit_risk_dagster.domain.policy import load_policy, validate_policy
from credit_risk_dagster.domain.policy_lab import Applications, compare, lab_numbers, outcome_codes
from credit_risk_dagster.settings import DEFAULT_POLICY
from dashboard.data import policy_lab
from tests.benchmarks.report import Bar, Section, table

LAB_READ_MS, LAB_ANSWER_MS = 5_000.0, 2_000.0


def measure_lab(rounds: int) -> Section:
    """Time the policy lab: reading the newest applications, and the answer to a moved slider."""
    grid = table("Policy lab", "read, ms", "answer, ms", "memory, MB")
    results: dict[str, Any] = {}
    active = load_policy(DEFAULT_POLICY)
    outcome = policy_lab.OUTCOME_DEFINITIONS["early_delinquency"]
    for size in policy_lab.LAB_SIZES:
        reads, answers = [], []
        for round_ in range(rounds):
            started = time.perf_counter()
            sample = policy_lab.lab_sample.__wrapped__(size, round_, lab_numbers(active))
            reads.append(1000 * (time.perf_counter() - started))
            content = active.table.content() | {"name": "candidate", "examples": []}
            content["conditions"]["high-dti"] = {"dti": f">= {29 - round_}"}
            candidate = validate_policy(content, "candidate")
            started = time.perf_counter()
            codes = outcome_codes(outcome, policy_lab.STATUSES)[sample.status]
            compared = compare(
                Applications(sample.numbers, sample.of_two, codes), active, candidate
            )
            for positions in (compared.entering, compared.leaving):
                policy_lab.lab_applications(sample, positions[: policy_lab.LAB_ROWS])
            answers.append(1000 * (time.perf_counter() - started))
        arrays = (*sample.numbers.values(), sample.of_two, *sample.keys.values(), sample.status)
        results[f"{len(sample.status)}"] = {
            "read_ms": median(reads),
            "answer_ms": median(answers),
            "memory_mb": sum(array.nbytes for array in arrays) / 1e6,
        }
        grid.add_row(
            f"{len(sample.status):,} applications",
            *(f"{median(found):,.0f}" for found in (reads, answers)),
            f"{results[f'{len(sample.status)}']['memory_mb']:,.1f}",
        )
    largest = max(results.values(), key=lambda found: found["memory_mb"])
    bars = [
        Bar("policy lab, read", largest["read_ms"], LAB_READ_MS, "ms", at_most=True),
        Bar("policy lab, answer", largest["answer_ms"], LAB_ANSWER_MS, "ms", at_most=True),
    ]
    return Section("policy lab", results, grid, bars)
