"""Outcomes into Postgres and out of it: real servers."""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from logging import getLogger
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.domain.model.sample import Sample
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.outcomes import (
    Loaded,
    OutcomesLater,
    OutcomesUnreadable,
    load_outcomes,
)
from credit_risk_dagster.pipelines.producer import produce
from credit_risk_dagster.pipelines.retention import drop_old_periods
from credit_risk_dagster.settings import DEFAULT_POLICY, LakeSettings
from resources.lake import Lake
from resources.postgres.retention import RetentionLedger
from tests.domain.model.samples import OUTCOME
from tests.platform.pipeline import Pipeline, good_event

CSV = """loan_id,observed_at,status,days_past_due,balance,recovered
1,2018-02-28,Current,0,900.5,
1,2018-03-31,Late (31-120 days),45,900.5,
2,2018-03-31,Fully Paid,,0,
"""
SIXTY = Outcome(
    name="sixty", horizon_months=12, bad=["days_past_due >= 60"], good=["days_past_due < 60"]
)


def stored(pipeline: Pipeline, what: str = "*") -> list[Any]:
    return pipeline.query(f"SELECT {what} FROM loan_outcomes ORDER BY outcome_id")


def file(folder: Path, text: str, name: str = "outcomes.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_file_is_loaded_once_and_a_correction_keeps_what_was_told(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    path = file(tmp_path, CSV)
    assert load_outcomes(pipeline.warehouse, path) == Loaded(3, 0)
    assert load_outcomes(pipeline.warehouse, path) == Loaded(0, 3)
    corrected = file(tmp_path, CSV.replace(",45,", ",15,"), "corrected.csv")
    assert load_outcomes(pipeline.warehouse, corrected, source="outcomes.csv") == Loaded(1, 2)
    assert [row["days_past_due"] for row in stored(pipeline)] == [0, 45, None, 15]
    assert load_outcomes(pipeline.warehouse, path) == Loaded(0, 3)  # delivered once more
    known = pipeline.query("SELECT * FROM known_outcomes ORDER BY loan_id, observed_at")
    assert [row["days_past_due"] for row in known] == [0, 15, None]
    assert {row["source"] for row in stored(pipeline)} == {"outcomes.csv"}


def test_the_same_file_in_every_form(
    pipeline: Pipeline, tmp_path: Path, lake_settings: LakeSettings
) -> None:
    path = file(tmp_path, CSV)
    load_outcomes(pipeline.warehouse, path, source="x")
    (tmp_path / "o.csv.gz").write_bytes(gzip.compress(CSV.encode("utf-16")))
    file(tmp_path, CSV.replace(",", ";"), "semicolons.csv")
    rows = [
        dict(zip(("loan_id", "observed_at", "status"), row, strict=True))
        for row in ((1, "2018-02-28", "Current"), (3, "2018-02-28", "Default"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "o.parquet")
    boto3.client("s3").upload_file(path, lake_settings.bucket, "in/o.csv")
    for name in ("o.csv.gz", "semicolons.csv"):
        loaded = load_outcomes(pipeline.warehouse, str(tmp_path / name), source="x")
        assert loaded == Loaded(0, 3), name
    assert load_outcomes(
        pipeline.warehouse, f"s3://{lake_settings.bucket}/in/o.csv", source="x", lake=lake_settings
    ) == Loaded(0, 3)
    # Other values of the first loan, and another loan.
    assert load_outcomes(pipeline.warehouse, str(tmp_path / "o.parquet"), source="x").added == 2


def test_a_damaged_row_is_named_and_nothing_is_loaded(pipeline: Pipeline, tmp_path: Path) -> None:
    path = file(tmp_path, CSV + "3,soon,Current,,,\n")
    with pytest.raises(OutcomesUnreadable, match=r"line 5: observed_at is no time.*--skip-bad"):
        load_outcomes(pipeline.warehouse, path)
    assert not stored(pipeline)
    loaded = load_outcomes(pipeline.warehouse, path, skip_bad=True)
    assert (loaded.added, loaded.damaged) == (3, 1)
    assert loaded.first_damaged.startswith("line 5: observed_at")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amount,observed_at\n1,2\n", "no column loan_id or id; there are: amount, observed_at"),
        ("", "no column loan_id or id"),
        ("PAR1 and no more", "no whole Parquet file"),
        ("<html>", "this is a web page"),
    ],
)
def test_what_is_no_file_of_outcomes(
    pipeline: Pipeline, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(OutcomesUnreadable, match=message):
        load_outcomes(pipeline.warehouse, file(tmp_path, text))
    with pytest.raises(OutcomesUnreadable, match="no such file"):
        load_outcomes(pipeline.warehouse, str(tmp_path / "nowhere.csv"))
    with pytest.raises(OutcomesUnreadable, match="names no object"):
        load_outcomes(pipeline.warehouse, "s3://bucket")


def test_an_outcome_scores_nothing_again_and_is_learned_from(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Bad loans apply again with a DTI of 99: the sample has what the first decision saw."""
    for loans, dti in ((90, 20.0), (40, 99.0)):
        pipeline.send(
            [
                msgspec.json.encode(
                    {**msgspec.json.decode(good_event(at)), "dti": dti, "issue_d": "Jan-2018"}
                )
                for at in range(loans)
            ]
        )
        pipeline.drain()
    decided = pipeline.query("SELECT count(*) FROM scored_applications")
    lines = ["id,observed_at,days_past_due"]
    lines += [f"{number},2018-09-01,{90 if number < 40 else 0}" for number in range(80)]
    lines += [f"{number},2019-02-01,0" for number in range(80)]
    load_outcomes(pipeline.warehouse, file(tmp_path, "\n".join(lines)))
    policy = load_policy(DEFAULT_POLICY)
    sample = modelling.load_sample("scored", SIXTY, policy, pipeline.warehouse, 1_000)
    assert (len(sample), sample.bads) == (80, 40)
    assert set(sample.rows["dti"].to_pylist()) == {20.0}
    assert sample.left_out == {"no outcome observed": 10}
    assert pipeline.query("SELECT count(*) FROM scored_applications") == decided


def test_a_first_decision_that_retention_dropped_is_read_from_the_lake(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """It trained as the next application saw it, or not at all, without a word."""

    def apply(loans: range, dti: float) -> None:
        event = msgspec.json.decode(good_event(0)) | {"dti": dti, "issue_d": "Jan-2018"}
        pipeline.send_and_drain([msgspec.json.encode(event | {"id": at}) for at in loans])

    apply(range(80), 20.0)
    pipeline.archive()
    drop_old_periods(
        pipeline.warehouse, 30, now=datetime.now(UTC) + timedelta(days=70), log=getLogger("test")
    )
    apply(range(40), 99.0)  # of those that are dropped, half came again
    apply(range(80, 90), 30.0)
    lines = ["id,observed_at,days_past_due"]
    lines += [f"{number},2018-09-01,{90 if number < 40 else 0}" for number in range(95)]
    lines += [f"{number},2019-02-01,0" for number in range(95)]
    load_outcomes(pipeline.warehouse, file(tmp_path, "\n".join(lines)))
    policy = load_policy(DEFAULT_POLICY)

    def sample(limit: int, open_lake: Callable[[], Lake] | None) -> Sample:
        return modelling.load_sample("scored", SIXTY, policy, pipeline.warehouse, limit, open_lake)

    found = sample(1_000, lambda: pipeline.lake)
    assert (len(found), found.bads) == (90, 40)
    assert sorted(set(found.rows["dti"].to_pylist())) == [20.0, 30.0]
    assert found.left_out == {"no decision is known": 5}
    assert len(sample(85, lambda: pipeline.lake)) == 85  # the newest
    with pytest.raises(
        modelling.SampleUnavailable, match=r"of 45 loans with an outcome the only decision.*bucket"
    ):
        sample(1_000, None)


def test_what_a_producer_sends_is_no_outcome_until_it_tells_one(pipeline: Pipeline) -> None:
    loans = OutcomesLater(builtin_loans()[:60], pipeline.warehouse)
    produce(pipeline.kafka, loans)
    pipeline.drain()
    assert pipeline.query("SELECT DISTINCT loan_status FROM scored_applications") == [
        {"loan_status": None}
    ]
    assert loans.flush().added == 60
    statuses = {loan["id"]: loan["loan_status"] for loan in builtin_loans()[:60]}
    assert {row["loan_id"]: row["status"] for row in stored(pipeline)} == statuses


def test_the_stream_and_its_outcomes_are_the_builtin_sample(pipeline: Pipeline) -> None:
    """Applications and outcomes apart give the sample that the file gives."""
    loans = OutcomesLater(builtin_loans(), pipeline.warehouse)
    produce(pipeline.kafka, loans)
    loans.flush()
    pipeline.drain()
    policy = load_policy(DEFAULT_POLICY)
    sample = modelling.load_sample("scored", OUTCOME, policy, pipeline.warehouse, 100_000)
    builtin = modelling.load_sample("builtin", OUTCOME, policy, None, 100_000)
    assert sample.content_hash == builtin.content_hash


def test_old_outcomes_can_be_deleted(pipeline: Pipeline, tmp_path: Path) -> None:
    load_outcomes(pipeline.warehouse, file(tmp_path, CSV))
    with pipeline.warehouse.session() as connection:
        connection.execute(
            "UPDATE loan_outcomes SET received_at = now() - interval '3 days' WHERE loan_id = '1'"
        )
        assert RetentionLedger(connection).delete_outcomes(2) == 2
    assert [row["loan_id"] for row in stored(pipeline)] == ["2"]
