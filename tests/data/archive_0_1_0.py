"""What the archive of version 0.1.0, which had no tables, left in a bucket: written by its own
code, and kept as archive_0_1_0.json. In a work tree of commit 3012c34, `PYTHONPATH=. python` with
the path of this file writes it anew.

Several runs, a backup that was restored between two of them, so that objects overlap, and a second
epoch, whose objects are in a folder beside the topic's.
"""

import base64
import io
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FILE = Path(__file__).with_suffix(".json")
TOPIC = "loan_applications"


def text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def archived() -> dict[str, Any]:
    """Objects as the bucket has them, and the topic's records as a consumer gets them."""
    from kafka import KafkaConsumer, TopicPartition
    from pydantic import SecretStr
    from resources.warehouse import Warehouse, migrate

    from credit_risk_dagster.settings import KafkaSettings, LakeSettings, WarehouseSettings
    from infra.embedded.stack import S3, Broker, Postgres
    from resources import broker as kafka
    from resources.lake import Lake
    from tests.conftest import create_topic
    from tests.integration.conftest import good_event
    from tests.lake.conftest import LakePipeline

    with TemporaryDirectory() as folder, Postgres(Path(folder)) as server, Broker() as broker:
        with S3() as s3:
            os.environ |= s3.variables()
            lake = Lake(LakeSettings(AWS_ENDPOINT_URL_S3=s3.endpoint_url, S3_CREATE_BUCKET=True))
            settings = KafkaSettings(
                bootstrap_servers=broker.bootstrap_servers, topic=TOPIC, partitions=2
            )
            create_topic(settings)

            def beside(database: str) -> LakePipeline:
                where = WarehouseSettings(DATABASE_URL=SecretStr(server.uri(database)))
                migrate(where)
                return LakePipeline(settings, Warehouse(where), kafka.Broker(settings), lake)

            server.create_database("live")
            live = beside("live")
            odd: list[bytes | None] = [b"junk", None, b"", b"\x00\xff"]
            live.send_and_drain([good_event(i) for i in range(7)] + odd)
            live.archive(max_object_events=4)
            server.create_database("backup", "live")
            for partition in (0, 0, 1):
                live.send_and_drain([good_event(i) for i in range(5)], partition)
                live.archive()
            restored = beside("backup")
            restored.drain()
            restored.archive(max_object_events=7)
            with restored.warehouse.ledger() as ledger:
                ledger.new_epoch(restored.broker.inspect())
            restored.drain()
            restored.archive()
            objects = [stored(lake, key) for key in sorted(lake.sizes(""))]
        consumer = KafkaConsumer(
            bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest"
        )
        consumer.assign([TopicPartition(TOPIC, partition) for partition in (0, 1)])
        records = []
        while len(records) < 26:
            for found in consumer.poll(timeout_ms=1000).values():
                records += found
        consumer.close()
    events = [[r.partition, r.offset, r.timestamp, text(r.key), text(r.value)] for r in records]
    return {"objects": objects, "events": sorted(events, key=lambda event: event[:2])}


def stored(lake: Any, key: str) -> dict[str, Any]:
    content = io.BytesIO()
    lake.get(key, content)
    labels = dict(lake.find(key).labels)
    return {"key": key, "labels": labels, "content": text(content.getvalue())}


if __name__ == "__main__":
    FILE.write_text(json.dumps(archived(), indent=1))
