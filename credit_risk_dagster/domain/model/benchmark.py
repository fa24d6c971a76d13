"""The benchmark: the policy's rules and the models, on the same loans, against how they went."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.decision import Codes, decide, policy_columns
from credit_risk_dagster.domain.features import Feature, without_price
from credit_risk_dagster.domain.model import refit
from credit_risk_dagster.domain.model.additive import columns_of
from credit_risk_dagster.domain.model.design import design, is_category
from credit_risk_dagster.domain.model.measures import (
    LEVEL,
    Evaluation,
    Z,
    auc_interval,
    calibration,
    evaluate,
    paired_auc_error,
    rate_interval,
)
from credit_risk_dagster.domain.model.sample import Sample
from credit_risk_dagster.domain.model.training import TimeSplit, Trained, kinds, time_split, train
from credit_risk_dagster.domain.policy import TIERS, Policy

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

RULES = "rules"
BASELINE = "logistic"
# What the price alone says, and what is left of the model without the lender's own decision.
PRICE, WITHOUT_PRICE = "price", "without_price"
SUBJECTS = (RULES, BASELINE, "gradient_boosting", "scorecard", PRICE, WITHOUT_PRICE)
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
        refitted: whether the model was fitted anew for each draw of the interval (see `refit`), or
            the same scores were drawn anew.
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
    refitted: bool
    jaccard: float
    kappa: float
    profile: list[dict[str, Any]]


@dataclass(frozen=True)
class AgainstPrice:
    """AUC of a model minus that of the interest rate alone, with its 95 % interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class OutOfTime:
    """The later loans, by a model that was fitted to the earlier ones; `calibration` is that of
    `measures` without its bins, None of what is no probability."""

    month: str
    rows: int
    bads: int
    auc: float
    auc_low: float
    auc_high: float
    calibration: dict[str, Any] | None


@dataclass(frozen=True)
class Subject:
    """The rules, a model or the price alone in the benchmark; what does not apply is None."""

    name: str
    evaluation: Evaluation
    out_of_time: OutOfTime | None
    comparison: RulesAgainstModel | None
    tiers: list[dict[str, Any]] | None = None
    against_price: AgainstPrice | None = None

    def row(self) -> dict[str, Any]:
        """Its row of `model_benchmarks`, as far as it is of this subject; without the curves."""
        found = asdict(self)
        measured = found.pop("evaluation")
        del measured["curves"]
        return {**measured, **found, "subject": found.pop("name")}

    def figures(self) -> dict[str, Any]:
        """The main figures by name; what does not apply is None."""
        e, late, against = self.evaluation, self.out_of_time, self.comparison
        calibrated, later = e.calibration or {}, (late and late.calibration) or {}
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
            "Brier skill": calibrated.get("brier_skill"),
            "slope": calibrated.get("slope"),
            "intercept": calibrated.get("intercept"),
            "in the large": calibrated.get("in_the_large"),
            "expected / bad, later": later.get("ratio"),
            "recall": hits.get("recall"),
            "precision": hits.get("precision"),
            "lift": hits.get("lift"),
            "recall minus rules": against and against.difference,
            "low": against and against.low,
            "high": against and against.high,
            "Jaccard": against and against.jaccard,
            "kappa": against and against.kappa,
            "AUC minus price": self.against_price and self.against_price.difference,
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
        _out_of_time(sample, split, tier[split.after].astype(np.float64), pd=False)
        if split
        else None,
        None,
        tier_table(sample.bad, tier),
    )
    flagged = tier == TIERS.index("Watchlist")

    def measure(name: str, score: Floats, later: Floats | None, *, pd: bool = True) -> Subject:
        return Subject(
            name,
            evaluate(sample.bad, score, is_probability=pd),
            None if split is None or later is None else _out_of_time(sample, split, later, pd=pd),
            compare(sample, flagged, score, features, seed),
        )

    rate = sample.rows["int_rate"].to_numpy()
    first, *others = (measure(m.kind, m.out_of_fold, m.out_of_time) for m in trained)
    first = _refitted(first, sample, flagged, rate, features, trained[0], seed)
    models = [first, *others]
    models.append(measure(PRICE, rate, rate[split.after] if split else None, pd=False))
    if left := without_price(features):
        plain = train(kinds()[0], sample, left, seed)
        models.append(measure(WITHOUT_PRICE, plain.out_of_fold, plain.out_of_time))
    return Benchmark(policy.version, (rules, *models), verdict(first))


def _refitted(
    model: Subject,
    sample: Sample,
    flagged: Flags,
    rate: Floats,
    features: Sequence[Feature],
    trained: Trained,
    seed: int,
) -> Subject:
    """The headline's intervals, from fitting the model anew where the sample is not too large."""
    difference = model.evaluation.auc - auc_interval(sample.bad, rate)[0]
    penalty = getattr(trained.estimator, "inverse_penalty", None)
    if penalty is None or len(sample) > refit.MOST_LOANS:
        spread = Z * paired_auc_error(sample.bad, trained.out_of_fold, rate)
        return replace(
            model,
            against_price=AgainstPrice(difference, difference - spread, difference + spread),
        )
    frame = design(sample.rows, features)
    columns = columns_of(frame, features)
    found = refit.refit(frame, columns, sample.bad, flagged, rate, penalty, seed)
    low, high = found.auc
    against = AgainstPrice(difference, difference + low, difference + high)
    compared = model.comparison
    if compared and found.recall:
        low, high = found.recall
        compared = replace(
            compared,
            low=compared.difference + low,
            high=compared.difference + high,
            refitted=True,
        )
    return replace(model, against_price=against, comparison=compared)


def rule_tiers(sample: Sample, policy: Policy) -> Codes:
    """What the policy says of the sample, as positions in `TIERS`."""
    return decide(policy.program, policy_columns(policy.program, sample.rows)).tier


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


def _out_of_time(sample: Sample, split: TimeSplit, score: Floats, *, pd: bool) -> OutOfTime:
    bad = sample.bad[split.after]
    calibrated = calibration(bad, score) if pd else None
    if calibrated:
        del calibrated["bins"]
    auc = auc_interval(bad, score)
    return OutOfTime(str(split.month), len(bad), int(bad.sum()), *auc, calibrated)


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
        refitted=False,
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
    """The benchmark in words, from the numbers."""
    found = model.comparison
    if found is None:
        said = (
            "The rules flag none or all of these loans, so the model cannot be compared with them "
            f"at the same share; its AUC is {model.evaluation.auc:.2f}"
        )
    else:
        share, by_model, by_rules, points, low, high = (
            f"{100 * value:.1f}"
            for value in (
                *(found.share, found.model["recall"], found.rules["recall"]),
                *(found.difference, found.low, found.high),
            )
        )
        judgement = _judgement(found.low, found.high, "the rules find more", "the model finds more")
        said = (
            f"At the same {share} % flagged, the model finds {by_model} % of bad loans, the rules "
            f"{by_rules} %; difference {points} points, 95 % interval {low} to {high}"
            f"{', fitted anew for each draw' if found.refitted else ''}: {judgement}"
        )
    price = model.against_price
    if price is None:
        return said
    judgement = _judgement(price.low, price.high, "the price ranks better", "it ranks better")
    return (
        f"{said}. Against the interest rate alone its AUC differs by {price.difference:+.4f} "
        f"({price.low:+.3f} to {price.high:+.3f}): {judgement}"
    )


def _judgement(low: float, high: float, less: str, more: str) -> str:
    return more if low > 0 else less if high < 0 else "that could be chance"
