"""Both clients of S3, ours and Delta's, have what the settings and the environment say."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from credit_risk_dagster.settings import LakeSettings
from resources.lake import Lake, LakeRefused

_ROLE = "arn:aws:iam::123456789012:role/lake"
_ASSUMED = """<{0}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{0}Result>
<Credentials><AccessKeyId>ROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>
<SessionToken>of-a-role</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/lake/run</Arn><AssumedRoleId>A:run</AssumedRoleId>
</AssumedRoleUser></{0}Result></{0}Response>"""
Asked = list[tuple[str, str | None, str]]  # who signed and for which region, with which token


class Handler(BaseHTTPRequestHandler):
    """STS, a container's credentials, and an S3 that refuses everybody and remembers them."""

    asked: ClassVar[Asked] = []

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        action = body.partition("Action=")[2].partition("&")[0]
        status, kind = 200, "text/xml"
        if action:
            answer = _ASSUMED.format(action)
        elif self.path == "/credentials":
            kind = "application/json"
            answer = json.dumps(
                {
                    "AccessKeyId": "POD",
                    "SecretAccessKey": "s",
                    "Token": "of-a-pod",
                    "Expiration": "2100-01-01T00:00:00Z",
                }
            )
        else:
            status, answer = 403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            signed = self.headers["Authorization"].partition("Credential=")[2].split("/")
            self.asked.append((signed[0], self.headers["X-Amz-Security-Token"], signed[2]))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(Handler, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


KEYS = {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "eu-west-1"}
PROFILE = {"AWS_PROFILE": "p", "AWS_CONFIG_FILE": "config", "AWS_SHARED_CREDENTIALS_FILE": "keys"}
WAYS = {
    "keys": (KEYS, ("KEY", None, "eu-west-1")),
    "a session": (KEYS | {"AWS_SESSION_TOKEN": "token"}, ("KEY", "token", "eu-west-1")),
    "a profile": (PROFILE, ("OF-A-FILE", "its-token", "eu-central-1")),
    "a role of a profile": (PROFILE | {"AWS_PROFILE": "r"}, ("ROLE", "of-a-role", "eu-north-1")),
    "a service account (IRSA)": (
        {
            "AWS_WEB_IDENTITY_TOKEN_FILE": "token",
            "AWS_ROLE_ARN": _ROLE,
            "AWS_ROLE_SESSION_NAME": "run",
            "AWS_DEFAULT_REGION": "eu-west-1",
        },
        ("ROLE", "of-a-role", "eu-west-1"),
    ),
    "a pod's or a task's identity": (
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "ENDPOINT/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "pod",
            "AWS_DEFAULT_REGION": "eu-west-1",
        },
        ("POD", "of-a-pod", "eu-west-1"),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_both_clients_are_the_same_user_in_the_same_region(
    way: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("a token of the cluster")
    (tmp_path / "keys").write_text(
        "[p]\naws_access_key_id = OF-A-FILE\naws_secret_access_key = s\n"
        "aws_session_token = its-token\n"
    )
    (tmp_path / "config").write_text(
        "[profile p]\nregion = eu-central-1\n"
        f"[profile r]\nregion = eu-north-1\nrole_arn = {_ROLE}\nsource_profile = p\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
    variables, expected = WAYS[way]
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("ENDPOINT", endpoint))
    lake = Lake(LakeSettings(AWS_ENDPOINT_URL_S3=endpoint, S3_MAX_ATTEMPTS=1))
    with pytest.raises(LakeRefused, match="AccessDenied"):
        lake.put("k", b"v", "text/plain")
    with pytest.raises(OSError, match="privileges"):
        DeltaTable("s3://credit-risk/t", storage_options=lake.storage_options())
    assert Handler.asked == [expected, expected]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_both_clients_ask_the_endpoint_of_the_environment(
    name: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (KEYS | {name: endpoint}).items():
        monkeypatch.setenv(variable, value)
    assert Lake(LakeSettings()).storage_options()["aws_endpoint"] == endpoint


@pytest.mark.parametrize(("encryption", "key"), [("AES256", None), ("aws:kms", "a-key")])
def test_both_clients_ask_for_encryption(
    encryption: str, key: str | None, lake_settings: LakeSettings
) -> None:
    lake = Lake(lake_settings.model_copy(update={"encryption": encryption, "kms_key_id": key}))
    lake.put("report", b"v", "text/plain")
    table = f"s3://{lake_settings.bucket}/table"
    write_deltalake(table, pa.table({"n": [1]}), storage_options=lake.storage_options())
    keys = lake.sizes("")
    assert len(keys) == 3  # an object of ours, a data file and an entry of the log
    for found in keys:
        answer = lake._client.head_object(Bucket=lake_settings.bucket, Key=found)
        assert (answer["ServerSideEncryption"], answer.get("SSEKMSKeyId")) == (encryption, key)
