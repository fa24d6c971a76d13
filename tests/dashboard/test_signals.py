"""What each line of the first screen's strip says, and when it is green, amber, red or grey."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from credit_risk_dagster.domain.intervals import share
from credit_risk_dagster.domain.limits import Limit, Measured
from dashboard.parts import signals
from resources.postgres.management import Unreviewed, Volume


@pytest.mark.parametrize(
    ("given", "level", "said"),
    [
        ((0, None, "in 4 partitions", False, 0), "green", "Nothing waits; every offset"),
        ((40, None, "", False, 0), "green", "40 events on the way"),
        (
            (2_971, 52.0, "", False, 0),
            "red",
            "Stalled: 2,971 events not scored, the oldest for 52 s",
        ),
        ((0, None, "", False, 3), "red", "3 offsets missing or doubled"),
        (
            (None, None, "the topic was recreated or cut short: nothing is scored", True, 0),
            "red",
            "The topic was recreated",
        ),
        ((None, None, "the broker did not answer", False, 0), "grey", "The broker did not"),
        ((None, None, "the broker did not answer", False, 1), "red", "1 offset missing or"),
    ],
)
def test_the_pipeline(given: Any, level: str, said: str) -> None:
    line = signals.pipeline(*given)
    assert (line.level, line.page) == (level, "operations")
    assert said in line.why


@pytest.mark.parametrize(
    ("verdict", "age", "schema", "level", "said"),
    [
        ("stable", 60.0, {"state": "Passed"}, "green", "Drift is stable; the events' columns"),
        (
            "moderate",
            60.0,
            None,
            "amber",
            "Drift is moderate (DTI, Annual income); the",
        ),
        (
            "significant",
            60.0,
            {"state": "Passed"},
            "red",
            "significant (DTI, Annual income)",
        ),
        ("stable", 60.0, {"state": "Running", "found": ""}, "green", "columns were not compared"),
        ("stable", 3 * 86_400.0, {"state": "Passed"}, "amber", "as of 3 d ago"),
        (
            "stable",
            60.0,
            {"state": "Warning", "found": "dti is new"},
            "amber",
            "columns of the events changed: dti is new",
        ),
        ("too_few_rows", 60.0, None, "grey", "Too few applications to tell of drift"),
    ],
)
def test_the_population(
    verdict: str, age: float, schema: dict[str, str] | None, level: str, said: str
) -> None:
    features = ["dti", "annual_inc"] if verdict in ("moderate", "significant") else []
    line = signals.population({"verdict": verdict, "age": age, "features": features}, schema)
    assert line.level == level
    assert said in line.why


def tiers(low: tuple[int, int], elevated: tuple[int, int], watchlist: tuple[int, int]) -> Any:
    return {
        "tiers": [
            {"tier": tier, "loans": loans, "bads": bads, "bad_rate": vars(share(bads, loans))}
            for tier, (bads, loans) in (
                ("Low", low),
                ("Elevated", elevated),
                ("Watchlist", watchlist),
            )
        ]
    }


def test_tiers_that_do_not_rank_risk() -> None:
    """Of the built-in loans the Watchlist goes bad at 1.1 %, and Low at 1.7 %."""
    line = signals.policy(tiers((117, 6_809), (50, 2_835), (4, 356)))
    assert line.level == "amber"
    assert line.why == (
        "Went bad: Watchlist 1.1 % (0.44 to 2.9), Elevated 1.8 % (1.3 to 2.3), "
        "Low 1.7 % (1.4 to 2.1). So the tiers do not rank risk"
    )


def test_a_tier_without_outcomes_has_no_rate_and_none_bad_has_an_interval() -> None:
    document = tiers((0, 2_000), (0, 0), (12, 400))
    (elevated,) = (tier for tier in document["tiers"] if tier["tier"] == "Elevated")
    elevated["bad_rate"] = dict.fromkeys(("low", "value", "high"))  # as JSON has them
    assert signals.policy(document).why == (
        "Went bad: Watchlist 3.0 % (1.7 to 5.2), Elevated no outcome yet, Low 0.0 % (0.0 to 0.19). "
        "Riskier tiers go bad more often"
    )


@pytest.mark.parametrize(
    ("low", "watchlist", "said"),
    [
        ((10, 5_000), (0, 1), "Low 5,000 loans, Watchlist 1 loan; from 30 of each it tells"),
        ((10, 29), (4, 400), "Low 29 loans, Watchlist 400 loans; from 30 of each it tells"),
        ((10, 5_000), (0, 0), "Low 5,000 loans, Watchlist 0 loans; from 30 of each it tells"),
        ((8, 500), (1, 500), "9 bad loans of 1,000"),
    ],
)
def test_nothing_is_said_of_tiers_with_too_few_outcomes(
    low: tuple[int, int], watchlist: tuple[int, int], said: str
) -> None:
    line = signals.policy(tiers(low, (0, 0), watchlist))
    assert (line.level, line.why) == ("grey", f"Too few outcomes to tell: {said}")


@pytest.mark.parametrize(
    ("low", "watchlist", "level"),
    [
        ((20, 2_000), (60, 400), "green"),
        ((300, 2_000), (4, 400), "red"),
        ((1, 90), (1, 9), "grey"),
        ((10, 30), (10, 30), "amber"),
    ],
)
def test_the_policy(low: tuple[int, int], watchlist: tuple[int, int], level: str) -> None:
    assert signals.policy(tiers(low, (0, 0), watchlist)).level == level
    assert signals.policy(None).level == "grey"
    assert signals.policy({"policy": "of an older report"}).level == "grey"


def came(auc: float | None, low: float, bads: int, expected: float) -> dict[str, Any]:
    return {
        "auc": auc,
        "auc_low": low,
        "auc_high": 0.8,
        "bads": bads,
        "bad_rate": vars(share(bads, 1_000)),
        "expected_bad_rate": expected,
    }


@pytest.mark.parametrize(
    ("performance", "level", "said"),
    [
        (came(0.7, 0.6, 50, 0.052), "green", "5.2 %: calibrated (not active)"),
        (came(0.7, 0.6, 50, 0.15), "amber", "15.0 %: not calibrated"),
        (came(0.52, 0.48, 50, 0.05), "red", "no better than chance"),
        (came(None, 0.0, 0, 0.05), "green", "AUC 0.66 (0.60 to 0.72) expected"),
        (None, "grey", "No model could score"),
    ],
)
def test_the_model(performance: dict[str, Any] | None, level: str, said: str) -> None:
    expected = {"auc": {"value": 0.66, "low": 0.6, "high": 0.72}}
    document = {"performance": performance, "active": False, "windows": [{"estimated": expected}]}
    line = signals.model(document)
    assert line.level == level
    assert said in line.why


def test_limits_name_what_is_over_the_worst_first() -> None:
    state, purpose = Limit("largest_state", 0.1, 0.2), Limit("largest_purpose", 0.3, 0.4)
    loss = Measured(Limit("expected_loss", 0.1, 0.2), None)
    line = signals.limits(
        [Measured(state, 0.15, "CA"), Measured(purpose, 0.5, "small_business"), loss]
    )
    assert line.level == "red"
    assert line.why == (
        "Largest purpose (small business) 50.0 %, red from 40.0 %; "
        "largest state (CA) 15.0 %, amber from 10.0 %; "
        "not known: expected loss"
    )
    assert signals.limits([Measured(state, 0.05, "CA")]).level == "green"
    assert signals.limits([loss]).level == "grey"
    assert signals.limits([]).level == "grey"


@pytest.mark.parametrize(
    ("cases", "oldest", "level"),
    [(0, None, "green"), (3, 60.0, "green"), (3, 90_000.0, "amber"), (3, 300_000.0, "red")],
)
def test_the_work(cases: int, oldest: float | None, level: str) -> None:
    line = signals.work(Unreviewed(cases, oldest, 30_000.0), within_hours=72)
    assert line.level == level
    if cases:
        assert line.why.startswith("3 cases nobody began to review, $30.0 K, the oldest ")


@pytest.mark.parametrize(
    ("states", "level", "said"),
    [
        (["Passed", "Not run yet"], "green", "None fails; 1 of 2 passed, 1 did not end yet"),
        (["Warning", "Passed"], "amber", "1 warned: c0; 1 of 2 passed"),
        (["Failed", "Could not run", "Warning"], "red", "2 failed: c0, c1; 1 warned: c2; 0 of"),
        (["Not run yet"], "grey", "None has run yet"),
    ],
)
def test_the_checks(states: list[str], level: str, said: str) -> None:
    found = pd.DataFrame({"check": [f"c{n}" for n in range(len(states))], "state": states})
    line = signals.checks(found)
    assert line.level == level
    assert said in line.why


ACTIVATED = {"kind": "policy", "subject": "p@1", "action": "activate", "who": "ana"}


def day(applications: int, watchlist: int) -> Volume:
    return Volume(applications - watchlist, 0, watchlist, 0.0, 0.0, 0)


def test_what_changed_since_yesterday() -> None:
    line = signals.changes([], day(1_100, 44), day(1_000, 40))
    assert line.level == "green"
    assert line.why == "1,100 applications (+10 %); Watchlist 4.0 % (+0.00 points)"
    more = signals.changes([], day(1_000, 90), day(1_000, 40))
    assert (more.level, "more than chance" in more.why) == ("amber", True)
    # Of too many, decisions are counted, and are called so.
    many = signals.changes([], replace(day(10, 1), once=False), day(10, 1))
    assert many.why.startswith("10 decisions (+0 %)")
    policy = signals.changes([ACTIVATED], day(0, 0), day(10, 1))
    assert (policy.level, policy.why) == (
        "amber",
        "Policy p@1 activated by ana; no applications",
    )
