"""A catalogue of events that are broken, or look as if they were, and what becomes of each.

The same events go through the pure functions (tests/domain) and through a real broker
(tests/integration).
"""

import gzip
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

# An application with every column that the platform uses, and one that it does not.
GOOD: dict[str, Any] = {
    "id": 68407277,
    "loan_amnt": 10000.0,
    "annual_inc": 60000.0,
    "dti": 35.5,
    "int_rate": "13.56%",
    "revol_util": "81.2%",
    "delinq_2yrs": 1.0,
    "inq_last_6mths": 0.0,
    "earliest_cr_line": "Sep-1994",
    "issue_d": "Mar-2018",
    "event_time": "2026-02-14T10:00:38.241496+00:00",
    "emp_length": "10+ years",
    "term": " 36 months",
    "purpose": "car",
    "grade": "C",
    "addr_state": "CA",
    "home_ownership": "RENT",
    "loan_status": "Current",
    "desc": "a column that is not used",
}

_DROP = object()


def event(**changes: Any) -> bytes:
    """The good application as JSON, with other values in some columns."""
    row = {**GOOD, **changes}
    return json.dumps({name: row[name] for name in row if row[name] is not _DROP}).encode()


def literal(field: str, text: str | bytes) -> bytes:
    """The good application with this text, whatever it is, for the value of a column."""
    raw = text if isinstance(text, bytes) else text.encode()
    return event(**{field: "@"}).replace(b'"@"', raw)


def without(*fields: str) -> bytes:
    """The good application without some columns."""
    return event(**dict.fromkeys(fields, _DROP))


class Malformed(NamedTuple):
    """An event, and the reason for which it is rejected; None: it is scored."""

    name: str
    value: bytes | None
    reason: str | None


MEGABYTE = 1_000_000  # below what a broker accepts by default
DEEP = 200_000  # levels: beyond every recursion limit


def _no_events() -> Iterator[tuple[str, bytes | None, str]]:
    good = event()
    yield "tombstone", None, "tombstone"
    yield "empty", b"", "empty_value"
    yield "blank", b" ", "empty_value"
    yield "white space", b" \t\r\n", "empty_value"
    yield "a megabyte of blanks", b" " * MEGABYTE, "empty_value"

    for name, value in {
        "a word": b"hello",
        "XML": b"<loan><id>1</id></loan>",
        "CSV": b"68407277,10000,36 months,13.56%,C",
        "YAML": b"loan_amnt: 10000\ndti: 35.5\n",
        "form data": b"loan_amnt=10000&dti=35.5",
        "base64": b"eyJsb2FuX2FtbnQiOiAxMDAwMH0=",
        "a Python repr": repr(GOOD).encode(),
        "JavaScript": b"{loan_amnt: 10000, dti: 35.5}",
        "a comment": b"/* a loan */ " + good,
        "JSON lines": good + b"\n" + good,
        "two events without a break": good + good,
        "trailing garbage": good + b"x",
        "trailing form feed": good + b"\x0c",
        "trailing NUL": good + b"\0",
        "one brace too many": good + b"}",
        "leading NUL": b"\0" + good,
        "leading comma": b"," + good,
        "leading no-break space": b"\xa0" + good,
        "without its first byte": good[1:],
        "without its last byte": good[:-1],
        "cut in a name": good[:4],
        "cut after a colon": good[: good.index(b":") + 1],
        "cut in a number": good[: good.index(b"684") + 2],
        "cut in a string": good[: good.index(b"13.5")],
        "cut in an escape": literal("purpose", '"caf\\u00'),
        "one brace": b"{",
        "one quote": b'"',
        "trailing comma": good[:-1] + b",}",
        "missing comma": good.replace(b",", b"", 1),
        "missing colon": good.replace(b":", b"", 1),
        "missing value": literal("dti", ""),
        "name without quotes": good.replace(b'"dti"', b"dti"),
        "name that is a number": good.replace(b'"dti"', b"7"),
        "single quotes": literal("purpose", "'car'"),
        "unescaped quote": literal("purpose", '"a "used" car"'),
        "unknown escape": literal("purpose", r'"\x63ar"'),
        "broken unicode escape": literal("purpose", r'"\u12g4"'),
        "raw line break": literal("purpose", '"a\nb"'),
        "raw line break in an unused column": literal("desc", '"a\nb"'),
        "raw tab": literal("purpose", '"a\tb"'),
        "raw NUL": literal("purpose", b'"a\0b"'),
        "raw NUL in an unused column": literal("desc", b'"a\0b"'),
        "undefined": literal("dti", "undefined"),
        "None": literal("dti", "None"),
        "True": literal("dti", "True"),
        "nan": literal("dti", "nan"),
        "+Infinity": literal("dti", "+Infinity"),
        "hexadecimal": literal("dti", "0x1F"),
        "octal": literal("dti", "035"),
        "plus sign": literal("dti", "+35"),
        "number without an integer part": literal("dti", ".5"),
        "number without a fraction": literal("dti", "35."),
        "number without an exponent": literal("dti", "35e"),
        "two signs": literal("dti", "--35"),
        "decimal comma": literal("dti", "35,5"),
        "thousands separators": literal("annual_inc", "60,000"),
        "percent sign without quotes": literal("int_rate", "13.56%"),
        "one byte, 0xFF": b"\xff",
        "a byte order mark alone": b"\xef\xbb\xbf",
        "UTF-16": good.decode().encode("utf-16"),
        "UTF-16 without a byte order mark": good.decode().encode("utf-16-le"),
        "UTF-16, big-endian": good.decode().encode("utf-16-be"),
        "UTF-32": good.decode().encode("utf-32"),
        "EBCDIC": good.decode().encode("cp500"),
        "gzip": gzip.compress(good, mtime=0),
        "a schema registry's header": b"\x00\x00\x00\x00\x01" + good,
        "Avro": b"\x00\x00\x00\x00\x07\xea\x9b\x9f\x41\x00\x00\x00\x00\x00\x88\xc3\x40",
        "every byte": bytes(range(256)),
        "a megabyte of a": b"a" * MEGABYTE,
        "a megabyte of NUL": bytes(MEGABYTE),
        "a megabyte of opening brackets": b"[" * MEGABYTE,
        "a megabyte in a string that does not end": literal("desc", b'"' + b"a" * MEGABYTE),
        "deep array": b"[" * DEEP + b"]" * DEEP,
        "deep array in a used column": literal("dti", "[" * DEEP + "]" * DEEP),
        "deep array in an unused column": literal("desc", "[" * DEEP + "]" * DEEP),
        "deep object in a used column": literal("dti", '{"":' * DEEP + "1" + "}" * DEEP),
        "deep object in an unused column": literal("desc", '{"":' * DEEP + "1" + "}" * DEEP),
    }.items():
        yield name, value, "invalid_json"

    for name, value in {
        "null": b"null",
        "true": b"true",
        "a number": b"42",
        "a negative number": b"-1.5e3",
        "NaN": b"NaN",
        "-Infinity": b"-Infinity",
        "a huge number": b"9" * 5_000,
        "a string": b'"hello"',
        "a string of bytes that are no text": b'"\xff"',
        "an event in a string": json.dumps(good.decode()).encode(),
        "an empty array": b"[]",
        "an event in an array": b"[" + good + b"]",
        "an array of values": json.dumps(list(GOOD.values())).encode(),
        "a megabyte of string": b'"' + b"a" * MEGABYTE + b'"',
    }.items():
        yield name, value, "not_an_object"


def _incomplete() -> Iterator[tuple[str, bytes, str]]:
    for name, value in {
        "an empty object": b"{}",
        "only unused columns": b'{"desc": "x", "member_id": 7}',
        "an envelope": b'{"payload": ' + event() + b"}",
        "names in capitals": json.dumps({k.upper(): v for k, v in GOOD.items()}).encode(),
        "names with blanks": json.dumps({f" {k}": v for k, v in GOOD.items()}).encode(),
    }.items():
        yield name, value, "missing_required:loan_amnt"
    for field in ("loan_amnt", "annual_inc", "dti", "int_rate", "earliest_cr_line"):
        reason = "missing_required:" + field.replace("earliest_cr_line", "credit_history")
        yield f"no {field}", without(field), reason
        for missing in (None, "", "n/a", "null", float("nan")):
            yield f"{field} is {missing!r}", event(**{field: missing}), reason
    for dti in (-1, 999, "999", "-1%", 9999, "9999.0"):
        yield f"dti is {dti!r:.9}", event(dti=dti), "missing_required:dti"
    no_date = "missing_required:credit_history"
    yield "neither issue_d nor event_time", without("issue_d", "event_time"), no_date
    yield "no earliest_cr_line, and junk", without("earliest_cr_line", "desc"), no_date


_NUMBERS = (
    *("loan_amnt", "annual_inc", "dti", "int_rate", "revol_util"),
    *("delinq_2yrs", "inq_last_6mths", "term", "emp_length", "annual_inc_joint", "dti_joint"),
)
_DATES = ("earliest_cr_line", "issue_d", "event_time")
_TEXTS = (
    *("id", "purpose", "grade", "addr_state", "home_ownership", "loan_status"),
    "application_type",
)


def _wrong_types() -> Iterator[tuple[str, bytes, str]]:
    kinds: dict[str, dict[str, str]] = {
        "": {"true": "true", "an array": "[35]", "an object": '{"value": 35}'},
        "number": {
            "a word": '"lots"',
            "-Infinity": "-Infinity",
            "1e999": "1e999",
            "an integer of 400 digits": "9" * 400,
            "an integer of 5,000 digits": "9" * 5_000,
            "a string of 5,000 digits": f'"{"9" * 5_000}"',
        },
        "date": {"a number": "1520000000", "a word": '"yesterday"', "infinite": "Infinity"},
        "text": {
            "a fraction": "1.5",
            "infinite": "Infinity",
            "too long": f'"{"x" * 65}"',
            "NUL": r'"\u0000"',
            "a lone surrogate": r'"\ud83d"',
            "bytes that are no text": '"@"',  # replaced below
            "a line break": r'"a\nb"',
        },
    }
    for fields, kind in ((_NUMBERS, "number"), (_DATES, "date"), (_TEXTS, "text")):
        for field in fields:
            for name, text in {**kinds[""], **kinds[kind]}.items():
                value = literal(field, text).replace(b'"@"', b'"\xff\xfe"')
                yield f"{field} is {name}", value, f"invalid_value:{field}"


def _impossible_values() -> Iterator[tuple[str, bytes, str]]:
    values: dict[str, tuple[Any, ...]] = {
        "loan_amnt": (
            *(0, -1, -25000.0, "-25000", 2e9, "$10,000", "10000 USD", "10k", "13%", "1_000"),
            *("1,00,000", "10.000,00", "0,500", "1e999", "inf", "Infinity", "0x1F", "1.2.3"),
            *("12abc", "--5", "1 000", ".", "+", "e5", "%", "١٢٣", "１００", "½", "1e5e5", "\\N"),
        ),
        "annual_inc": (-1, -60000.0, "(60,000)", 1e13, "-0.01", "60.000,00"),
        "annual_inc_joint": (-1, 1e13),
        "dti": ("35,5", "35.5%%", "high", -0.01, -2, "-5%", 100_000.1, 1e308, "1e308", 10**300),
        "dti_joint": ("35,5", -2, 100_000.1),
        "int_rate": (1000.01, -0.01, 1356, "1356%", "-13.56%", "13,56%", "% 13.56"),
        "revol_util": (-1, "-1%", 1e6, "83.7 percent"),
        "delinq_2yrs": (-1, 0.5, 1001, "two", "1%"),
        "inq_last_6mths": (-1, 1.5, 1e300, "1/2"),
        "term": (0, -36, 36.5, 601, "three years", "36 weeks", " months", "36 months!"),
        "emp_length": (-1, 101, "ten years", "< 5 years", "> 10 years", "10++ years", "1 month"),
        "earliest_cr_line": (
            *("31/12/1994", "12/31/1994", "31-12-1994", "1-Sep-1994", "Sep-1-1994", "09/94"),
            *("1994-13-01", "1994-13", "1994-00", "1994-02-31", "1994-09-01Tnoon", "1994"),
            *("Foo-1994", "Septembre-1994", "Mayor-1994", "Sep", "Sep-", "Sep-994", "13-94"),
            *("Sep-0000", "Sep-1899", "Sep-2101", "0094-09-01", "Sep-1994 or so", "Sep--"),
            # after the application, of March 2018
            *("Apr-2018", "2018-04-01", "Jan-2099", "Dec-2100"),
        ),
        "issue_d": ("13/2018", "2018-13-01", "Smarch-2018", "03/04/2018", "Mar-1899", "soon"),
        "event_time": (
            *("14/02/2026", "2026-13-01T00:00:00Z", "2026-02-30", "2026-02-14T25:00:00Z", "10:00"),
            *("2026-02-14T10:00:00+99:00", "0001-01-01T00:00:00Z", "1899-12-31T23:59:59Z"),
            *("2101-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1771063238", "now"),
            *("2026-02-14T10:00:38 Europe/Paris", "Sat, 14 Feb 2026 10:00:38 GMT"),
        ),
        "id": (
            1e300,
            2.0**53,
            -1.5,
            10**64,
            "a\tb",
            "\u202e7",
            "7\u200b",
            "x" * 65,
            "LC/7",
            "7;8",
            "<b>7</b>",
            "1,000,000",
            "7é",
            "1.5e+00",
        ),
        "purpose": (
            "a\rb",
            "a\x7fb",
            "a\u2028b",
            "a\ufffeb",
            "\udfff",
            "\\N",
            "\\.",
            "a,b",
            '"a"',
            "100%",
            "'; DROP TABLE x; --",
            "=1+1",
            "<b>",
            "🚗",
            "é",
            "a:b",
            "@a",
        ),
        "loan_status": ("<b>", "=1+1", '"', "Paid; or not"),
        "application_type": ("<script>", "Joint&App"),
        "grade": ("H", "C4", "AA", "Ａ", 3),
        "addr_state": ("California", "C", "C4", "C A", "ß", "ﬁ", 6),
        "home_ownership": ("RENT!", "OWN;MORTGAGE", "0"),
    }
    for field, examples in values.items():
        for value in examples:
            yield f"{field} is {value!r:.70}", event(**{field: value}), f"invalid_value:{field}"


def _rounded_ids() -> Iterator[tuple[str, bytes, str]]:
    for loan_id in ("6.84E+07", "6.84e7", "1.00E+06", "6.840727E+07", " 6.84073e+07 "):
        yield f"id is {loan_id}", event(id=loan_id), "rounded:id"
    yield "a rounded id, and no dti", event(id="6.84E+07", dti=None), "rounded:id"
    yield "a rounded id, and junk", event(id="6.84E+07", dti="x"), "invalid_value:dti"


def _first_reason() -> Iterator[tuple[str, bytes, str]]:
    """Several problems: what is wrong before what is missing, in the order of the columns."""
    yield "junk, and another column missing", event(dti=None, purpose=7), "invalid_value:purpose"
    yield "two columns with junk", event(purpose=7, dti="x"), "invalid_value:dti"
    yield "the id is junk as well", event(id=[], dti="x"), "invalid_value:id"
    yield "a date and a text are junk", event(purpose=7, event_time=7), "invalid_value:event_time"
    yield "two columns missing", without("int_rate", "annual_inc"), "missing_required:annual_inc"
    yield "the last of two values is junk", literal("dti", '10, "dti": "x"'), "invalid_value:dti"


def _scored() -> Iterator[tuple[str, bytes]]:
    yield "as it should be", event()
    yield "white space around", b" \r\n\t" + event() + b" \r\n\t"
    yield "a byte order mark before", b"\xef\xbb\xbf" + event()
    yield "the last of two values is good", literal("dti", '"x", "dti": 10')
    yield "names with escapes", event().replace(b'"dti"', rb'"\u0064\u0074\u0069"')
    yield "an event in the future", event(event_time="2099-12-31T23:59:59Z")
    yield (
        "only what is required",
        without(
            *("revol_util", "delinq_2yrs", "inq_last_6mths", "event_time", "emp_length", "term"),
            *("purpose", "grade", "addr_state", "home_ownership", "loan_status", "id", "desc"),
        ),
    )
    yield "ten thousand unused columns", event(**{f"column_{i}": i for i in range(10_000)})
    unused: dict[str, str | bytes] = {
        "a megabyte": b'"' + b"a" * (MEGABYTE - 1_000) + b'"',
        "NUL": r'"\u0000"',
        "a lone surrogate": r'"\ud83d"',
        "bytes that are no text": b'"\xff\xfe"',
        "NaN": "NaN",
        "NaN and bytes that are no text": b'[NaN, "\xff\xfe"]',
        "1e999": "1e999",
        "5,000 digits": "9" * 5_000,
        "NaN and 5,000 digits": f"[NaN, {'9' * 5_000}]",
        "a hundred arrays in each other": "[" * 100 + "]" * 100,
        "an event": event(),
    }
    for name, text in unused.items():
        yield f"{name} in an unused column", literal("desc", text)
    # What other systems stumble over, and what is not impossible.
    for purpose in ("-1", "--x", "...", "_", "a b-c.d_e", "NULLS", "0"):
        yield f"purpose is {purpose}", event(purpose=purpose)
    for field, value in (
        *(("id", -5), ("id", 10**63), ("id", 68407277.0), ("id", None), ("id", "")),
        *(("loan_amnt", 0.01), ("loan_amnt", "1e4"), ("annual_inc", 0), ("annual_inc", "60,000")),
        *(("dti", 0), ("dti", -0.0), ("dti", 100), ("dti", "35.5%"), ("dti", 5e-324)),
        *(("dti", 100.01), ("dti", 998.9), ("dti", 1000), ("dti", 99_999), ("dti_joint", 999)),
        *(("int_rate", 0), ("int_rate", 100.5), ("int_rate", 0.1356), ("int_rate", " 13.56 % ")),
        *(("id", "1e+06"), ("id", "LC-7.a_b"), ("application_type", "DIRECT_PAY")),
        *(("revol_util", 892.3), ("revol_util", "N/A"), ("revol_util", "%")),
        *(("earliest_cr_line", "Mar-2018"), ("earliest_cr_line", "Apr-18"), ("issue_d", "n/a")),
        *(("issue_d", None), ("event_time", ""), ("event_time", " 2026-02-14 "), ("grade", "c")),
    ):
        yield f"{field} is {value!r:.70}", event(**{field: value})


CATALOGUE: tuple[Malformed, ...] = (
    *(Malformed(*case) for case in _no_events()),
    *(Malformed(*case) for case in _incomplete()),
    *(Malformed(*case) for case in _wrong_types()),
    *(Malformed(*case) for case in _impossible_values()),
    *(Malformed(*case) for case in _rounded_ids()),
    *(Malformed(*case) for case in _first_reason()),
    *(Malformed(name, value, None) for name, value in _scored()),
)
