"""The lake (S3): one way to put, find, list and read objects of a bucket.

Everything that goes to S3 goes through `Lake.put`. Retries of slow, throttled and failed requests
are botocore's own. `boto3` is imported when a client is made: it takes half a second.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from io import SEEK_END, BytesIO
from types import MappingProxyType
from typing import Any, BinaryIO

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import LakeSettings

_CHUNK = 2**20
_REFUSED = {
    "NoSuchBucket": "create it, correct S3_BUCKET, or set S3_CREATE_BUCKET=true",
    "404": "NoSuchBucket: create it, correct S3_BUCKET, or set S3_CREATE_BUCKET=true",
    "AccessDenied": "the credentials lack the right for it",
    "403": "the credentials are wrong or lack the right for it",
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the credentials have expired: renew them",
    "ExpiredTokenException": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "set this machine's clock",
}
_NOT_FOUND = frozenset({"404", "NoSuchKey", "NotFound"})
_THERE = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_UNKNOWN = frozenset({"NotImplemented", "501", "InvalidArgument", "InvalidRequest"})
_BUSY = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"})


@cache
def _service_models() -> Any:
    """What botocore knows of AWS: megabytes of JSON, which each session would read for itself."""
    from botocore.loaders import create_loader

    return create_loader()


class LakeUnavailable(PlatformError):
    """S3 does not answer, or is too busy to."""


class LakeRefused(PlatformError):
    """S3 answers, and refuses: access, credentials, no such bucket."""


class ObjectMissing(PlatformError):
    """There is no object with that key."""


@dataclass(frozen=True)
class Stored:
    """An object as it is on S3; sha256 is hexadecimal, empty where the object does not say it;
    labels are what was said of it when it was stored."""

    key: str
    bytes: int
    sha256: str
    etag: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Lake:
    """A bucket of an S3-compatible store."""

    def __init__(self, settings: LakeSettings) -> None:
        self._settings = settings
        self._tried_puts = False

    @property
    def bucket(self) -> str:
        return self._settings.bucket

    @property
    def location(self) -> str:
        """Bucket and endpoint, for messages."""
        return f"bucket {self._settings.bucket} at {self._settings.endpoint_url or 'AWS'}"

    def storage_options(self) -> dict[str, str]:
        """The same access, as `deltalake` takes it: what was found out here about endpoint and
        region, and the settings. Credentials are looked for anew by each client, in the same
        variables, files and services, so that both renew those that expire.

        Raises:
            LakeRefused: endpoint, region or profile are none.
        """
        with self._errors("making a client"):
            meta = self._client.meta
        settings = self._settings
        options = {
            "aws_region": meta.region_name,
            "aws_endpoint": meta.endpoint_url,
            "aws_allow_http": str(meta.endpoint_url.startswith("http://")).lower(),
            "aws_server_side_encryption": settings.encryption,
            "aws_sse_kms_key_id": settings.kms_key_id,
            # Beside an endpoint, deltalake would not look at profiles and would ask STS itself.
            "aws_force_credential_load": "true",
            "timeout": f"{settings.timeout_seconds:g}s",
            "connect_timeout": f"{settings.connect_seconds:g}s",
            "max_retries": str(settings.max_attempts - 1),
            "retry_timeout": f"{settings.timeout_seconds * settings.max_attempts:g}s",
        }
        return {name: value for name, value in options.items() if value}

    def put(
        self,
        key: str,
        content: BinaryIO | bytes,
        content_type: str,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> Stored:
        """Store an object, whole or not at all; one of the same key is replaced.

        The content is streamed from a file, and S3 compares its SHA-256 before it confirms. The
        labels (ASCII) stay with the object.

        Raises:
            LakeUnavailable, LakeRefused.
        """
        body = BytesIO(content) if isinstance(content, bytes) else content
        size, sha256 = self.measure(body)
        with self._errors(f"storing {key}"):
            self._ensure_bucket()
            answer = self._client.put_object(
                Bucket=self._settings.bucket,
                Key=key,
                Body=body,
                ContentLength=size,
                ContentType=content_type,
                ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
                Metadata={"sha256": sha256, **labels},
                **self._encryption(),
            )
        return Stored(key, size, sha256, answer["ETag"].strip('"'), labels)

    @staticmethod
    def measure(content: BinaryIO) -> tuple[int, str]:
        """Bytes and hexadecimal SHA-256 of a file, which is then at its beginning."""
        content.seek(0)
        digest = hashlib.file_digest(content, "sha256")  # type: ignore[arg-type]
        size = content.seek(0, SEEK_END)  # of a buffer, the digest leaves the position as it was
        content.seek(0)
        return size, digest.hexdigest()

    def check_access(self) -> None:
        """Raises LakeUnavailable or LakeRefused unless the bucket is there for this client."""
        with self._errors("looking for the bucket"):
            self._ensure_bucket()
            self._client.head_bucket(Bucket=self._settings.bucket)

    def require_conditional_puts(self, key: str) -> None:
        """Try, once in the life of this, whether the store refuses to replace an object where a put
        asks for that, as AWS, MinIO and R2 do: two writers of a table would otherwise overwrite
        each other's commit.

        Args:
            key: of an object to try it with.

        Raises:
            LakeUnavailable.
            LakeRefused: also when it does not.
        """
        from botocore.exceptions import ClientError

        if self._tried_puts:
            return
        does = "replaces an object although a put with If-None-Match asks it not to"
        with self._errors(f"putting {key} if it is not there"):
            self._ensure_bucket()
            for _ in range(2):
                try:
                    self._client.put_object(
                        Bucket=self._settings.bucket, Key=key, Body=b"", IfNoneMatch="*"
                    )
                except ClientError as error:
                    if _code(error) in _THERE:
                        self._tried_puts = True
                        return
                    if _code(error) not in _UNKNOWN:
                        raise
                    does = f"refuses a put with If-None-Match ({_code(error)})"
                    break
        raise LakeRefused(
            f"{self.location} {does}: two writers of a table could overwrite each other there. "
            "Take a store or a version that knows conditional puts (AWS S3, MinIO, Cloudflare R2 "
            "do)"
        )

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is none.

        Raises:
            LakeUnavailable, LakeRefused.
        """
        with self._errors(f"deleting {key}"):
            self._client.delete_object(Bucket=self._settings.bucket, Key=key)

    def copy(self, key: str, to: str) -> None:
        """Copy an object within the store.

        Raises:
            LakeUnavailable, LakeRefused.
        """
        with self._errors(f"copying {key}"):
            self._client.copy_object(
                Bucket=self._settings.bucket,
                CopySource={"Bucket": self._settings.bucket, "Key": key},
                Key=to,
                **self._encryption(),
            )

    def find(self, key: str) -> Stored | None:
        """The object of that key; None when there is none.

        Raises:
            LakeUnavailable, LakeRefused.
        """
        from botocore.exceptions import ClientError

        with self._errors(f"looking for {key}"):
            try:
                answer = self._client.head_object(Bucket=self._settings.bucket, Key=key)
            except ClientError as error:
                if _code(error) in _NOT_FOUND:
                    return None
                raise
        return Stored(
            key,
            answer["ContentLength"],
            answer["Metadata"].pop("sha256", ""),
            answer["ETag"].strip('"'),
            answer["Metadata"],
        )

    def is_empty(self, prefix: str) -> bool:
        """Whether there is no object whose key begins so.

        Raises:
            LakeUnavailable, LakeRefused.
        """
        with self._errors(f"listing {prefix}"):
            self._ensure_bucket()
            answer = self._client.list_objects_v2(
                Bucket=self._settings.bucket, Prefix=prefix, MaxKeys=1
            )
        return "Contents" not in answer

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object whose key begins so, by key.

        Raises:
            LakeUnavailable, LakeRefused.
        """
        with self._errors(f"listing {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._settings.bucket, Prefix=prefix
            )
            return {entry["Key"]: entry["Size"] for p in pages for entry in p.get("Contents", ())}

    def get(self, key: str, into: BinaryIO) -> Stored:
        """Read an object into a file, in pieces; the answer's size and sha256 are of what came.

        Raises:
            ObjectMissing, LakeUnavailable, LakeRefused.
        """
        from botocore.exceptions import ClientError

        digest = hashlib.sha256()
        size = 0
        with self._errors(f"reading {key}"):
            try:
                answer = self._client.get_object(Bucket=self._settings.bucket, Key=key)
            except ClientError as error:
                if _code(error) in _NOT_FOUND:
                    raise ObjectMissing(f"{self.location} has no object {key}") from error
                raise
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                into.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        labels = answer["Metadata"]
        return Stored(key, size, digest.hexdigest(), answer["ETag"].strip('"'), labels)

    @cached_property
    def _client(self) -> Any:
        # Not dagster-aws' S3Resource: its client has no timeouts, so that an endpoint which is
        # gone holds a run for minutes, and the command line needs the same client without Dagster.
        import boto3
        import botocore.session
        from botocore.config import Config

        # A session of its own: the default one keeps the credentials that it first saw.
        session = botocore.session.Session()
        session.register_component("data_loader", _service_models())
        return boto3.session.Session(botocore_session=session).client(
            "s3",
            endpoint_url=self._settings.endpoint_url,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": self._settings.max_attempts},
                connect_timeout=self._settings.connect_seconds,
                read_timeout=self._settings.timeout_seconds,
            ),
        )

    def _ensure_bucket(self) -> None:
        if self._settings.create_bucket:
            _ = self._created_bucket

    @cached_property
    def _created_bucket(self) -> bool:
        """Creates the bucket if it is missing; once for each client."""
        from botocore.exceptions import ClientError

        bucket = self._settings.bucket
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if _code(error) not in _NOT_FOUND | {"NoSuchBucket"}:
                raise
            region = self._client.meta.region_name
            # AWS refuses its first region's name here, and wants every other one's.
            where: dict[str, Any] = (
                {"CreateBucketConfiguration": {"LocationConstraint": region}}
                if region and region != "us-east-1"
                else {}
            )
            self._client.create_bucket(Bucket=bucket, **where)
            return True
        return False

    def _encryption(self) -> dict[str, str]:
        named = {
            "ServerSideEncryption": self._settings.encryption,
            "SSEKMSKeyId": self._settings.kms_key_id,
        }
        return {name: value for name, value in named.items() if value}

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turn the client's errors into the platform's, in one line with the fix."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            CredentialRetrievalError,
            HTTPClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        try:
            yield
        except ClientError as error:
            code, where = _code(error), f"{self.location}: {doing}"
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            said = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
            if code in _BUSY or status >= 500:
                attempts = self._settings.max_attempts
                raise LakeUnavailable(
                    f"{where} failed {attempts} times, last with {code}: {said}"
                ) from error
            fix = _REFUSED.get(code)
            raise LakeRefused(
                f"{where} was refused, {code}: {said}" + (f" ({fix})" if fix else "")
            ) from error
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise LakeRefused(
                f"{self.location}: {doing} needs credentials: {error} (set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile or role)"
            ) from error
        except (ConnectionError, HTTPClientError, OSError) as error:
            raise LakeUnavailable(
                f"{self.location} does not answer ({doing}): {' '.join(str(error).split())}"
            ) from error
        except (BotoCoreError, ValueError) as error:
            said = " ".join(str(error).split())
            if said.startswith("Invalid endpoint"):  # of a variable or a file that is botocore's
                said += (
                    ": write http:// or https:// before it, in AWS_ENDPOINT_URL, or in "
                    "endpoint_url of the AWS profile"
                )
            raise LakeRefused(f"{self.location}: {doing} is not possible: {said}") from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
