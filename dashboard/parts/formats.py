"""Numbers and codes as a reader wants them; what is not known is a dash."""

import math
import re
from collections.abc import Callable

from credit_risk_dagster.domain.words import counted as counted

UNKNOWN = "–"

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_MAGNITUDES = ((1e9, " B"), (1e6, " M"), (1e3, " K"))
_REASON = re.compile(r"([A-Z0-9_]+)(>=|<=|>|<|=)([0-9.]+)")
_RELATIONS = {">=": "≥", ">": ">", "<=": "≤", "<": "<", "=": "="}
_FEATURES = {
    "DTI": ("DTI", " %"),
    "REVOL_UTIL": ("Utilization", " %"),
    "DELINQ_2YRS": ("Delinquencies", ""),
    "INQ_LAST_6MTHS": ("Inquiries", ""),
    "ANNUAL_INC": ("Annual income", " $"),
}


def count(number: float) -> str:
    """`1,234`."""
    return f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """`12.3 %`; as `percent`."""
    return percent(part / whole) if whole else UNKNOWN


def percent(fraction: float) -> str:
    """`12.3 %`; two decimals within 1 % of none and of all, and neither `0.00 %` nor `100.00 %`
    of what is some."""
    if math.isnan(fraction):
        return UNKNOWN
    some = 0 < abs(fraction) < 0.01 or 0.99 < fraction < 1
    if 0 < fraction < 0.00005:
        return "< 0.01 %"
    if 0.99995 <= fraction < 1:
        return "> 99.99 %"
    return f"{100 * fraction:.{2 if some else 1}f} %"


def psi(value: float | None) -> str:
    """`0.123`."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.3f}"


def points(fraction: float) -> str:
    """A difference of shares: `+1.2 points`."""
    return UNKNOWN if math.isnan(fraction) else f"{100 * fraction:+.2f} points"


def interval(value: float, low: float, high: float, write: Callable[[float], str] = percent) -> str:
    """`5.7 % (5.6 to 5.9)`."""
    if math.isnan(value):
        return UNKNOWN
    ends = (write(end).partition(" ")[0] for end in (low, high))
    return f"{write(value)} ({' to '.join(ends)})"


def dollars(amount: float, signed: bool = False) -> str:
    """`$950`, `$12.3 K`, `$4.56 M`: three digits, which is what a sum of requests says."""
    size, unit = next(
        ((size, unit) for size, unit in _MAGNITUDES if abs(amount) >= size), (1.0, "")
    )
    scaled = abs(amount) / size
    decimals = 0 if not unit or scaled >= 100 else 1 if scaled >= 10 else 2
    sign = "−" if amount < 0 else "+" if signed else ""
    return f"{sign}${scaled:.{decimals}f}{unit}"


def rate(per_second: float) -> str:
    """`9.8`, `1,234`: a decimal where it still says something."""
    return f"{per_second:,.1f}" if per_second < 100 else count(per_second)


def duration(seconds: float) -> str:
    """`143 ms`, `1.4 s`, `12 min`, `5 h`, `3 d`."""
    if math.isnan(seconds):
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    unit, size = next((unit, size) for unit, size in _UNITS if seconds >= 2 * size)
    return f"{seconds / size:.0f} {unit}"


def age(seconds: float) -> str:
    """`just now`, `12 s ago`."""
    return "just now" if seconds < 3 else f"{duration(math.floor(seconds))} ago"


def reason(code: str) -> str:
    """`REVOL_UTIL>=80` as `Utilization ≥ 80 %`, `MISSING:DTI` as `Missing: DTI`; a code of another
    kind as it is."""
    if code.startswith("MISSING:"):
        column = code.removeprefix("MISSING:").lower()
        return f"Missing: {feature(column)}"
    match = _REASON.fullmatch(code)
    if match is None or match[1] not in _FEATURES:
        return code
    name, unit = _FEATURES[match[1]]
    return f"{name} {_RELATIONS[match[2]]} {match[3]}{unit}"


def words(code: str | None) -> str:
    """`debt_consolidation` as `Debt consolidation`."""
    return code.replace("_", " ").capitalize() if code else UNKNOWN


def term(months: float | None) -> str:
    """`36 months`; 0 is unknown."""
    return f"{months:.0f} months" if months else UNKNOWN


def milliseconds(seconds: float) -> str:
    """A difference: `+12 ms`."""
    return f"{1000 * seconds:+,.0f} ms"


def size(count_of_bytes: float) -> str:
    """`12.3 MB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count_of_bytes < 1000:
            return (
                f"{count_of_bytes:.0f} {unit}"
                if unit == "bytes"
                else f"{count_of_bytes:.1f} {unit}"
            )
        count_of_bytes /= 1000
    return f"{count_of_bytes:.1f} TB"


def usd(amount: float) -> str:
    """`$12,500`."""
    return f"${amount:,.0f}"


def number(value: float) -> str:
    """`3`, `1.5`."""
    return f"{value:,.15g}"


def number_percent(value: float) -> str:
    """`12.5 %`, of a value in percent."""
    return f"{value:.1f} %"


def years(value: float) -> str:
    """`15.3 years`."""
    return f"{value:.1f} years"


def plain(text: str) -> str:
    """The text as Markdown that shows it as it is."""
    # An address is made a link whatever is escaped of it; a joiner of words has no width.
    text = re.sub(r"(?<=:)(?=//)|(?<=www)(?=\.)", "\u2060", text, flags=re.IGNORECASE)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!$~:<>|])", r"\\\1", text)


def code(text: str) -> str:
    """The text as a piece of code in Markdown."""
    return f"`{text.replace('`', chr(39))}`"


_NAMES = {
    "loan_amnt": "Loan amount",
    "annual_inc": "Annual income",
    "dti": "DTI",
    "int_rate": "Interest rate",
    "revol_util": "Utilization",
    "delinq_2yrs": "Delinquencies",
    "inq_last_6mths": "Inquiries",
    "credit_history_years": "Credit history",
    "emp_length_yrs": "Employment length",
    "addr_state": "State",
    "term_months": "Term",
    "pd": "PD",
}


_OF_FEATURES = {
    **dict.fromkeys(("loan_amnt", "annual_inc"), ", USD"),
    **dict.fromkeys(("dti", "revol_util", "int_rate"), ", %"),
    **dict.fromkeys(("credit_history_years", "emp_length_yrs"), ", years"),
}


def feature(name: str) -> str:
    """`inq_last_6mths` as `Inquiries`."""
    return _NAMES.get(name) or words(name)


def with_unit(name: str) -> str:
    """`annual_inc` as `Annual income, USD`."""
    return feature(name) + _OF_FEATURES.get(name, "")
