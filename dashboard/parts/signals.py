"""Whether anything is wrong, a line for each thing that may be: green, amber or red, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from credit_risk_dagster.domain.cases import FEWEST
from credit_risk_dagster.domain.intervals import Interval, difference, share
from credit_risk_dagster.domain.limits import LIMITS, Level, Measured
from dashboard.parts import formats
from resources.postgres.management import Unreviewed, Volume

FEWEST_BADS = 10  # of which a ranking says something
STALLED_AFTER_SECONDS = 20  # a run that has to start first takes up to ten
_DAY = 86_400.0
_STATE = len("CA")
_MOST_NAMED = 3
_REPORT_OLD_SECONDS = 2 * _DAY  # as the alert CreditRiskDriftReportOld


@dataclass(frozen=True)
class Signal:
    """A line.

    Attributes:
        level: grey is not known.
        why: in words.
        page: address of the page that tells more.
    """

    name: str
    level: Level
    why: str
    page: str


def worst(levels: Sequence[Level]) -> Level:
    """The one to act on; grey only where nothing is known."""
    for level in ("red", "amber", "green"):
        if level in levels:
            return level
    return "grey"


def unknown(name: str, page: str, why: str) -> Signal:
    """A line of which nothing is known."""
    return Signal(name, "grey", why, page)


def pipeline(
    waiting: int | None, waited: float | None, words: str, halted: bool, differences: int
) -> Signal:
    """Whether what comes is scored, and each offset is in one place.

    Args:
        waiting: events that are not committed; None is not known, and `words` say why.
        waited: seconds of the oldest of them, where nothing moves; else None.
        halted: the topic is missing, or not the one that was scored.
        differences: offsets that are missing or doubled.
    """
    level: Level = "green"
    if waiting is None:
        level, said = ("red" if halted else "grey"), f"{words[:1].upper()}{words[1:]}"
    elif waited is not None and waited > STALLED_AFTER_SECONDS:
        level = "red"
        said = (
            f"Stalled: {formats.counted(waiting, 'event')} not scored, "
            f"the oldest for {formats.duration(waited)}"
        )
    elif waiting:
        said = f"{formats.counted(waiting, 'event')} on the way"
    else:
        said = "Nothing waits"
    if differences:
        level = "red"
        said += f"; {formats.counted(differences, 'offset')} missing or doubled"
    else:
        said += "; every offset that was counted is in one place"
    return Signal("Pipeline", level, said, "operations")


def population(report: Mapping[str, Any] | None, schema: Mapping[str, Any] | None) -> Signal:
    """Whether the applicants, and their events, are like those of the baseline.

    Args:
        report: of the newest drift report `verdict`, `age` (seconds) and the `features` that
            drifted, the furthest first; None before the first.
        schema: `state` and `found` of the check of the events' columns; None is not known.
    """
    levels: list[Level] = []
    if report is None:
        said = "No drift report yet"
    elif report["verdict"] == "too_few_rows":
        said = "Too few applications to tell of drift"
    else:
        by_verdict: dict[str, Level] = {"stable": "green", "moderate": "amber"}
        levels = [by_verdict.get(report["verdict"], "red")]
        said = f"Drift is {report['verdict']}"
        if features := [formats.feature(name) for name in report["features"]]:
            said += f" ({', '.join(features[:3])}{', ...' if len(features) > 3 else ''})"
        if report["age"] > _REPORT_OLD_SECONDS:
            levels.append("amber")
            said += f", as of {formats.age(report['age'])}"
    state = schema["state"] if schema else ""
    if schema and state in ("Failed", "Warning"):
        levels.append("amber")
        said += f"; columns of the events changed: {schema['found']}"
    elif state == "Passed":
        levels.append("green")
        said += "; the events' columns are as before"
    else:
        said += "; the events' columns were not compared"
    return Signal("Population", worst(levels), said, "drift")


def policy(document: Mapping[str, Any] | None) -> Signal:
    """Whether riskier tiers went bad more often, by the newest report of the portfolio; not known
    below `FEWEST_BADS`, and `FEWEST` loans with an outcome in the lowest and in the highest tier.
    """
    name, page = "Policy and outcomes", "portfolio"
    tiers = {tier["tier"]: tier for tier in (document or {}).get("tiers") or ()}
    if not tiers:
        return unknown(name, page, "No report of outcomes yet")
    low, watchlist = tiers["Low"], tiers["Watchlist"]
    bads = sum(tier["bads"] for tier in tiers.values())
    few = "Too few outcomes to tell: "
    if bads < FEWEST_BADS:
        loans = sum(tier["loans"] for tier in tiers.values())
        few += f"{formats.counted(bads, 'bad loan')} of {formats.count(loans)}"
        return unknown(name, page, few)
    if min(low["loans"], watchlist["loans"]) < FEWEST:
        few += ", ".join(
            f"{tier['tier']} {formats.counted(tier['loans'], 'loan')}" for tier in (low, watchlist)
        )
        return unknown(name, page, f"{few}; from {FEWEST} of each it tells")
    rates = ", ".join(f"{tier} {_rate(tiers[tier])}" for tier in reversed(tiers))
    apart = difference(Interval(**low["bad_rate"]), Interval(**watchlist["bad_rate"]))
    if apart.low > 0:
        return Signal(name, "green", f"Went bad: {rates}. Riskier tiers go bad more often", page)
    if apart.high < 0:
        said = f"Went bad: {rates}. The Watchlist goes bad less often than Low"
        return Signal(name, "red", said, page)
    return Signal(name, "amber", f"Went bad: {rates}. So the tiers do not rank risk", page)


def _rate(tier: Mapping[str, Any]) -> str:
    rate = tier["bad_rate"]
    if not tier["loans"]:
        return "no outcome yet"
    return formats.interval(rate["value"], rate["low"], rate["high"])


def model(document: Mapping[str, Any] | None) -> Signal:
    """Whether the PDs rank and are of the right size: by outcomes, or else as expected."""
    name, page = "Model", "portfolio"
    if document is None or "performance" not in document:
        return unknown(name, page, "No report of the model yet")
    came = document["performance"]
    if came is None:
        return unknown(name, page, "No model could score")
    of = "" if document["active"] else " (not active)"
    if came["auc"] is None or came["bads"] < FEWEST_BADS:
        windows = [w["estimated"] for w in document["windows"] if w["estimated"]]
        if not windows:
            return unknown(name, page, f"Too few outcomes to tell of the PDs{of}")
        auc = windows[-1]["auc"]
        said = f"AUC {_auc(auc['value'], auc['low'], auc['high'])} expected, too few outcomes{of}"
        return Signal(name, "amber" if auc["low"] <= 0.5 else "green", said, page)
    rate, expected = came["bad_rate"], came["expected_bad_rate"]
    calibrated = rate["low"] <= expected <= rate["high"]
    ranks = came["auc_low"] > 0.5
    said = (
        f"AUC {_auc(came['auc'], came['auc_low'], came['auc_high'])} came true"
        f"{'' if ranks else ', no better than chance'}; bad {formats.percent(rate['value'])} "
        f"(95 %: {_ends(rate)}), by the PDs {formats.percent(expected)}: "
        f"{'calibrated' if calibrated else 'not calibrated'}{of}"
    )
    level: Level = "red" if not ranks else "green" if calibrated else "amber"
    return Signal(name, level, said, page)


def _auc(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _ends(rate: Mapping[str, float]) -> str:
    return f"{100 * rate['low']:.1f} to {100 * rate['high']:.1f} %"


def limits(measured: Sequence[Measured]) -> Signal:
    """Whether the portfolio is within its limits."""
    name, page = "Limits", "portfolio"
    if not measured:
        return unknown(name, page, "No limit is set")
    known = [one for one in measured if one.value is not None]
    if not known:
        return unknown(name, page, "Not measured yet: report_portfolio does it")
    over = [one for one in known if one.level != "green"]
    said = "; ".join(map(_over, sorted(over, key=lambda one: one.level != "red")))
    if not over:
        said = "Within: " + ", ".join(
            f"{LIMITS[one.limit.name]} {formats.percent(one.value or 0)}" for one in known
        )
    left = [LIMITS[one.limit.name] for one in measured if one.value is None]
    if left:
        said += f"; not known: {', '.join(left)}"
    return Signal(name, worst([one.level for one in known]), f"{said[:1].upper()}{said[1:]}", page)


def limit_name(one: Measured) -> str:
    """`largest state (CA)`."""
    of = one.of and (one.of if len(one.of) == _STATE else formats.words(one.of).lower())
    return f"{LIMITS[one.limit.name]}{f' ({of})' if of else ''}"


def _over(one: Measured) -> str:
    threshold = one.limit.red if one.level == "red" else one.limit.amber
    return (
        f"{limit_name(one)} {formats.percent(one.value or 0)}, "
        f"{one.level} from {formats.percent(threshold)}"
    )


def work(waiting: Unreviewed, within_hours: float) -> Signal:
    """Whether somebody looks at the Watchlist.

    Args:
        within_hours: how long a case may be open.
    """
    oldest = waiting.oldest_seconds
    if oldest is None:
        return Signal("Work", "green", "No case waits for a review", "watchlist")
    level: Level = "green"
    if oldest > within_hours * 3_600:
        level = "red"
    elif oldest > _DAY:
        level = "amber"
    said = (
        f"{formats.counted(waiting.cases, 'case')} nobody began to review, "
        f"{formats.dollars(waiting.loan_amnt)}, "
        f"the oldest {formats.duration(oldest)} old"
    )
    return Signal("Work", level, said, "watchlist")


def checks(found: pd.DataFrame) -> Signal:
    """Whether Dagster's checks pass.

    Args:
        found: `asset`, `check`, `state` of each.
    """
    state = found["state"]
    failed = found[state.isin(("Failed", "Could not run"))]
    warned = found[state == "Warning"]
    passed = int((state == "Passed").sum())
    if not passed and failed.empty and warned.empty:
        return unknown("Checks", "operations", "None has run yet")
    parts = [
        f"{len(rows)} {verb}: {', '.join(rows['check'])}"
        for rows, verb in ((failed, "failed"), (warned, "warned"))
        if len(rows)
    ]
    level: Level = "red" if len(failed) else "amber" if len(warned) else "green"
    said = "; ".join(parts) or "None fails"
    rest = len(found) - passed - len(failed) - len(warned)
    said += f"; {passed} of {len(found)} passed" + (f", {rest} did not end yet" if rest else "")
    return Signal("Checks", level, said, "operations")


def changes(decided: Sequence[Mapping[str, Any]], today: Volume, yesterday: Volume) -> Signal:
    """What changed in the last 24 hours, against those before.

    Args:
        decided: what began or ceased to decide: `kind`, `subject`, `action` and `who`.
        today, yesterday: the last 24 hours, and the 24 before; each loan once, or in words.
    """
    once = today.once and yesterday.once
    noun = "application" if once else "decision"
    said = [
        f"{row['kind']} {row['subject']} {row['action'].removesuffix('e')}ed by {row['who']}"
        for row in decided[:_MOST_NAMED]
    ]
    level: Level = "amber" if decided else "green"
    if yesterday.applications and today.applications:
        more = 100 * (today.applications / yesterday.applications - 1)
        said.append(f"{formats.counted(today.applications, noun)} ({more:+.0f} %)")
        now, before = (share(day.watchlist, day.applications) for day in (today, yesterday))
        apart = difference(before, now)
        words = f"Watchlist {formats.percent(now.value)} ({formats.points(apart.value)}"
        if apart.low > 0 or apart.high < 0:
            level = "amber"
            words += ", more than chance"
        said.append(f"{words})")
    elif today.applications:
        said.append(f"{formats.counted(today.applications, noun)}, none the day before")
    else:
        said.append("no applications")
    text = "; ".join(said)
    return Signal("Since yesterday", level, f"{text[:1].upper()}{text[1:]}", "policy-lab")
