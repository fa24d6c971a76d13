"""The benchmarks measure what they say, at a size at which the figures mean nothing."""

import json
from contextlib import nullcontext

import msgspec
import pytest

from credit_risk_dagster.domain.events import decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY
from infra.embedded.servers import Broker, Postgres
from tests.benchmarks import archive, drift, model, row_at_a_time
from tests.benchmarks.lab import Lab
from tests.benchmarks.report import Bar
from tests.benchmarks.throughput import Size, measure


@pytest.mark.integration
def test_throughput_measures_all_four(postgres: Postgres, broker: Broker) -> None:
    size = Size(events=500, row_events=20, rounds=1)
    section = measure(Lab(postgres, broker), size, lambda _: None)
    contenders = section.results["contenders"].values()
    assert all(contender["events_per_second_median"] > 0 for contender in contenders)
    assert sum(section.results["drain_share_of_work_by_stage"].values()) == pytest.approx(1)


@pytest.mark.integration
def test_the_archive_is_measured_beside_the_bare_loop_and_the_drain(
    postgres: Postgres, broker: Broker
) -> None:
    size = archive.Size(events=500, rounds=1, compressed=100)
    section = archive.measure(lambda: nullcontext(Lab(postgres, broker)), size, lambda _: None)
    assert all(rate > 0 for rate in section.results["events_per_second_median"].values())
    assert section.results["compression_ratio"] > 1


@pytest.mark.integration
def test_drift_reports_of_two_sizes_are_measured(
    postgres: Postgres, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_DRIFT_BASELINE_ROWS", "100")
    size = drift.Size(fewer=300, rows=900, rounds=1)
    section = drift.measure(lambda: nullcontext(Lab(postgres, broker)), size, lambda _: None)
    assert {rows: len(runs) for rows, runs in section.results["runs"].items()} == {
        "300": 1,
        "900": 1,
    }
    assert section.results["html"]["html_seconds"] > 0


@pytest.mark.integration
def test_the_model_is_measured(postgres: Postgres, broker: Broker) -> None:
    size = model.Size(events=500, rounds=1, loans=4_000)
    section = model.measure(Lab(postgres, broker), size, lambda _: None)
    training = section.results["training"]
    assert training["loans"] > 3_900
    assert training["train_seconds"].keys() >= {"logistic", "gradient_boosting"}
    assert training["before_mb"] < training["trained_mb"] <= training["peak_mb"]
    assert all(rate > 0 for rate in section.results["events_per_second_with"])


def test_the_usual_design_makes_the_rows_of_the_platform() -> None:
    event_time = "2018-03-05T10:00:00.123456+00:00"
    values = [
        msgspec.json.encode({**row, "event_time": event_time}) for row in builtin_loans()[:300]
    ]
    rows = [row_at_a_time.process(json.loads(value)) for value in values]
    assessment = assess(decode(values), load_policy(DEFAULT_POLICY))
    expected: list[dict[str, object] | None] = [None] * len(values)
    for at, row in zip(assessment.scored_at, assessment.scored.to_pylist(), strict=True):
        expected[at] = {**row, "issue_d": row["issue_d"].isoformat()}
    assert [row and {**row, "issue_d": f"{row['issue_d']:%Y-%m-%d}"} for row in rows] == expected


def test_a_bar_is_met_at_its_limit() -> None:
    assert Bar("latency", 200, 200, "ms", at_most=True).met
    assert not Bar("latency", 201, 200, "ms", at_most=True).met
    assert Bar("rate", 60, 60, "%", at_most=False).met
    assert not Bar("rate", 59, 60, "%", at_most=False).met
