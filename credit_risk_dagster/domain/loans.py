"""Which events are a loan's."""

import re
from collections.abc import Sequence

from credit_risk_dagster.domain.cleaning import clean
from credit_risk_dagster.domain.decoding import ACCEPTED, decode
from credit_risk_dagster.domain.texts import loan_id_of_key


def loan_of(value: bytes | None, key: bytes | None) -> str | None:
    """The loan of an event, as the platform stores it; None of one that names none."""
    found: str | None = clean(decode([value], [key])).texts["loan_id"][0].as_py()
    return found


def normal_id(text: str) -> str | None:
    """A loan's id as the platform stores it: "68407277" of " 68407277.0 "; None of what is none."""
    return loan_id_of_key(text.encode("utf-8", "surrogateescape"))


def names(loan_id: str, text: str | bytes) -> bool:
    """Whether a text has the id in it, as a word of its own."""
    found = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return bool(re.search(rb"(?<!\w)" + re.escape(loan_id.encode()) + rb"(?!\w)", found))


def events_of(
    loan_id: str, values: Sequence[bytes | None], keys: Sequence[bytes | None]
) -> list[int]:
    """Positions of the events that carry a loan, ascending.

    Of an event that can be scored, its id decides, and without one its key. One that cannot also
    carries the loan when its key does, or, without an id that could be read, when its bytes have
    the id anywhere: rather too much of what nobody can use is the loan's than too little.
    """
    cleaned = clean(decode(values))
    own, by_key = cleaned.texts["loan_id"].to_pylist(), [loan_id_of_key(key) for key in keys]

    def carries(at: int) -> bool:
        if own[at] is not None:
            rejected = cleaned.reasons[at] != ACCEPTED
            return own[at] == loan_id or (rejected and by_key[at] == loan_id)
        if by_key[at] == loan_id or cleaned.reasons[at] == ACCEPTED:
            return by_key[at] == loan_id
        return any(names(loan_id, part) for part in (keys[at], values[at]) if part)

    return [at for at in range(len(values)) if carries(at)]


def pattern(loan_id: str) -> str:
    """A regular expression (RE2, over bytes) that finds something in every value or key that can
    carry a loan, so that most others need not be decoded: its digits, as a float may have them, or
    what can be another way to write them (escapes, letters beyond ASCII)."""
    digits = r"\.?".join(map(re.escape, loan_id.rstrip("0")))
    return digits + r"|\\|[^\x00-\x7F]"
