"""The statistics, against independent implementations, and as what they are for."""

import itertools
import math
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from credit_risk_dagster.domain.drift import baseline as cells
from credit_risk_dagster.domain.drift.baseline import (
    COUNTED,
    FEATURES,
    MISSING,
    Baseline,
    Feature,
    bin_labels,
    count,
    freeze,
    freeze_feature,
)
from credit_risk_dagster.domain.drift.comparison import (
    Drift,
    Thresholds,
    Verdict,
    compare,
    compare_window,
    judge,
)
from credit_risk_dagster.domain.drift.statistics import (
    EMPTY_SHARE,
    OF_WINDOWS,
    chi_square,
    control_limits,
    counts_of_values,
    day_limits,
    kolmogorov_smirnov,
    psi,
    psi_by_chance,
)
from credit_risk_dagster.domain.intervals import wilson_interval
from credit_risk_dagster.domain.policy import TIERS
from tests.data import optbinning_answers
from tests.domain.drift.populations import NUMBERS, rows, window_of

EXACT = {"rel": 1e-9, "abs": 1e-12}
THRESHOLDS = Thresholds()
INF, NAN = math.inf, math.nan
COUNTED_FEATURE = next(f for f in FEATURES if f.name == "delinq_2yrs")


@pytest.fixture(scope="module")
def halves(population: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Two random halves of the real loans."""
    order = np.random.default_rng(20180301).permutation(len(population))
    return population.take(order[:5000]), population.take(order[5000:])


@pytest.fixture(scope="module")
def baseline(halves: tuple[pa.Table, pa.Table]) -> Baseline:
    return freeze(halves[0], rejected=12, origin="the test")


def shifted(table: pa.Table, **add: float) -> pa.Table:
    for name, value in add.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pc.min_element_wise(pc.add(table[name], value), 100.0))
    return table


def reference_of(feature: str, baseline: Baseline) -> Any:
    return next(r for r in baseline.references if r.feature == feature)


# --- parity ---------------------------------------------------------------------------------------


def binned(table: pa.Table, baseline: Baseline, feature: Feature) -> list[str]:
    """Each row's bin by name, found with pandas rather than with the counts."""
    reference = reference_of(feature.name, baseline)
    values = table[feature.column].to_pandas()
    labels = list(bin_labels(reference.kind, reference.edges, reference.categories))
    if feature.kind == "category":
        texts = table[feature.column].cast(pa.string()).to_pandas()
        known = texts.where(texts.isna() | texts.isin(labels), cells.OTHER)
        return list(known.where(known.notna(), MISSING))
    cut = pd.cut(values, [-INF, *reference.edges, INF], right=False, labels=labels[:-1])
    return list(cut.astype(object).where(values.notna(), MISSING))


@pytest.mark.parametrize("seed", optbinning_answers.SEEDS)
def test_psi_is_optbinnings(seed: int) -> None:
    before, now = optbinning_answers.drawn_counts(seed)
    expected = optbinning_answers.stored()["psi"][seed]
    assert psi(before, now) == pytest.approx(expected, **EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_psi_is_evidentlys(
    halves: tuple[pa.Table, pa.Table], baseline: Baseline, feature: Feature
) -> None:
    from evidently.legacy.calculations.stattests import psi_stat_test
    from evidently.legacy.calculations.stattests.registry import get_stattest
    from evidently.legacy.core import ColumnType

    window = shifted(halves[1], dti=3.0).slice(0, 3000)
    before, now = (binned(table, baseline, feature) for table in (halves[0], window))
    # Bins that one side lacks are judged differently by everybody; see the test of those.
    shared = set(before) & set(now)
    kept = [[name for name in names if name in shared] for names in (before, now)]
    counted = [Counter(names) for names in kept]
    a, b = (np.array([c[name] for name in sorted(shared)]) for c in counted)
    ours = psi(a, b)
    run = get_stattest(
        pd.Series(kept[0]), pd.Series(kept[1]), ColumnType.Categorical, psi_stat_test
    )
    theirs = run(pd.Series(kept[0]), pd.Series(kept[1]), ColumnType.Categorical, None)
    assert ours == pytest.approx(theirs.drift_score, **EXACT)
    if len(shared) == len(set(before) | set(now)):
        reference = reference_of(feature.name, baseline)
        found = compare(reference, count(reference, window[feature.column]), THRESHOLDS)
        assert found.psi == pytest.approx(ours, **EXACT)


@pytest.mark.parametrize("name", [n for n in NUMBERS if n not in COUNTED])
@pytest.mark.parametrize("size", [1, 40, 3000])
def test_kolmogorov_smirnov_is_scipys(
    halves: tuple[pa.Table, pa.Table], baseline: Baseline, name: str, size: int
) -> None:
    """Although the baseline keeps counts only."""
    window = shifted(halves[1], dti=3.0).slice(0, size)
    reference = reference_of(name, baseline)
    found = compare(reference, count(reference, window[name]), THRESHOLDS)
    values = [
        column[~np.isnan(column)]
        for column in (table[name].to_numpy() for table in (halves[0], window))
    ]
    expected = stats.ks_2samp(*values, method="asymp")
    assert found.ks == pytest.approx(expected.statistic, **EXACT)
    assert found.ks_p == pytest.approx(expected.pvalue, **EXACT)
    means = [float(np.mean(v)) for v in values]
    assert [found.reference_mean, found.mean] == pytest.approx(means, **EXACT)


@pytest.mark.parametrize("name", [f.name for f in FEATURES if f.kind == "category"])
def test_chi_square_is_scipys(
    halves: tuple[pa.Table, pa.Table], baseline: Baseline, name: str
) -> None:
    reference = reference_of(name, baseline)
    column = next(f.column for f in FEATURES if f.name == name)
    current = count(reference, halves[1].slice(0, 900)[column])
    found = chi_square(reference.counts, current.counts)
    table = np.stack([reference.counts, current.counts])
    table = table[:, table.any(axis=0)]
    expected = stats.chi2_contingency(table, correction=False)
    assert found == pytest.approx((expected.statistic, expected.pvalue), **EXACT)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # scipy's, of one row each
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=60),
    st.lists(st.integers(-8, 8), min_size=1, max_size=60),
)
def test_kolmogorov_smirnov_is_exact_with_ties(before: list[int], now: list[int]) -> None:
    reference = freeze_feature(FEATURES[0], pa.array(before, pa.float64()))
    current = count(reference, pa.array(now, pa.float64()))
    found = kolmogorov_smirnov(reference.support_counts, current.counts)
    expected = stats.ks_2samp(before, now, method="asymp")
    p = 1.0 if math.isnan(expected.pvalue) else expected.pvalue  # scipy's, of one row and one row
    assert found == pytest.approx((expected.statistic, p), **EXACT)


def test_a_large_baseline_bounds_what_it_keeps_and_the_error() -> None:
    rng = np.random.default_rng(1)
    before, now = rng.lognormal(11, 0.5, 60_000), rng.lognormal(11.1, 0.5, 3_000)
    reference = freeze_feature(FEATURES[0], pa.array(before))
    assert len(reference.support) <= cells.MAX_SUPPORT + 11
    found = kolmogorov_smirnov(reference.support_counts, count(reference, pa.array(now)).counts)
    assert found
    exact = stats.ks_2samp(before, now).statistic
    assert exact - 1 / cells.MAX_SUPPORT <= found[0] <= exact


def test_wilson_interval_is_scipys() -> None:
    for successes, n in [(0, 10), (3, 10), (10, 10), (812, 5000)]:
        expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson_interval(successes, n) == pytest.approx(
            (expected.low, expected.high), **EXACT
        )
    assert wilson_interval(0, 0) is None


# --- bins -----------------------------------------------------------------------------------------


def test_every_bin_of_a_baseline_has_rows(baseline: Baseline) -> None:
    """But for what no row had: missing values and other categories."""
    for reference in baseline.references:
        assert reference.rows == 5000
        assert (reference.counts[: -1 if reference.kind == "number" else -2] > 0).all()
        labels = bin_labels(reference.kind, reference.edges, reference.categories)
        assert len(labels) == len(reference.counts)
        assert reference.shares.sum() == pytest.approx(1)


def test_deciles_are_about_equal_where_values_are_many(baseline: Baseline) -> None:
    counts = reference_of("dti", baseline).counts
    assert len(counts) == 11
    assert abs(counts[:10] - 500).max() < 25


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40),
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40),
)
def test_whatever_numbers_are_compared_nothing_is_lost(
    before: list[float], now: list[float]
) -> None:
    reference = freeze_feature(FEATURES[0], pa.array(before, pa.float64()))
    assert reference.rows == len(before)
    same = compare(
        reference, count(reference, pa.array(before, pa.float64())), Thresholds(min_rows=1)
    )
    if before:
        assert same.psi == 0
        assert same.ks in (0, None)
        assert same.verdict == "stable"
    found = compare(reference, count(reference, pa.array(now, pa.float64())), THRESHOLDS)
    assert found.shares.sum() == pytest.approx(1 if now else 0)
    assert found.verdict == "too_few_rows"
    assert found.psi is None or math.isfinite(found.psi)


def test_equal_populations_have_equal_hashes(halves: tuple[pa.Table, pa.Table]) -> None:
    table = halves[0]
    again = freeze(table.take(np.arange(5000)[::-1]), rejected=12, origin="another way")
    assert again.content_hash == freeze(table, rejected=12, origin="").content_hash
    other = freeze(shifted(table, dti=0.01), rejected=12, origin="")
    assert other.content_hash != again.content_hash


# --- edge cases: each gets a verdict, none an exception -------------------------------------------

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, Verdict]] = {
    "a constant stays": ({"dti": [5.0] * 1000}, {"dti": [5.0] * 1000}, "dti", "stable"),
    "a constant changes": ({"dti": [5.0] * 1000}, {"dti": [6.0] * 1000}, "dti", "significant"),
    "missing stays": ({"dti": [None] * 1000}, {"dti": [None] * 1000}, "dti", "stable"),
    "all goes missing": ({"dti": [5.0] * 1000}, {"dti": [None] * 1000}, "dti", "significant"),
    "values appear": ({"dti": [None] * 1000}, {"dti": [5.0] * 1000}, "dti", "significant"),
    "a few are unseen": (
        {"purpose": ["car"] * 1000},
        {"purpose": ["car"] * 990 + ["boat"] * 10},
        *("purpose", "stable"),
    ),
    "all are unseen": (
        {"purpose": ["car"] * 1000},
        {"purpose": [f"thing {i}" for i in range(1000)]},
        *("purpose", "significant"),
    ),
    "no categories": ({"grade": [None] * 1000}, {"grade": [None] * 1000}, "grade", "stable"),
    "infinity appears": (
        {"dti": list(np.linspace(0, 50, 1000))},
        {"dti": [*np.linspace(0, 50, 500), *[INF] * 250, *[-INF] * 250]},
        *("dti", "significant"),
    ),
    "infinity stays": (
        {"dti": [INF, -INF, 1.0, 2.0] * 250},
        {"dti": [INF, -INF, 1.0, 2.0] * 250},
        *("dti", "stable"),
    ),
    "too few": ({"dti": [5.0] * 1000}, {"dti": [6.0] * 499}, "dti", "too_few_rows"),
    "none": ({"dti": [5.0] * 1000}, {"dti": []}, "dti", "too_few_rows"),
}


@pytest.mark.parametrize("case", CASES)
def test_edge_cases_get_a_verdict(case: str) -> None:
    before, now, feature, verdict = CASES[case]
    (length,) = {len(values) for values in now.values()}
    frozen = freeze(rows(1000, **before), rejected=0, origin="")
    found = compare_window(frozen, window_of(rows(length, **now), frozen), THRESHOLDS)
    by_name = {f.feature: f for f in found.features}
    assert by_name[feature].verdict == verdict
    assert found.verdict == verdict
    for value in (by_name[feature].mean, by_name[feature].reference_mean):
        assert value is None or math.isfinite(value)


def test_an_empty_window_has_no_figures(baseline: Baseline) -> None:
    found = compare_window(baseline, window_of(rows(0), baseline), THRESHOLDS)
    assert found.verdict == "too_few_rows"
    assert (found.tier_psi, found.watchlist_share, found.reject_share) == (None, None, None)
    assert (found.watchlist_interval, found.watchlist_limits) == (None, None)
    for feature in found.features:
        assert (feature.psi, feature.ks, feature.chi2, feature.mean) == (None,) * 4
        assert feature.missing_share is None


def test_a_window_has_the_figures_of_its_rows(
    halves: tuple[pa.Table, pa.Table], baseline: Baseline
) -> None:
    table = shifted(halves[1], dti=6.0, int_rate=0.5).slice(0, 2000)
    found = compare_window(baseline, window_of(table, baseline, rejected=40), THRESHOLDS)
    tiers = Counter(table["risk_tier"].to_pylist())
    assert found.tier_shares.tolist() == [tiers[tier] / 2000 for tier in TIERS]
    assert found.watchlist_share == tiers["Watchlist"] / 2000
    before = Counter(halves[0]["risk_tier"].to_pylist())
    then, now = (np.array([c[tier] for tier in TIERS]) for c in (before, tiers))
    expected = np.sum((now / 2000 - then / 5000) * np.log((now / 2000) / (then / 5000)))
    assert found.tier_psi == pytest.approx(expected, **EXACT)
    assert found.watchlist_interval == pytest.approx(
        tuple(stats.binomtest(tiers["Watchlist"], 2000).proportion_ci(method="wilson")), **EXACT
    )
    limits = control_limits(before["Watchlist"], 5000, 2000, alarms=OF_WINDOWS)
    assert found.watchlist_limits == limits
    assert (found.day_rows, found.day_share, found.day_limits) == (0, None, None)
    assert found.reject_share == 40 / 2040
    assert found.reject_limits == control_limits(12, 5012, 2040)
    assert [f.feature for f in found.features] == [feature.name for feature in FEATURES]
    for feature, drift in zip(FEATURES, found.features, strict=True):
        old, new = (t[feature.column].to_pandas() for t in (halves[0], table))
        shares_missing = (drift.reference_missing_share, drift.missing_share)
        assert shares_missing == (old.isna().mean(), new.isna().mean())
        if feature.kind == "number":
            assert (drift.reference_median, drift.median) == (
                old.quantile(interpolation="lower"),
                new.quantile(interpolation="lower"),
            )


def test_the_convention_and_what_chance_explains() -> None:
    assert judge(0.0999, 0, 500, THRESHOLDS) == "stable"
    assert judge(0.10, 0, 500, THRESHOLDS) == "moderate"
    assert judge(0.25, 0, 500, THRESHOLDS) == "moderate"
    assert judge(0.2501, 0, 500, THRESHOLDS) == "significant"
    assert judge(0.2501, 0.3, 500, THRESHOLDS) == "stable"
    assert judge(0.2501, 0, 499, THRESHOLDS) == "too_few_rows"
    assert judge(None, 0, 500, THRESHOLDS) == "too_few_rows"
    assert judge(0.06, 0, 500, Thresholds(moderate=0.05, significant=0.07)) == "moderate"


# --- what it is for -------------------------------------------------------------------------------


def simulate(
    halves: tuple[pa.Table, pa.Table],
    baseline: Baseline,
    *,
    size: int,
    windows: int,
    thresholds: Thresholds = THRESHOLDS,
    **add: float,
) -> list[Drift]:
    """Windows drawn from loans that the baseline does not have."""
    rng = np.random.default_rng(size)
    return [
        compare_window(
            baseline,
            window_of(
                shifted(halves[1].take(rng.choice(len(halves[1]), size, replace=False)), **add),
                baseline,
            ),
            thresholds,
        )
        for _ in range(windows)
    ]


@pytest.fixture(scope="module")
def undrifted(halves: tuple[pa.Table, pa.Table], baseline: Baseline) -> list[Drift]:
    return simulate(halves, baseline, size=1000, windows=500)


@pytest.mark.slow
def test_without_drift_there_are_no_alarms(undrifted: list[Drift]) -> None:
    significant = [d for d in undrifted if d.verdict == "significant"]
    assert len(significant) / len(undrifted) < 0.01
    moderate = [d for d in undrifted if d.verdict == "moderate"]
    assert len(moderate) / len(undrifted) < 0.02
    outside = [
        d
        for d in undrifted
        if d.watchlist_limits
        and not d.watchlist_limits[0] <= (d.watchlist_share or 0) <= d.watchlist_limits[1]
    ]
    assert len(outside) / len(undrifted) < 0.02


@pytest.mark.slow
def test_a_shift_of_dti_by_eight_is_found(
    halves: tuple[pa.Table, pa.Table], baseline: Baseline
) -> None:
    found = simulate(halves, baseline, size=1000, windows=500, dti=8.0)
    verdicts = [f.verdict for d in found for f in d.features if f.feature == "dti"]
    assert verdicts.count("significant") > 495


@pytest.mark.slow
def test_small_windows_do_not_cry_wolf(
    halves: tuple[pa.Table, pa.Table], baseline: Baseline
) -> None:
    """At 100 rows PSI is above 0.10 by chance all the time; the verdict knows."""
    found = simulate(halves, baseline, size=100, windows=100, thresholds=Thresholds(min_rows=1))
    naive = [any((f.psi or 0) >= 0.10 for f in d.features) for d in found]
    assert sum(naive) > 90
    assert sum(d.verdict in ("moderate", "significant") for d in found) <= 5


@pytest.mark.parametrize("bins", [3, 11, 30])
@pytest.mark.parametrize(("m", "n"), [(5000, 1000), (5000, 100_000), (1000, 1000)])
def test_the_noise_floor_is_what_psi_is_on_average(bins: int, m: int, n: int) -> None:
    """And its limit is hardly ever passed; both samples drawn anew each time."""
    rng = np.random.default_rng([bins, m, n])
    shares = np.full(bins, 1 / bins)
    pairs = list(
        zip(rng.multinomial(m, shares, 5000), rng.multinomial(n, shares, 5000), strict=True)
    )
    found = np.array([psi(*pair) for pair in pairs])
    floor, limit = psi_by_chance(*pairs[0]) or (0, 0)
    assert found.mean() == pytest.approx(floor, rel=0.07)
    assert (found > limit).mean() < 0.001


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n"), [(5_000, 500), (100_000, 500), (5_000, 5_000)])
def test_at_most_one_week_in_twenty_has_a_false_alarm(baseline: Baseline, m: int, n: int) -> None:
    """Of all features together, with a report every half hour, even if no two shared a row."""
    rng = np.random.default_rng([m, n])
    reports = 20_000
    alarms = np.zeros(reports, dtype=np.bool_)
    comparisons = len(baseline.references) + 1
    for reference in baseline.references:
        shares = reference.shares
        before, now = (rng.multinomial(size, shares, reports) for size in (m, n))
        p = np.maximum(before / m, EMPTY_SHARE)
        q = np.maximum(now / n, max(EMPTY_SHARE, 0.5 / n))
        used = (before + now) > 0
        found = np.where(used, (q - p) * np.log(q / p), 0).sum(axis=1)
        assert found[0] == pytest.approx(psi(before[0], now[0]), **EXACT)
        limits = {
            size: (
                psi_by_chance(np.ones(size, int) * m, np.ones(size, int) * n, comparisons) or (0, 0)
            )[1]
            for size in set(used.sum(axis=1).tolist())
        }
        scale = (1 / m + 1 / n) / {s: 1 / (s * m) + 1 / (s * n) for s in limits}[max(limits)]
        limit = np.array([limits[size] * scale for size in used.sum(axis=1)])
        alarms |= (found >= THRESHOLDS.moderate) & (found > limit)
    assert 1 - (1 - alarms.mean()) ** 336 <= 0.05


@pytest.mark.parametrize("m", [1_000, 5_000, 100_000, 10_000_000])
def test_what_is_newly_missing_weighs_the_same_against_any_baseline(m: int) -> None:
    """It was moderate against 5,000 rows and significant against 100,000."""
    before, now = np.array([m // 2, m // 2, 0]), np.array([2_425, 2_425, 150])
    value, chance = psi(before, now), psi_by_chance(before, now, 16)
    assert value == pytest.approx(0.171, abs=0.002)
    assert chance
    assert judge(value, chance[1], 5_000, THRESHOLDS) == "moderate"


def counted(share: float, rows_: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Delinquencies as the real ones are, and a share of loans with one more."""
    values = rng.choice(6, rows_, p=[0.86, 0.095, 0.03, 0.01, 0.003, 0.002])
    return values + (rng.random(rows_) < share)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0.02, 0.08), (0.03, 0.25, 1.0)])
def test_counts_are_tested_at_their_size_and_found_when_they_move(
    share: float, least: float, most: float
) -> None:
    """Chi-square; Kolmogorov-Smirnov with so many ties has a size of 0.00 and a power of 5 %."""
    rng = np.random.default_rng(11)
    found, by_ks = [], []
    for _ in range(300):
        reference = freeze_feature(
            COUNTED_FEATURE, pa.array(counted(0.0, 5_000, rng), pa.float64())
        )
        current = count(reference, pa.array(counted(share, 1_000, rng), pa.float64()))
        drift = compare(reference, current, THRESHOLDS)
        assert drift.ks is None
        found.append(drift.chi2_p)
        ks = kolmogorov_smirnov(reference.support_counts, current.counts)
        by_ks.append(ks and ks[1])
    assert least <= (np.array(found) < 0.05).mean() <= most
    assert (np.array(by_ks) < 0.05).mean() < 0.25


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=60),
    st.lists(st.integers(-1, 9), min_size=1, max_size=60),
)
def test_no_row_is_lost_between_the_values_of_counts(before: list[int], now: list[int]) -> None:
    reference = freeze_feature(COUNTED_FEATURE, pa.array(before, pa.float64()))
    current = count(reference, pa.array(now, pa.float64()))
    found = counts_of_values(reference.support_counts, current.counts)
    assert [side.sum() for side in found] == [len(before), len(now)]
    assert len(found[0]) == len(found[1])


def test_a_score_without_a_model_is_not_compared() -> None:
    before, now = rows(1_000, pd=[None] * 1_000), rows(1_000, pd=[0.02] * 1_000)
    for baseline_rows, window_rows in ((before, now), (now, before), (before, before)):
        frozen = freeze(baseline_rows, rejected=0, origin="")
        found = compare_window(frozen, window_of(window_rows, frozen), THRESHOLDS)
        by_name = {f.feature: f.verdict for f in found.features}
        assert (by_name["pd"], found.verdict) == ("too_few_rows", "stable")
    frozen = freeze(now, rejected=0, origin="")
    higher = compare_window(frozen, window_of(rows(1_000, pd=[0.2] * 1_000), frozen), THRESHOLDS)
    assert higher.verdict == "significant"


@pytest.mark.slow
def test_control_limits_hold_what_chance_does() -> None:
    rng = np.random.default_rng(7)
    for share, m, n in itertools.product((0.0, 0.002, 0.15), (5000,), (500, 5000)):
        outside = 0
        for _ in range(1000):
            limits = control_limits(rng.binomial(m, share), m, n)
            assert limits
            outside += not limits[0] <= rng.binomial(n, share) / n <= limits[1]
        assert outside <= 10, (share, m, n)
    # Before there are days, an ordinary spread is allowed for.
    assert 0.20 < control_limits(750, 5000, 5000)[1] < 0.23  # type: ignore[index]
    quiet = [(720 + day % 7 * 10, 5_000) for day in range(30)]
    assert control_limits(750, 5000, 5000, quiet)[1] < 0.18  # type: ignore[index]
    assert control_limits(0, 0, 10) is None


# Applications a day, by how much days differ, days that are known; and of the weeks with +50 %, the
# least that is seen within the day and by the end of the next one.
WEEKS = [
    (4_800, 0.0, 30, 0.97, 0.99),
    (4_800, 0.1, 60, 0.78, 0.95),
    (19_200, 0.0, 60, 0.99, 0.99),
    (19_200, 0.1, 30, 0.87, 0.96),
    (12_000, 0.1, 60, 0.87, 0.96),
    (96_000, 0.1, 60, 0.90, 0.97),
]


@pytest.mark.slow
@pytest.mark.parametrize(("a_day", "spread", "past", "within_the_day", "by_the_next"), WEEKS)
def test_a_week_in_twenty_has_a_false_alarm_and_a_shift_is_seen_within_a_day(
    a_day: int, spread: float, past: int, within_the_day: float, by_the_next: float
) -> None:
    """Of a Watchlist with 4.4 %, looked at every half hour: the newest 5,000, and 24 hours. 300
    weeks tell 90 % from 87 %, and 5 % from 8 %."""
    rng = np.random.default_rng([a_day, round(10 * spread), past])
    looks, weeks = 48, 300
    each = a_day // looks
    alarms = seen = seen_next = 0
    for _ in range(weeks):
        shares = 0.044 * (1 + spread * rng.standard_normal(past + 9)).clip(0.2)
        shares[-2:] *= 1.5
        found = rng.binomial(each, shares.repeat(looks))
        days = [(int(n), a_day) for n in found[: past * looks].reshape(past, looks).sum(axis=1)]
        total = np.append(0, found.cumsum())
        ends = np.arange(past * looks, len(found)) + 1
        outside = np.zeros(len(ends), dtype=np.bool_)
        for width, limits in (
            (max(round(5_000 / each), 1), partial(control_limits, alarms=OF_WINDOWS)),
            (looks, day_limits),
        ):
            windows = (total[ends] - total[ends - width]) / (width * each)
            low, high = limits(220, 5_000, width * each, days) or (0, 1)
            outside |= (windows < low) | (windows > high)
        alarms += outside[: 7 * looks].any()
        seen += outside[7 * looks : 8 * looks].any()
        seen_next += outside[7 * looks :].any()
    assert alarms / weeks <= 0.06
    assert seen / weeks >= within_the_day
    assert seen_next / weeks >= by_the_next


def test_the_limits_of_a_day_are_a_prediction() -> None:
    """Of days that differ by far more than chance, Student's; before ten are known, the baseline's
    share and an ordinary spread."""
    rng = np.random.default_rng(3)
    days = [(round(100_000 * share), 1_000_000) for share in rng.normal(0.44, 0.04, 30)]
    shares = np.array([part / whole for part, whole in days])
    low, high = day_limits(220, 5_000, 1_000_000, days) or (0, 1)
    error = shares.std(ddof=1) * np.sqrt(1 + 1 / 30)
    reach = stats.t.isf(0.95 * 0.9 * 0.05 / 7, 29) * error
    assert high == pytest.approx(shares.mean() + reach, rel=0.03)
    assert shares.mean() - low > reach
    unknown = day_limits(220, 5_000, 1_000_000, days[:9]) or (0, 1)
    assert unknown[0] < 0.044 < unknown[1] < 0.07
    assert day_limits(220, 5_000, 0, days) is None
    assert day_limits(0, 0, 100) is None


def test_psi_of_nothing() -> None:
    some, none = np.array([1, 2]), np.array([0, 0])
    for pair in ((some, none), (none, some)):
        assert psi(*pair) is None
        assert psi_by_chance(*pair) is None
        assert kolmogorov_smirnov(*pair) is None
        assert chi_square(*pair) is None
    one = np.array([5, 0])
    assert (psi(one, one), psi_by_chance(one, one), chi_square(one, one)) == (0, (0, 0), (0, 1))
