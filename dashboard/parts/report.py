"""What the first page tells, of some days, as a document by itself: for the page's download and for
the weekly report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from credit_risk_dagster.domain.intervals import share
from credit_risk_dagster.domain.limits import Limit, measure
from credit_risk_dagster.domain.model.card import Row, Section, to_html
from dashboard.parts import formats, signals
from dashboard.parts.signals import Signal
from resources.postgres.management import Management, Volume

_WORDS = {"green": "Green", "amber": "Amber", "red": "Red", "grey": "Unknown"}
_MOST_VINTAGES = 12


@dataclass(frozen=True)
class Facts:
    """What there is to tell of the days up to a moment.

    Attributes:
        volumes: of the days, and of as many before.
        decided: what began or ceased to decide.
        documents: the newest report of each kind.
        verdicts: of the days' drift reports.
        lines: whether anything is wrong.
    """

    until: datetime
    days: int
    volumes: tuple[Volume, Volume]
    decided: Sequence[dict[str, Any]]
    documents: dict[str, dict[str, Any]]
    verdicts: dict[str, int]
    lines: Sequence[Signal]
    limits: Sequence[Limit]

    @property
    def portfolio(self) -> dict[str, Any] | None:
        """The newest report of the portfolio."""
        found = self.documents.get("portfolio")
        return found and found["document"]


def gather(
    connection: psycopg.Connection[Any],
    until: datetime,
    stretch: timedelta,
    limits: Sequence[Limit],
    within_hours: float,
) -> Facts:
    """Ask Postgres; one transaction sees all of it at one moment.

    Args:
        stretch: how long before `until` it begins; a day that is not over is told as one.
        within_hours: how long a case may be open.
    """
    management, days = Management(connection), -(-stretch // timedelta(days=1))
    now = management.volume(until - stretch, until)
    before = management.volume(until - 2 * stretch, until - stretch)
    documents = management.documents()
    portfolio = documents["portfolio"]["document"] if "portfolio" in documents else None
    lines = [
        signals.population(management.drift(), None),
        signals.policy(portfolio),
        signals.model(portfolio),
        signals.limits(measure(limits, portfolio)),
        signals.work(management.unreviewed(), within_hours),
    ]
    return Facts(
        *(until, days, (now, before), management.decided(until - stretch, until), documents),
        *(management.verdicts(until - stretch, until), lines, limits),
    )


def summary(facts: Facts) -> str:
    """The report in a line, for a chat."""
    now, before = facts.volumes
    noun = "application" if now.once and before.once else "decision"
    levels = [line.level for line in facts.lines]
    wrong = ", ".join(line.name for line in facts.lines if line.level in ("red", "amber"))
    return (
        f"Credit risk, last {formats.counted(facts.days, 'day')}: {signals.worst(levels)}"
        f"{f' ({wrong})' if wrong else ''}; {formats.counted(now.applications, noun)}"
        f"{_change(now.applications, before.applications)}, Watchlist "
        f"{formats.share(now.watchlist, now.applications)}"
    )


def page(facts: Facts) -> str:
    """The report as an HTML page."""
    sections = [
        Section(
            "Is anything wrong",
            (),
            (
                ("", "", "why"),
                *((_WORDS[line.level], line.name, line.why) for line in facts.lines),
            ),
        ),
        _came(facts),
        *_of_portfolio(facts),
        *_vintages(facts),
        Section(
            "Drift reports",
            (
                "; ".join(
                    f"{formats.count(reports)} {verdict.replace('_', ' ')}"
                    for verdict, reports in facts.verdicts.items()
                )
                or "none",
            ),
        ),
        Section(
            "Who changed what decides",
            () if facts.decided else ("Nobody, nothing.",),
            (
                ("at (UTC)", "what", "done", "by", "why"),
                *(
                    (
                        f"{row['at']:%Y-%m-%d %H:%M}",
                        f"{row['kind']} {row['subject']}",
                        *(row["action"], row["who"], row["why"]),
                    )
                    for row in facts.decided
                ),
            )
            if facts.decided
            else (),
        ),
    ]
    return to_html(
        f"Credit risk: {formats.counted(facts.days, 'day')} up to {facts.until:%Y-%m-%d %H:%M} UTC",
        sections,
    )


def _came(facts: Facts) -> Section:
    now, before = facts.volumes
    once = now.once and before.once
    what = "Each loan once, by its newest decision." if once else "Each decision, also on one loan."

    def row(name: str, get: Any, write: Any = formats.count) -> Row:
        return (name, write(get(now)), write(get(before)))

    def watchlist(volume: Volume) -> str:
        found = share(volume.watchlist, volume.applications)
        return formats.interval(found.value, found.low, found.high)

    return Section(
        "What came",
        (f"{what} Beside them as many days before.",),
        (
            ("", f"last {formats.counted(facts.days, 'day')}", "before"),
            row("Applications" if once else "Decisions", lambda volume: volume.applications),
            row("Low", lambda volume: volume.low),
            row("Elevated", lambda volume: volume.elevated),
            row("Watchlist", lambda volume: volume.watchlist),
            ("Watchlist share (95 %)", watchlist(now), watchlist(before)),
            row("Amount requested", lambda volume: volume.loan_amnt, formats.dollars),
            row("of it, Watchlist", lambda volume: volume.watchlist_amnt, formats.dollars),
            row("Unreadable events", lambda volume: volume.rejected),
        ),
    )


def _of_portfolio(facts: Facts) -> Iterator[Section]:
    document = facts.portfolio
    if document is None:
        yield Section("Portfolio", ("There is no report of the portfolio yet.",))
        return
    at = facts.documents["portfolio"]["created_at"]
    loans = formats.counted(document.get("applications", 0), "loan")
    of = f"The newest {loans}, as of {at:%Y-%m-%d %H:%M} UTC."
    yield Section(
        "Limits",
        (of,),
        (
            ("limit", "there is", "amber from", "red from", ""),
            *(
                (
                    signals.limit_name(one),
                    formats.UNKNOWN if one.value is None else formats.percent(one.value),
                    *(formats.percent(one.limit.amber), formats.percent(one.limit.red)),
                    _WORDS[one.level],
                )
                for one in measure(facts.limits, document)
            ),
        ),
    )
    losses = [group for group in document.get("expected", ()) if group["of"] in ("all", "tier")]
    came = {tier["tier"]: tier for tier in document.get("tiers", ())}
    if losses:
        yield Section(
            "Expected loss, and what went bad",
            (f"{of} {document['lgd']}. By {document['model']}.",),
            (
                ("tier", "loans", "requested", "mean PD", "expected loss", "went bad (95 %)"),
                *(
                    (
                        *(group["value"], formats.count(group["applications"])),
                        *(formats.dollars(group["amount"]), formats.percent(group["pd"])),
                        f"{formats.dollars(group['loss'])}, {formats.percent(group['loss_rate'])}",
                        _rate(came.get(group["value"])),
                    )
                    for group in losses
                ),
            ),
        )


def _vintages(facts: Facts) -> Iterator[Section]:
    report = facts.documents.get("vintages")
    if report:
        yield Section(
            "Vintages",
            ("Bad by month of issue; older ones were watched for longer. Accepted loans alone.",),
            (
                ("month", "loans", "bad", "bad rate (95 %)", "months on book"),
                *(
                    (
                        *(vintage["month"], formats.count(vintage["loans"])),
                        *(formats.count(vintage["bads"]), _rate(vintage), str(vintage["months"])),
                    )
                    for vintage in report["document"]["vintages"][-_MOST_VINTAGES:]
                ),
            ),
        )


def _rate(of: dict[str, Any] | None) -> str:
    rate = of and of["bad_rate"]
    if not rate or rate["value"] is None:
        return formats.UNKNOWN
    return formats.interval(rate["value"], rate["low"], rate["high"])


def _change(now: int, before: int) -> str:
    return f" ({100 * (now / before - 1):+.0f} %)" if before else ""
