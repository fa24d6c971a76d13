"""Who may do what: rights, and the names that have them."""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Right = Literal["submit", "approve", "see", "review", "export"]
RIGHTS: tuple[str, ...] = get_args(Right)
ANYBODY = "*"


def parse_rights(text: str) -> dict[str, frozenset[str]]:
    """Rights and who has them, from `right: name name; right: name`; without any text, anybody has
    all of them.

    Raises:
        ValueError: it is not written so; the message says what to write.
    """
    found: dict[str, frozenset[str]] = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        right, colon, names = (part.strip() for part in entry.partition(":"))
        if not colon or right not in RIGHTS:
            raise ValueError(f"is not like `approve: ada bo; export: *` (of {', '.join(RIGHTS)})")
        if right in found:
            raise ValueError(f"names the right {right} twice: write all its names in one place")
        found[right] = frozenset(names.lower().split())
    return found


def has_right(rights: Mapping[str, frozenset[str]], right: Right, names: Iterable[str]) -> bool:
    """Whether somebody has a right, by any of the names that they go by: their own, their groups'.
    Where rights are given at all, one that is not named is nobody's, but to see applicants, which
    came later, is anybody's."""
    if not rights or (right == "see" and right not in rights):
        return True
    having = rights.get(right, frozenset())
    return ANYBODY in having or any(name.lower() in having for name in names)
