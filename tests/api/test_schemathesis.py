"""Schemathesis attacks the served API by its own OpenAPI document, and finds nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

from credit_risk_dagster.api.bodies import EXAMPLE
from credit_risk_dagster.api.guards import HEADER, new_key
from infra.embedded.servers import HOST, Server, free_port
from tests.platform.pipeline import Pipeline

BIN = Path(sys.executable).parent


def test_schemathesis_finds_nothing(
    pipeline: Pipeline, environment: dict[str, str], tmp_path: Path
) -> None:
    pipeline.send([json.dumps(EXAMPLE).encode()])
    pipeline.drain()
    key, digest = new_key()
    port = free_port()
    api = Server(
        "The API",
        [str(BIN / "credit-risk"), "api", "--port", str(port)],
        port,
        ready_path="/health",
        environment=environment
        | {
            "CREDIT_RISK_API_KEYS": f"schemathesis:{digest}",
            "CREDIT_RISK_API_RATE_LIMIT": "1000000/second",
        },
        log=tmp_path / "api.log",
    )
    with api:
        found = subprocess.run(
            [
                *(
                    BIN / "schemathesis",
                    "--config-file",
                    Path(__file__).with_name("schemathesis.toml"),
                ),
                *("run", f"http://{HOST}:{port}/openapi.json", "--header", f"{HEADER}: {key}"),
                *("--max-examples", "25", "--seed", "1", "--no-color"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=240,
            env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis")},
        )
    print(found.stdout[-20000:], found.stderr)
    assert found.returncode == 0
    log = (tmp_path / "api.log").read_text()
    assert '"status": 202' in log  # some of it went through to the topic
    assert '"status": 500' not in log
