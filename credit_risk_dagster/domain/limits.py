"""Appetite and concentration limits: what of the portfolio may be how large (`limits.yaml`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

from credit_risk_dagster.domain.documents import parse_content, read_text
from credit_risk_dagster.errors import PlatformError

Level = Literal["green", "amber", "red", "grey"]
THRESHOLDS: Final = ("amber", "red")
LIMITS: Final[Mapping[str, str]] = {
    "watchlist_share": "Watchlist",
    "expected_loss": "expected loss",
    "largest_state": "largest state",
    "largest_purpose": "largest purpose",
}
"""Every limit that there is, in words."""


class LimitsUnreadable(PlatformError):
    """The file of limits is none; the message names file, key, value and fix."""


@dataclass(frozen=True)
class Limit:
    """From which share on (0 to 1) a figure is amber and red."""

    name: str
    amber: float
    red: float


@dataclass(frozen=True)
class Measured:
    """A limit and what there is.

    Attributes:
        value: share, 0 to 1; None where it is not known.
        of: the state or purpose that is the largest; None of other limits.
    """

    limit: Limit
    value: float | None
    of: str | None = None

    @property
    def level(self) -> Level:
        """Grey where nothing is known."""
        if self.value is None:
            return "grey"
        if self.value >= self.limit.red:
            return "red"
        return "amber" if self.value >= self.limit.amber else "green"


def load_limits(path: Path) -> list[Limit]:
    """Read the limits of a YAML file, in the order of `LIMITS`.

    Raises:
        LimitsUnreadable: it cannot be read, or something in it is no limit.
    """
    text = read_text(path, "limits", LimitsUnreadable)
    content = parse_content(text, str(path), "limits", LimitsUnreadable)
    if content is not None and not isinstance(content, dict):
        raise LimitsUnreadable(f"limits {path}: it must be a mapping, such as {_EXAMPLE}")
    found = {name: _limit(path, name, value) for name, value in (content or {}).items()}
    return [found[name] for name in LIMITS if name in found]


def measure(limits: Sequence[Limit], document: Mapping[str, Any] | None) -> list[Measured]:
    """What the newest report of the portfolio says of each limit.

    Args:
        document: of the report; None before the first one.
    """
    found = (document or {}).get("limits") or {}
    return list(_measured(limits, found))


def _measured(limits: Sequence[Limit], found: Mapping[str, Any]) -> Iterator[Measured]:
    for limit in limits:
        of = found.get(limit.name) or {}
        yield Measured(limit, of.get("value"), of.get("of"))


_EXAMPLE = "watchlist_share: {amber: 6, red: 10}"


def _limit(path: Path, name: object, value: object) -> Limit:
    def wrong(key: str, why: str) -> LimitsUnreadable:
        return LimitsUnreadable(f"limits {path}: {key} {why}")

    if name not in LIMITS:
        near = get_close_matches(str(name), LIMITS, 1, 0.6)
        known = f"write {near[0]}" if near else f"there are {', '.join(LIMITS)}"
        raise wrong(str(name)[:60], f"is no limit: {known}")
    if not isinstance(value, dict) or not set(value) <= {*THRESHOLDS}:
        raise wrong(str(name), f"is {str(value)[:60]!r}: give amber and red, as {_EXAMPLE}")
    given = {key: _percent(wrong, f"{name}.{key}", value.get(key)) for key in THRESHOLDS}
    if given["amber"] >= given["red"]:
        raise wrong(
            f"{name}.amber",
            f"is {value['amber']}, and must be below {name}.red, which is {value['red']}",
        )
    return Limit(str(name), given["amber"], given["red"])


def _percent(wrong: Any, key: str, value: object) -> float:
    if value is None:
        raise wrong(key, "is missing: give a percentage, such as 10")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < float(value) <= 100:  # type: ignore[arg-type]
        raise wrong(key, f"is {str(value)[:60]!r}: give a percentage above 0 and up to 100")
    return float(value) / 100  # type: ignore[arg-type]
