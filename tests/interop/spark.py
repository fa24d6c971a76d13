"""Spark on this machine, where it is installed."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

_LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
}


@contextmanager
def local_spark(options: Mapping[str, str]) -> Iterator[Any]:
    """A session with one worker, whose JVM ends with it, so that the next one has its own."""
    pyspark = pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    builder = pytest.importorskip("pyspark.sql").SparkSession.builder
    spark = builder.master("local[1]").config(map={**_LOCAL, **options}).getOrCreate()
    try:
        yield spark
    finally:
        gateway = spark.sparkContext._gateway
        spark.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # which ends the JVM
        gateway.proc.wait(30)
        pyspark.SparkContext._gateway = pyspark.SparkContext._jvm = None
