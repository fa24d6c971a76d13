"""`credit-risk api` and `api-key`."""

import hashlib
import socket

from credit_risk_dagster.settings import (
    ApiSettings,
)
from tests.platform.commands import Run, error, one_line


def test_a_new_key_and_its_hash(run: Run) -> None:
    result = run("api-key", "new", "loan-origination")
    key, entry = result.out.splitlines()
    assert (result.code, key[:4]) == (0, "crk_")
    assert entry == f"loan-origination:{hashlib.sha256(key.encode()).hexdigest()}"
    assert ApiSettings(keys=entry).hashes == {
        "loan-origination": hashlib.sha256(key.encode()).digest()
    }
    assert run("api-key", "new", "loan-origination").out != result.out
    assert "'two words' is not" in one_line(run("api-key", "new", "two words"))


def test_the_api_says_where_it_cannot_listen(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong = one_line(run("api", "--port", port))
    assert wrong.startswith(f"cannot listen on 127.0.0.1:{port} (CREDIT_RISK_API_HOST, ")
    assert "in use" in wrong


def test_the_api_does_not_start_open_to_others(run: Run) -> None:
    assert run("api", "--host", "0.0.0.0") == error(
        "CREDIT_RISK_API_HOST=0.0.0.0 can be reached from other machines, so it needs "
        "CREDIT_RISK_API_KEYS: `credit-risk api-key new` makes one"
    )
