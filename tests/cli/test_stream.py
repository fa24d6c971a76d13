"""`credit-risk produce`, `status` and `score`."""

import csv
import gzip
import io
import json
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from credit_risk_dagster.cli.stream import SCORE_CHUNK_EVENTS
from credit_risk_dagster.pipelines.loans import Row, builtin_loans
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    PROJECT_ROOT,
    KafkaSettings,
)
from infra.embedded.servers import HOST, Broker, free_port
from resources.kafka.broker import Broker as Topic
from tests.pipelines.approvals import DEFAULT
from tests.platform.commands import CREDIT_RISK, Result, Run, error, one_line
from tests.platform.pipeline import Pipeline, good_event


def ends(settings: KafkaSettings) -> int:
    """How many events the topic has."""
    return sum(end for _, end in Topic(settings).inspect().offsets.values())


# --- produce ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("servers")
def test_produce_sends_the_built_in_loans(kafka_settings: KafkaSettings, run: Run) -> None:
    result = run("produce", "--rate", 0)
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(
        rf"10,000 events in topic {kafka_settings.topic}, [0-9,]+ a second\n", result.out
    )
    assert ends(kafka_settings) == 10_000


@pytest.mark.usefixtures("servers")
def test_produce_creates_the_topic_and_keeps_the_rate(
    kafka_settings: KafkaSettings, broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"{HOST}:{free_port()}")  # the option wins
    topic = f"{kafka_settings.topic}_new"
    options = ("--bootstrap", broker.bootstrap_servers, "--topic", topic)
    result = run("produce", "--max", 20, "--rate", 40, *options)
    assert re.fullmatch(rf"20 events in topic {topic}, \d+ a second\n", result.out)
    assert int(result.out.split()[-3]) <= 43
    created = kafka_settings.model_copy(update={"topic": topic})
    assert len(Topic(created).inspect().offsets) == kafka_settings.partitions
    assert ends(created) == 20


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("options", "code"), [((), 130), (("--loop",), 0)])
def test_produce_says_at_ctrl_c_what_it_sent(
    options: tuple[str, ...],
    code: int,
    kafka_settings: KafkaSettings,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted() -> Iterator[Row]:
        for number, loan in enumerate(builtin_loans()):
            if number == 5:
                signal.raise_signal(signal.SIGINT)
            yield loan

    monkeypatch.setattr("credit_risk_dagster.pipelines.loans.builtin_loans", interrupted)
    result = run("produce", "--rate", 0, *options)
    said = rf"stopped: (5) events in topic {kafka_settings.topic}, [0-9,]+ a second\n"
    assert (result.code, result.err) == (code, "")
    assert re.fullmatch(said, result.out)
    assert ends(kafka_settings) == 5


CSV = """id,loan_amnt,annual_inc,dti,int_rate,earliest_cr_line
1,5000,40000,12.5,13.56%,Sep-03
2,6000,50000,,10.00%,Aug-1999
3,7000,60000,33.1,9.99%,Jan-2010
"""


@pytest.mark.usefixtures("servers")
def test_produce_streams_a_csv(kafka_settings: KafkaSettings, tmp_path: Path, run: Run) -> None:
    plain, packed = tmp_path / "loans.csv", tmp_path / "loans.csv.gz"
    plain.write_text(CSV)
    packed.write_bytes(gzip.compress(CSV.encode()))
    assert run("produce", "--csv", plain, "--rate", 0).out.startswith("3 events in topic")
    assert run("produce", "--csv", packed, "--max", 2).out.startswith("2 events in topic")
    looped = run("produce", "--csv", packed, "--loop", "--max", 10, "--rate", 0)
    assert looped.out.startswith("10 events in topic")
    assert ends(kafka_settings) == 15


@pytest.mark.usefixtures("servers")
def test_produce_says_what_is_wrong_with_a_csv(
    kafka_settings: KafkaSettings, tmp_path: Path, run: Run
) -> None:
    missing, other = tmp_path / "none [1].csv", tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    broken, empty = tmp_path / "broken.csv", tmp_path / "empty.csv"
    broken.write_text(CSV + "4,too,few\n")
    empty.touch()
    assert run("produce", "--csv", missing) == error(f"{missing}: no such file")
    assert one_line(run("produce", "--csv", other)).startswith(
        f"{other}: not a LendingClub CSV, it has no column loan_amnt"
    )
    assert run("produce", "--csv", empty) == error(f"{empty}: it is empty")
    assert ends(kafka_settings) == 0
    assert run("produce", "--csv", broken, "--rate", 0) == error(
        f"{broken}: line 5 has 3 fields, the header has 6, in '4,too,few': correct it, or leave "
        "out such rows with --skip-bad (in Dagster: skip_bad) (events sent before it: 3)"
    )
    assert ends(kafka_settings) == 3  # what was before it is sent


# --- status -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("servers")
def test_status_shows_what_is_committed_and_what_is_not(pipeline: Pipeline, run: Run) -> None:
    pipeline.send([good_event(1), good_event(2), b"junk"], partition=1)
    before = json.loads(run("status", "--json").out)
    assert before["epoch"] is None
    assert before["partitions"][1]["lag"] == 3
    pipeline.drain()
    pipeline.send([good_event(3)] * 5, partition=1)

    result = run("status", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    cluster_id = pipeline.broker.inspect().cluster_id
    counts = ("scored", "rejected", "gaps", "lost", "forgotten")
    zeros = dict.fromkeys(("first", "committed", "end", "lag", *counts), 0)
    nothing = {**zeros, "open_transaction": None}
    assert found == {
        "cluster_id": cluster_id,
        "topic": pipeline.kafka.topic,
        "epoch": 0,
        "lost_unacknowledged": 0,
        "policy": {"deciding": DEFAULT.version, "active": DEFAULT.version, "note": ""},
        "timestamps_by": "producer",  # the embedded broker knows no other
        "partitions": [
            {"partition": 0, **nothing},
            {
                "partition": 1,
                "first": 0,
                "committed": 3,
                "end": 8,
                "lag": 5,
                "open_transaction": None,
                "scored": 2,
                "rejected": 1,
                "gaps": 0,
                "lost": 0,
                "forgotten": 0,
            },
            {"partition": 2, **nothing},
            {"partition": 3, **nothing},
        ],
    }
    table = run("status")
    assert (table.code, table.err) == (0, "")
    assert pipeline.kafka.topic in table.out
    assert "latency is measured from the producers' clocks" in table.out
    rows = [re.findall(r"[\w-]+", line) for line in table.out.splitlines()]
    assert ["partition", "first", "committed", "end", "lag", *counts[:-1]] in rows
    assert ["1", "0", "3", "8", "5", "2", "1", "0", "0"] in rows


# --- score --------------------------------------------------------------------------------------

LINES = [
    good_event(7),
    b"not json",
    b"",
    b"[1, 2]",
    b'{"id": 8}',
    b'{"id": 9, "loan_amnt": NaN}',
    b"\x00\xff",
    b"[" * 5_000,
    b'{"id": 10, "dti": "' + b"9" * 100_000 + b'"}',
    good_event(11),
]


def check_answers(output: str, lines: list[bytes]) -> list[dict[str, Any]]:
    """One answer for each line, in order."""
    answers = [json.loads(line) for line in output.splitlines()]
    assert len(answers) == len(lines)
    for line, answer in zip(lines, answers, strict=True):
        expected = "scored" if line.startswith(b'{"id": ') and b"annual_inc" in line else "rejected"
        assert answer["outcome"] == expected
        assert (answer["reject_reason"] is None) == (expected == "scored")
    return answers


def test_score_answers_every_line_in_order(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "applications.jsonl"
    file.write_bytes(b"\n".join(LINES))  # no newline at the end
    result = run("score", file)
    assert (result.code, result.err) == (0, "")
    first, *_, last = check_answers(result.out, [line for line in LINES if line])
    assert list(first) == [
        *("loan_id", "outcome", "risk_tier", "recommendation", "early_warning", "reasons"),
        *("figures", "dti_band", "util_band", "rate_band", "policy", "reject_reason", "features"),
    ]
    assert (first["loan_id"], first["risk_tier"], first["early_warning"]) == (
        "7",
        "Watchlist",
        True,
    )
    assert first["reasons"] == ["DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0"]
    assert first["policy"].startswith("lendingclub-v2@")
    assert first["features"]["dti"] == 35.5
    assert last["loan_id"] == "11"

    assert run("score", "-", stdin=b"\r\n".join(LINES) + b"\r\n") == result


def test_score_of_nothing_is_nothing(tmp_path: Path, run: Run) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert run("score", empty) == run("score", "-") == Result(0, "", "")


def test_score_keeps_the_order_of_many_lines(run: Run) -> None:
    lines = [good_event(i) if i % 3 else b"junk" for i in range(2 * SCORE_CHUNK_EVENTS + 7)]
    answers = check_answers(run("score", "-", stdin=b"\n".join(lines)).out, lines)
    scored = [answer["loan_id"] for answer in answers if answer["outcome"] == "scored"]
    assert scored == [str(i) for i in range(len(lines)) if i % 3]


def test_score_by_another_policy(tmp_path: Path, run: Run) -> None:
    text = DEFAULT_POLICY.read_text()
    strict = tmp_path / "strict.yaml"
    strict.write_text(text.replace("name: lendingclub-v2", "name: strict"))
    answer = json.loads(run("score", "-", "--policy", strict, stdin=good_event(1)).out)
    assert answer["policy"].startswith("strict@")


def test_score_says_what_is_wrong_with_its_files(tmp_path: Path, run: Run) -> None:
    missing, policy = tmp_path / "none [x].jsonl", tmp_path / "policy.yaml"
    assert run("score", missing) == error(f"cannot read {missing}: no such file")
    assert run("score", tmp_path) == error(
        f"cannot read {tmp_path}: this is a directory: name a file in it"
    )

    no_policy = one_line(run("score", "-", "--policy", policy))
    assert no_policy.startswith(f"policy {policy} cannot be read: ")
    policy.write_text("name: [")
    assert one_line(run("score", "-", "--policy", policy)).startswith(
        f"policy {policy} is not YAML"
    )
    policy.write_text(DEFAULT_POLICY.read_text().replace("tier: Elevated", "x: 1"))
    wrong = one_line(run("score", "-", "--policy", policy))
    assert wrong.startswith(f"policy {policy} is not valid: ")
    assert "rules.4.x" in wrong


def test_a_reader_that_has_seen_enough_ends_score_quietly(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_bytes(good_event(1) + b"\n")
    file.write_bytes(file.read_bytes() * 50_000)
    with subprocess.Popen(
        [*CREDIT_RISK, "score", str(file)],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def indented(ids: Iterable[int]) -> list[str]:
    return [json.dumps(json.loads(good_event(i)), indent=2) for i in ids]


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b", ".join(map(good_event, range(3))) + b"]",
        b"\n[\n" + b",\n".join(map(good_event, range(3))) + b"\n]\n",
        json.dumps([json.loads(good_event(i)) for i in range(3)], indent=1).encode(),
        b"\xef\xbb\xbf[" + b",".join(map(good_event, range(3))) + b"]",
        "\n\n".join(indented(range(3))).encode(),
        b"\n \n" + b"\n\n\r\n".join(map(good_event, range(3))) + b"\n\n",
    ],
    ids=["array", "array of lines", "indented array", "array with BOM", "objects", "blank lines"],
)
def test_score_reads_json_however_it_is_laid_out(text: bytes, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "applications.json.gz"
    file.write_bytes(gzip.compress(text))
    expected = run("score", "-", stdin=b"\n".join(map(good_event, range(3))))
    assert expected.code == 0
    assert run("score", file) == run("score", "-", stdin=text) == expected
    assert run("score", "-", stdin=gzip.compress(text)) == expected


def test_score_reads_a_csv(run: Run, tmp_path: Path) -> None:
    loans = builtin_loans()[:3]
    written = io.StringIO()
    rows = csv.DictWriter(written, list(loans[0]))
    rows.writeheader()
    rows.writerows(loans)
    file = tmp_path / "loans.csv"
    file.write_text(written.getvalue())
    result = run("score", file)
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [a["loan_id"] for a in answers] == [str(loan["id"]) for loan in loans]
    assert {a["outcome"] for a in answers} == {"scored"}
    assert run("score", "-", stdin=file.read_bytes()) == result


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[1, 2", "it begins like a JSON array, and is none"),
        (b'{\n "id": 1,\n', "it begins like a JSON object, and is none"),
        (b"hello\nworld\n", "it has no JSON objects, and as a CSV: not a LendingClub CSV"),
        (b"a,b\n1,2\n", "it has no column"),
        (b"%PDF-1.7", "this is a PDF document"),
        (gzip.compress(b'{"id": 1}' * 9)[:-9], "it is cut off"),
    ],
)
def test_score_names_what_it_cannot_read(text: bytes, said: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(text)
    assert said in one_line(run("score", file))
    assert said in one_line(run("score", "-", stdin=text))
