"""What is different between two policies, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from credit_risk_dagster.domain.decision_table import Policy
from credit_risk_dagster.domain.unary import BANDS

_NOTHING = object()


def differences(before: Policy, after: Policy) -> list[str]:
    """What the second policy has otherwise, a phrase each; examples and names decide nothing."""
    old, new = before.table, after.table
    found: list[str] = []
    for what, a, b in (
        ("joint applications are decided by", old.joint, new.joint),
        ("hit policy", old.hit_policy, new.hit_policy),
        ("tier where no rule gives one", old.default, new.default),
    ):
        if a != b:
            found.append(f"{what}: {a} → {b}")
    for name in dict.fromkeys((*old.bands, *new.bands)):
        found += _bands(name, old.bands.get(name), new.bands.get(name))
    contents = old.content(), new.content()
    found += _named("condition", *(of.get("conditions", {}) for of in contents))
    rules = ({row["id"]: {"missing": "review"} | row for row in of["rules"]} for of in contents)
    found += _named("rule", *rules)
    kept = [rule.id for rule in old.rules if rule.id in {r.id for r in new.rules}]
    if kept != [rule.id for rule in new.rules if rule.id in kept]:
        found.append(f"order of the rules: {', '.join(rule.id for rule in new.rules)}")
    return found


def _bands(name: str, old: Any, new: Any) -> Iterator[str]:
    if old is None or new is None:
        yield f"bands of {name} are {'new' if old is None else 'gone'}"
        return
    for band, a, b in zip(BANDS, old, new, strict=False):
        if a != b:
            yield f"{name} is {band} up to: {a:g} → {b:g}"


def _named(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            yield f"{what} {name} is gone: {_spelt(old[name])}"
        elif name not in old:
            yield f"{what} {name} is new: {_spelt(new[name])}"
        else:
            yield from _inside(f"{what} {name}", old[name], new[name])


def _inside(where: str, old: Any, new: Any) -> Iterator[str]:
    """The smallest parts that differ."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _inside(f"{where}, {key}", old.get(key, _NOTHING), new.get(key, _NOTHING))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for a, b in zip(old, new, strict=True):
            yield from _inside(where, a, b)
    else:
        yield f"{where}: {_spelt(old)} → {_spelt(new)}"


def _spelt(part: Any) -> str:
    if part is _NOTHING:
        return "nothing"
    if isinstance(part, list):
        return ", ".join(map(_spelt, part))
    if isinstance(part, dict):
        words = {"all": "all of", "any": "any of", "not": "not", "holds": ""}
        return " and ".join(
            f"{words.get(key, key)} ({_spelt(value)})"
            if isinstance(value, dict | list)
            else f"{words.get(key, key)} {value}"
            for key, value in part.items()
        ).strip()
    return str(part)
