"""The lake's tables in readers that the project does not need: run where they are installed
(`pip install polars pyspark==4.0.*`, and Java)."""

from pathlib import Path

import pytest

from credit_risk_dagster.pipelines.lake_history import copied, there
from resources.lake import Lake
from tests.interop.spark import local_spark
from tests.pipelines.test_lake_history import TOPIC, lake

__all__ = ["lake"]


@pytest.fixture
def copy(lake: Lake, tmp_path: Path) -> str:
    """The table in a folder: sixteen events of partition 0 and three of partition 1."""
    ((_, table, snapshot),) = there(lake, TOPIC)
    list(copied(table, snapshot, tmp_path))
    return str(tmp_path / table.root)


def test_polars(lake: Lake, copy: str) -> None:
    polars = pytest.importorskip("polars")
    ((_, table, snapshot),) = there(lake, TOPIC)
    options = {k: v for k, v in lake.storage_options().items() if k.startswith("aws_")}
    for uri, access in ((copy, {}), (table.uri, options)):
        found = polars.scan_delta(uri, storage_options=access, version=snapshot.version)
        assert found.filter(polars.col("partition") == 0).select(
            polars.len(), polars.col("offset").sum()
        ).collect().rows() == [(16, 120)]


@pytest.mark.long
def test_spark(copy: str) -> None:
    options = {
        "spark.jars.packages": "io.delta:delta-spark_2.13:4.0.0",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "1",
    }
    with local_spark(options) as spark:
        asked = f"SELECT count(*), sum(offset) FROM delta.`{copy}` WHERE partition = 0"
        assert [tuple(row) for row in spark.sql(asked).collect()] == [(16, 120)]
        then = spark.read.format("delta").option("versionAsOf", 1).load(copy)
        assert then.count() == 16
        typed = dict(then.dtypes)
        assert (typed["value"], typed["timestamp"], typed["day"]) == ("binary", "timestamp", "date")
