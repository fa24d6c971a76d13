"""Each chart with a few rows: it draws a mark for each of them, and reads only what they have."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from credit_risk_dagster.domain.policy import TIERS
from dashboard.charts import drift, model, policy, stream
from dashboard.charts.pictures import svg
from dashboard.charts.vocabulary import Spec
from dashboard.parts.states import TILES

HOURS = pd.date_range("2026-05-01", periods=3, freq="h", tz="UTC", name="start")
SUBJECTS = ("Rules", "Logistic regression")


def rows(length: int, **columns: Any) -> pd.DataFrame:
    """So many rows; a column is a list, or one value for all."""
    return pd.DataFrame(columns, index=range(length))


STACKED = stream.stacked(
    pd.DataFrame({"end": HOURS + pd.Timedelta("1h"), **dict.fromkeys(TIERS, 5)}, index=HOURS)
)
SEGMENTS = rows(3, label=list("abc"), value=[0.1, 0.2, 0.3], text="20 %", applications=7)
INTERVALS = SEGMENTS.assign(low=0.05, high=0.4)
MAP = pd.DataFrame.from_dict(TILES, orient="index", columns=["column", "row"]).assign(
    value=0.1, text="10 %", ink="#000000", applications=3, few=False
)
MAP = MAP.rename_axis("state").reset_index()
MINUTES = rows(6, minute=[*HOURS, *HOURS], series=["p50"] * 3 + ["p95"] * 3, value=range(6))
REPORTS = rows(
    *(6,),
    feature=["DTI"] * 3 + ["Purpose"] * 3,
    time=[*HOURS, *HOURS],
    psi=[0.01, 0.12, 0.3, 0.0, 0.0, 0.02],
    limit=0.02,
    verdict=["Stable", "Moderate", "Significant"] * 2,
    rows=500,
)
FEATURES = rows(3, label=list("abc"), psi=[0.3, 0.1, None], text="0.1", limit=0.02).assign(
    verdict=["Significant", "Moderate", "Too few rows"]
)
BINS = drift.bins(["< 1", ">= 1", "(missing)"], [0.5, 0.4, 0.1], [0.3, 0.7, 0.0])
CURVES = rows(
    *(12,),
    subject=["rules", "rules", "logistic", "logistic"] * 3,
    curve=["roc"] * 4 + ["gains"] * 4 + ["scores_good", "scores_good", "scores_bad", "scores_bad"],
    point=[0, 1] * 6,
    x=[0.0, 1.0] * 6,
    y=[0.0, 1.0] * 6,
)
DENSITIES = model.densities(CURVES.assign(subject="logistic"), "logistic")
TENTHS = model.tenths(
    {
        "logistic": {
            "bins": [
                {"mean_pd": pd, "bad_rate": pd, "low": 0.0, "high": 0.2, "loans": 9}
                for pd in (0.05, 0.1)
            ]
        }
    }
)
RATES = rows(3, tier=list(TIERS), bad_rate=0.1, low=0.0, high=0.2, loans=10, bads=1, text="10 %")
EFFECTS = model.effect_rows(
    [
        {"name": name, "odds_ratio": 1.2, "low": 0.9, "high": 1.6}
        for name in ("dti", "missing: dti", "purpose_car", "term_months_60.0")
    ]
)
BENCHMARKS = rows(
    *(4,),
    subject=[*SUBJECTS, *SUBJECTS],
    created_at=[*HOURS[:1], *HOURS[:1], *HOURS[1:2], *HOURS[1:2]],
    auc=0.7,
    auc_low=0.6,
    auc_high=0.8,
    rows=100,
    outcome="matured",
)
POLICIES = rows(
    *(6,),
    policy=[policy.ACTIVE, policy.CANDIDATE] * 3,
    tier=sorted([*TIERS, *TIERS]),
    applications=4,
    share=0.3,
    text="30 %",
)
MOVES = rows(
    *(9,),
    active=sorted([*TIERS] * 3),
    candidate=[*TIERS] * 3,
    move="Stays",
    applications=range(9),
    amount=1.0,
)

# Of each chart: itself, its rows, and how many marks of a kind there have to be.
CHARTS: dict[str, tuple[Callable[[], Spec], pd.DataFrame, dict[str, int]]] = {
    "volume": (lambda: stream.volume("hour", "%H:%M"), STACKED, {"rect": 9}),
    "mix": (lambda: stream.mix("%H:%M"), STACKED, {"rect": 9}),
    "segments": (
        lambda: stream.segments("Share", "%", "#C6303E", False),
        SEGMENTS,
        {"rect": 3, "text": 3},
    ),
    "segments with intervals": (
        lambda: stream.segments("Share", "%", "#C6303E", True),
        INTERVALS,
        {"rect": 3, "text": 3, "rule": 3},
    ),
    "states": (lambda: stream.state_map("Share", "%", "dark"), MAP, {"rect": 51, "text": 51}),
    "states, one of a few applications": (
        lambda: stream.state_map("Share", "%", "light"),
        MAP.assign(few=MAP["state"] == "WY", value=MAP["value"].where(MAP["state"] != "WY")),
        {"rect": 50 + 1, "text": 51},
    ),
    "minutes": (
        lambda: stream.courses("Events", ",d", ("p50", "p95")),
        MINUTES,
        {"line": 2, "symbol": 6},
    ),
    "verdicts": (lambda: drift.verdicts(("DTI", "Purpose"), "light"), REPORTS, {"rect": 6}),
    "PSI over time": (
        lambda: drift.courses(("DTI", "Purpose"), 0.1, 0.25),
        REPORTS,
        {"line": 2, "symbol": 6, "rule": 2, "text": 2},
    ),
    # Too few rows: a hollow point, and no line to it.
    "PSI over time, of few rows": (
        lambda: drift.courses(("DTI", "Purpose"), 0.1, 0.25),
        REPORTS.assign(verdict=["Stable", "Too few rows", "Stable"] * 2),
        {"line": 2, "symbol": 6, "rule": 2, "text": 2},
    ),
    # A PSI that cannot be computed has no bar, but the feature has its line and its limit.
    "PSI by feature": (
        lambda: drift.features(0.1, 0.25, "light"),
        FEATURES,
        {"rect": 2 + 3, "rule": 2, "text": 2},
    ),
    "distribution": (lambda: drift.distribution(), BINS, {"rect": 6}),
    **{
        name: (
            partial(model.curve, name, SUBJECTS),
            model.curve_rows(CURVES, name),
            {"line": 2, "rule": 1},
        )
        for name in model.CURVES
    },
    "calibration": (lambda: model.calibration(SUBJECTS[1:]), TENTHS, {"symbol": 2, "rule": 2 + 1}),
    "PD by outcome": (lambda: model.scores(), DENSITIES, {"area": 2}),
    "bad rate by tier": (lambda: model.tiers(), RATES, {"symbol": 3, "rule": 3, "text": 3}),
    "odds ratios": (lambda: model.effects(), EFFECTS, {"symbol": 4, "rule": 4 + 1}),
    "AUC over time": (
        lambda: model.history(SUBJECTS),
        BENCHMARKS,
        {"line": 2, "symbol": 4, "rule": 4},
    ),
    "tiers of policies": (lambda: policy.tiers(), POLICIES, {"rect": 6, "text": 6}),
    "moves": (lambda: policy.moves(), MOVES, {"rect": 9, "text": 9}),
}


def marks(drawn: str, kind: str) -> int:
    """How many marks of a kind a picture has; axes and legends have none."""
    groups = ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}g")
    of_kind = {f"mark-{kind}", "role-mark"}
    return sum(len(group) for group in groups if of_kind <= set(group.get("class", "").split()))


def fields(spec: Any) -> Iterator[str]:
    """What a specification reads of its rows; not what it computes or has in itself."""
    if isinstance(spec, list):
        for part in spec:
            yield from fields(part)
    elif (
        isinstance(spec, dict) and "values" not in spec.get("data", {}) and "transform" not in spec
    ):
        for name, part in spec.items():
            if name == "field":
                yield part
            else:
                yield from fields(part)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_draws_all_its_rows(name: str) -> None:
    build, data, expected = CHARTS[name]
    spec = build()
    assert set(fields(spec)) <= set(data.columns)
    drawn = svg(spec, data)
    assert {kind: marks(drawn, kind) for kind in expected} == expected
    assert "NaN" not in drawn


def lines_of(spec: Spec, data: pd.DataFrame) -> list[str]:
    """The paths of a picture's lines."""
    groups = ElementTree.fromstring(svg(spec, data)).iter("{http://www.w3.org/2000/svg}g")
    of_lines = [g for g in groups if {"mark-line", "role-mark"} <= set(g.get("class", "").split())]
    return [path.get("d", "") for group in of_lines for path in group]


def test_lines_have_gaps_where_nothing_came_or_nothing_can_be_said() -> None:
    build, data, _ = CHARTS["PSI over time"]
    assert [path.count("M") for path in lines_of(build(), data)] == [1, 1]
    build, data, _ = CHARTS["PSI over time, of few rows"]
    assert all("L" not in path for path in lines_of(build(), data))  # of three, two say something
    latency = rows(4, minute=pd.date_range("2026-05-01", periods=4, freq="h", tz="UTC")).assign(
        series="p50", value=[1.0, None, 2.0, 3.0]
    )
    (path,) = lines_of(stream.courses("Milliseconds", ",d", ("p50",)), latency)
    assert path.count("M") == 2


def test_a_chart_is_built_once() -> None:
    assert stream.mix("%H:%M") is stream.mix("%H:%M")
    assert stream.mix("%H:%M") is not stream.mix("%-d %b")


def test_effects_have_names_that_people_use() -> None:
    assert EFFECTS["name"].tolist() == ["DTI", "DTI missing", "Purpose: car", "Term: 60"]


def test_a_run_draws_without_the_dashboards_server() -> None:
    program = "import sys, dashboard.charts.pictures; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"streamlit", "vl_convert", "sklearn", "dagster"} & set(done.stdout.split())
