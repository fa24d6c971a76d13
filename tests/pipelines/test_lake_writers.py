"""Two who write to the lake, each with a Postgres of its own: the table keeps them apart."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from credit_risk_dagster.pipelines.forget import forget
from credit_risk_dagster.settings import WarehouseSettings
from infra.embedded.servers import Postgres
from resources.lake_tables import LakeTable
from resources.postgres.connection import Warehouse
from tests.platform.killed import Mortals, archive, forget_five, keep_up
from tests.platform.pipeline import LOG, Pipeline, good_event

LOANS = range(10, 16)


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


@pytest.fixture
def archived(pipeline: Pipeline) -> Pipeline:
    """Six archived loans in three files."""
    pipeline.send_and_drain([good_event(loan) for loan in LOANS])
    pipeline.archive(max_object_events=2)
    return pipeline


@pytest.fixture
def beside(archived: Pipeline, postgres: Postgres) -> Iterator[Pipeline]:
    """The same lake under a copy of the tables, as a restored backup is."""
    name = f"beside_{uuid.uuid4().hex}"
    url = archived.warehouse._settings.database_url.get_secret_value()
    postgres.create_database(name, str(conninfo_to_dict(url)["dbname"]))
    settings = WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri(name)))
    yield replace(archived, warehouse=Warehouse(settings))
    postgres.drop_database(name)


def test_whoever_meets_whom_nothing_is_doubled_or_lost(
    archived: Pipeline, beside: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one does all of its work within the first one's commit."""
    loans, left = iter(LOANS), {(0, at) for at in range(len(LOANS))}

    def forget_one(pipeline: Pipeline) -> None:
        loan = next(loans)
        left.remove((0, loan - LOANS[0]))
        forget(*(pipeline.warehouse, pipeline.lake, str(loan)), by="Ada", why="request 31", log=LOG)

    def meet(first: Callable[[Pipeline], None], other: Callable[[Pipeline], None]) -> None:
        commit, met = LakeTable.commit, []

        def met_within(*args: Any, **options: Any) -> None:
            if not met:
                met.append(other)
                other(beside)
            commit(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(LakeTable, "commit", met_within)
            first(archived)
        assert met

    pairs = [
        *((archive, forget_one), (forget_one, keep_up), (archive, keep_up)),
        *((keep_up, forget_one), (forget_one, forget_one)),
    ]
    for number, (first, other) in enumerate(pairs):
        archived.send_and_drain([good_event(100 + number)])
        left.add((0, len(LOANS) + number))
        if first is not archive:
            archive(archived)
        meet(first, other)
        for table in ("raw_events", "decisions"):
            assert archived.offsets(table) == sorted(left), (first, other, table)


def test_what_one_database_forgets_all_forget(archived: Pipeline, beside: Pipeline) -> None:
    """Archived or not, and whoever of them archives first."""

    def forget_in(pipeline: Pipeline, loan: int) -> None:
        forget(*(pipeline.warehouse, pipeline.lake, str(loan)), by="Ada", why="request 31", log=LOG)

    forget_in(beside, LOANS[2])
    archived.send_and_drain([good_event(loan) for loan in (20, 21, 22)])
    beside.drain()
    forget_in(archived, 21)  # the lake has it in no version
    for pipeline in (beside, archived, beside):
        pipeline.archive()
    left = [(0, at) for at in range(len(LOANS) + 3) if at not in (2, 7)]
    for pipeline in (archived, beside):
        assert pipeline.stored()["scored_applications"] == left
        assert pipeline.offsets() == pipeline.offsets("decisions") == left
        assert pipeline.account().problems == []
        assert pipeline.unreconciled() == 0
        done = pipeline.query("SELECT forgotten_by, lake_at IS NOT NULL AS done FROM forgettings")
        assert {row["forgotten_by"] for row in done} == {"Ada", "the lake"}
        assert all(row["done"] for row in done)


ARCHIVE = (
    *("before Lake.put", "after Lake.put", "before LakeTable.commit"),
    *("before ArchiveLedger.confirm", "before _Copy._commit"),
)
DECISIONS = ("after Lake.put", "after LakeTable.commit")
UPKEEP = (
    *("after Lake.put", "before LakeTable.commit", "after LakeTable.commit"),
    *("before LakeTable.vacuum", "after LakeTable.checkpoint", "before ArchiveLedger.mirror"),
)
FORGETTING = (
    *("after Forgettings.forget", "after Lake.put", "after LakeTable.commit"),
    *("before Lake.delete", "after Lake.delete", "before Forgettings.close_lake"),
)


def test_killed_at_any_step_whoever_comes_next_goes_on(
    pipeline: Pipeline, mortals: Mortals
) -> None:
    """kill -9 of those who archive, keep up and forget; each dies at a step of what the one before
    left to do."""
    pipeline.send_and_drain([good_event(at % 10) for at in range(60)])
    everything = [(0, at) for at in range(60)]
    for step in (*ARCHIVE, *DECISIONS):
        mortals.kill(archive, pipeline, step)
        found = pipeline.offsets()
        assert found == everything[: len(found)]
    pipeline.send_and_drain([good_event(4), b"junk"])
    everything += [(0, 60), (0, 61)]
    assert "pandas" not in mortals.modules(archive, pipeline)  # which would be 37 MB of 300
    assert pipeline.offsets() == pipeline.offsets("decisions") == everything
    assert pipeline.account().problems == []
    for step in UPKEEP:
        mortals.kill(keep_up, pipeline, step)
        assert pipeline.offsets() == everything, step
    keep_up(pipeline)
    assert len(pipeline.files()) == len(pipeline.files("decisions")) == 1
    assert pipeline.account().problems == []
    left = [place for place in everything if place[1] % 10 != 5]
    for step in FORGETTING:
        mortals.kill(forget_five, pipeline, step)
        assert set(left) <= set(pipeline.offsets()) <= set(everything), step
    pipeline.archive()
    assert pipeline.offsets() == pipeline.offsets("decisions") == left
    assert pipeline.query("SELECT lake_rows FROM forgettings") == [{"lake_rows": 12}]
    assert pipeline.account().problems == []
    assert pipeline.unreconciled() == 0
