"""The benchmark: the policy's rules and the models, on the same loans, against how they went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.features import Feature
from credit_risk_dagster.domain.model.measures import (
    LEVEL,
    Evaluation,
    auc_interval,
    evaluate,
    rate_interval,
)
from credit_risk_dagster.domain.model.sample import Sample
from credit_risk_dagster.domain.model.training import TimeSplit, Trained, is_category, time_split
from credit_risk_dagster.domain.policy import TIERS, Policy
from credit_risk_dagster.domain.scoring import Codes, decide

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

RULES = "rules"
BASELINE = "logistic"
_REPLICATES = 10_000


@dataclass(frozen=True)
class RulesAgainstModel:
    """A model against the rules, when both flag the same number of loans.

    Attributes:
        flagged: how many each flags; the model those with the highest PD.
        share: of all loans.
        rules, model: recall (share of the bad loans that are flagged), precision (share of the
            flagged loans that are bad), lift (precision against the bad rate).
        difference, low, high: recall of the model minus recall of the rules, with its 95 %
            bootstrap interval.
        jaccard: share of the loans flagged by either that are flagged by both.
        kappa: agreement of the two beyond chance (J. Cohen, 1960).
        profile: who is flagged by both, by one, by none: loans, bads, bad_rate, and the medians of
            PD and features.
    """

    flagged: int
    share: float
    rules: dict[str, float]
    model: dict[str, float]
    difference: float
    low: float
    high: float
    jaccard: float
    kappa: float
    profile: list[dict[str, Any]]


@dataclass(frozen=True)
class OutOfTime:
    """The later loans, by a model that was fitted to the earlier ones."""

    month: str
    rows: int
    bads: int
    auc: float
    auc_low: float
    auc_high: float


@dataclass(frozen=True)
class Subject:
    """The rules or a model in the benchmark; what does not apply is None."""

    name: str
    evaluation: Evaluation
    out_of_time: OutOfTime | None
    comparison: RulesAgainstModel | None
    tiers: list[dict[str, Any]] | None = None

    def figures(self) -> dict[str, Any]:
        """The main figures by name; what does not apply is None."""
        e, late, against = self.evaluation, self.out_of_time, self.comparison
        calibrated = e.calibration or {}
        hits = against.model if against else _watchlist_hits(self.tiers) if self.tiers else {}
        return {
            "subject": self.name,
            "AUC": e.auc,
            "AUC low": e.auc_low,
            "AUC high": e.auc_high,
            f"AUC from {late.month}" if late else "AUC out of time": late and late.auc,
            "Gini": e.gini,
            "KS": e.ks,
            "Brier": e.brier,
            "slope": calibrated.get("slope"),
            "intercept": calibrated.get("intercept"),
            "recall": hits.get("recall"),
            "precision": hits.get("precision"),
            "lift": hits.get("lift"),
            "recall minus rules": against and against.difference,
            "low": against and against.low,
            "high": against and against.high,
            "Jaccard": against and against.jaccard,
            "kappa": against and against.kappa,
        }


@dataclass(frozen=True)
class Benchmark:
    """The rules first, then the models."""

    policy: str
    subjects: tuple[Subject, ...]
    verdict: str

    def subject(self, name: str) -> Subject:
        return next(subject for subject in self.subjects if subject.name == name)


def benchmark(
    sample: Sample,
    policy: Policy,
    trained: Sequence[Trained],
    features: Sequence[Feature],
    seed: int,
) -> Benchmark:
    """Measure the rules and every model on the sample, each loan by a PD that was out of fold."""
    split = time_split(sample)
    tier = rule_tiers(sample, policy)
    rules = Subject(
        RULES,
        evaluate(sample.bad, tier.astype(np.float64), is_probability=False),
        _out_of_time(sample, split, tier[split.after].astype(np.float64)) if split else None,
        None,
        tier_table(sample.bad, tier),
    )
    flagged = tier == TIERS.index("Watchlist")
    models = tuple(
        Subject(
            model.kind,
            evaluate(sample.bad, model.out_of_fold),
            _out_of_time(sample, split, model.out_of_time)
            if split and model.out_of_time is not None
            else None,
            compare(sample, flagged, model.out_of_fold, features, seed),
        )
        for model in trained
    )
    return Benchmark(policy.version, (rules, *models), verdict(models[0]))


def rule_tiers(sample: Sample, policy: Policy) -> Codes:
    """What the policy says of the sample, as positions in `TIERS`."""
    names = ("dti", "revol_util", "int_rate", "delinq_2yrs", "inq_last_6mths")
    return decide(policy, **{name: sample.rows[name].to_numpy() for name in names}).tier


def tier_table(bad: Flags, tier: Codes) -> list[dict[str, Any]]:
    """Of each tier: loans, bads, bad_rate (None without loans) and its interval low, high."""
    table = []
    for code, name in enumerate(TIERS):
        inside = bad[tier == code]
        bads, loans = int(inside.sum()), len(inside)
        low, high = rate_interval(bads, loans)
        rate = bads / loans if loans else None
        table.append(
            {"tier": name, "loans": loans, "bads": bads, "bad_rate": rate, "low": low, "high": high}
        )
    return table


def _watchlist_hits(tiers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Recall, precision and lift of the rules; empty when nobody is on the watchlist."""
    watchlist = tiers[TIERS.index("Watchlist")]
    loans, bads = (sum(row[name] for row in tiers) for name in ("loans", "bads"))
    if not watchlist["loans"]:
        return {}
    precision = watchlist["bad_rate"]
    return {
        "recall": watchlist["bads"] / bads,
        "precision": precision,
        "lift": precision / (bads / loans),
    }


def _out_of_time(sample: Sample, split: TimeSplit, score: Floats) -> OutOfTime:
    bad = sample.bad[split.after]
    return OutOfTime(str(split.month), len(bad), int(bad.sum()), *auc_interval(bad, score))


def compare(
    sample: Sample, by_rules: Flags, pd: Floats, features: Sequence[Feature], seed: int
) -> RulesAgainstModel | None:
    """Let a model flag as many loans as the rules do; None when the rules flag none or all.

    The interval is of drawing the people anew (percentile bootstrap), with both flags as they are:
    then only the number of people in each of the eight groups (flagged by either, bad or not)
    matters, and those numbers are multinomial.
    """
    bad, flagged = sample.bad, int(by_rules.sum())
    if flagged in (0, len(bad)):
        return None
    random = np.random.default_rng(seed)
    riskiest = np.lexsort((random.random(len(pd)), -pd))[:flagged]  # ties in random order
    by_model = np.zeros(len(bad), dtype=np.bool_)
    by_model[riskiest] = True
    groups = 4 * bad + 2 * by_rules + by_model
    counts = np.bincount(groups, minlength=8)
    drawn = random.multinomial(len(bad), counts / len(bad), _REPLICATES)
    differences = (drawn[:, 5] - drawn[:, 6]) / np.maximum(drawn[:, 4:].sum(axis=1), 1)
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    rules, model = (_hits(bad, flags) for flags in (by_rules, by_model))
    both, share = int((by_rules & by_model).sum()), flagged / len(bad)
    agreed, expected = np.mean(by_rules == by_model), share**2 + (1 - share) ** 2
    return RulesAgainstModel(
        flagged=flagged,
        share=share,
        rules=rules,
        model=model,
        difference=model["recall"] - rules["recall"],
        low=float(low),
        high=float(high),
        jaccard=both / (2 * flagged - both),
        kappa=float((agreed - expected) / (1 - expected)),
        profile=_profile(sample, by_rules, by_model, pd, features),
    )


def _hits(bad: Flags, flagged: Flags) -> dict[str, float]:
    precision = float(bad[flagged].mean())
    return {
        "recall": float(flagged[bad].mean()),
        "precision": precision,
        "lift": precision / float(bad.mean()),
    }


def _profile(
    sample: Sample, by_rules: Flags, by_model: Flags, pd: Floats, features: Sequence[Feature]
) -> list[dict[str, Any]]:
    who = {
        "both": by_rules & by_model,
        "rules only": by_rules & ~by_model,
        "model only": ~by_rules & by_model,
        "neither": ~(by_rules | by_model),
    }
    numbers = {f.name: sample.rows[f.name].to_numpy() for f in features if not is_category(f)}
    return [
        {
            "flagged by": name,
            "loans": int(inside.sum()),
            "bads": int(sample.bad[inside].sum()),
            "bad_rate": float(sample.bad[inside].mean()) if inside.any() else None,
            "pd": _median(pd[inside]),
            **{feature: _median(values[inside]) for feature, values in numbers.items()},
        }
        for name, inside in who.items()
    ]


def _median(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None


def verdict(model: Subject) -> str:
    """The benchmark in a sentence, from the numbers."""
    found = model.comparison
    if found is None:
        return (
            "The rules flag none or all of these loans, so the model cannot be compared with them "
            f"at the same share; its AUC is {model.evaluation.auc:.2f}"
        )
    if found.low > 0:
        judgement = "the model finds more"
    elif found.high < 0:
        judgement = "the rules find more"
    else:
        judgement = "that could be chance"
    share, by_model, by_rules, points, low, high = (
        f"{100 * value:.1f}"
        for value in (
            *(found.share, found.model["recall"], found.rules["recall"]),
            *(found.difference, found.low, found.high),
        )
    )
    return (
        f"At the same {share} % flagged, the model finds {by_model} % of bad loans, the rules "
        f"{by_rules} %; difference {points} points, 95 % interval {low} to {high}: {judgement}"
    )


# --- the gate -----------------------------------------------------------------------------------

_SLOPE = (0.5, 1.5)
_MEAN_RATIO = (0.8, 1.25)


def objections(row: Mapping[str, Any]) -> list[str]:
    """What in its benchmark speaks against letting a model score the stream; empty when nothing.

    Args:
        row: the model's row of `model_benchmarks`.

    The PD must rank better than chance, not find fewer bad loans than the rules do, and be a
    probability: calibration slope 0.5 to 1.5, mean PD 0.8 to 1.25 times the bad rate.
    """
    found = []
    if row["auc_low"] <= 0.5:
        found.append(
            f"its AUC of {row['auc']:.3f} could be chance (interval from {row['auc_low']:.3f})"
        )
    comparison, calibrated = row["comparison"], row["calibration"]
    if comparison and comparison["difference"] < 0:
        found.append(
            f"it finds {100 * comparison['model']['recall']:.0f} % of the bad loans, the rules "
            f"{100 * comparison['rules']['recall']:.0f} % at the same share flagged"
        )
    if not _SLOPE[0] <= calibrated["slope"] <= _SLOPE[1]:
        found.append(f"its calibration slope is {calibrated['slope']:.2f}, not 0.5 to 1.5")
    ratio = calibrated["mean_pd"] / calibrated["bad_rate"]
    if not _MEAN_RATIO[0] <= ratio <= _MEAN_RATIO[1]:
        found.append(f"its mean PD is {ratio:.2f} times the bad rate, not 0.8 to 1.25")
    return found
