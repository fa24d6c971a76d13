"""The example of docs/scaling.md, as it stands there: scoring on Spark gives the drain's rows. Run
where Spark is installed (`pip install pyspark==4.0.*`, and Java)."""

import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from credit_risk_dagster.pipelines.lake_history import copied, there
from credit_risk_dagster.settings import PROJECT_ROOT
from tests.interop.spark import local_spark
from tests.platform.pipeline import Pipeline

SAMPLE = PROJECT_ROOT / "tests" / "data" / "lendingclub_raw_sample.jsonl"


def example() -> dict[str, Any]:
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (PROJECT_ROOT / "docs" / "scaling.md").read_text(), re.M | re.S
    )
    # Spark sends functions of __main__ to its workers as they are, and others by their name.
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, "docs/scaling.md", "exec"), names)
    return names


@pytest.mark.long
def test_spark_scores_as_the_drain_does(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    values = [*SAMPLE.read_bytes().splitlines(), b"not JSON", None]
    for partition in range(2):
        pipeline.send(values, partition)
    report = pipeline.drain()
    assert report.scored
    assert report.rejected
    pipeline.archive()
    ((_, table, snapshot),) = there(pipeline.lake, pipeline.kafka.topic)[:1]
    files = [str(file) for file in copied(table, snapshot, tmp_path) if file.suffix == ".parquet"]
    with local_spark({"spark.sql.session.timeZone": "UTC"}) as spark:
        found: pa.Table = example()["rescore"](spark.read.parquet(*files)).toArrow()
    names = ", ".join(f'"{name}"' for name in found.column_names)
    stored = pipeline.query(f'SELECT {names} FROM scored_applications ORDER BY partition, "offset"')
    ordered = found.sort_by([("partition", "ascending"), ("offset", "ascending")])
    assert len(stored) == report.scored
    assert ordered.to_pylist() == stored
