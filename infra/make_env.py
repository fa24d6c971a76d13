"""`make env`: random secrets into infra/.env; infra/docker-compose.yml does not start without them.

Beside them, in infra/secrets/, the addresses that alerts are sent to, which only you know. Needs
nothing but Python. A file that is there stays as it is.
"""

import hashlib
import os
import secrets
from pathlib import Path

FOLDER = Path(__file__).parent
ALERT_ADDRESSES = ("chat_url", "pager_url")
NOWHERE = "http://alerts.invalid/"


def content() -> str:
    """The file's text, with new secrets."""
    api_key = secrets.token_urlsafe(32)
    api_hash = hashlib.sha256(api_key.encode()).hexdigest()
    return f"""\
# Secrets of infra/docker-compose.yml. Random, made by `make env`; keep them out of version control.
# Those of Postgres count when its volume is made: see docs/deployment.md to change one later.

# s3 starts an S3 server, demo a producer. Without s3, set the AWS_ and S3_ variables for your own.
COMPOSE_PROFILES=s3

POSTGRES_PASSWORD={secrets.token_hex(24)}
CREDIT_RISK_OWNER_PASSWORD={secrets.token_hex(24)}
CREDIT_RISK_APP_PASSWORD={secrets.token_hex(24)}
CREDIT_RISK_API_PASSWORD={secrets.token_hex(24)}
CREDIT_RISK_READER_PASSWORD={secrets.token_hex(24)}
DAGSTER_PASSWORD={secrets.token_hex(24)}
AWS_ACCESS_KEY_ID={secrets.token_hex(10)}
AWS_SECRET_ACCESS_KEY={secrets.token_hex(24)}
GRAFANA_ADMIN_PASSWORD={secrets.token_hex(24)}

# The API knows only the hash; the key itself is for its client.
CREDIT_RISK_API_KEYS=client:{api_hash}
CREDIT_RISK_API_KEY={api_key}
"""


def main() -> None:
    """Write the files that are missing."""
    env = FOLDER / ".env"
    _write(env, content(), 0o600, "with new random secrets")
    addresses = FOLDER / "secrets"
    addresses.mkdir(mode=0o755, exist_ok=True)
    for name in ALERT_ADDRESSES:
        # Alertmanager's container, whose user is another one, reads it.
        _write(addresses / name, NOWHERE, 0o644, "put the webhook's address in, to get alerts")


def _write(path: Path, text: str, mode: int, note: str) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        print(f"{path} is there: it stays as it is")  # noqa: T201
        return
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(text)
    print(f"{path}: {note}")  # noqa: T201


if __name__ == "__main__":
    main()
