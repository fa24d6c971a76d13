"""A model's document and the inventory, out of the database."""

import re

import pytest
from markdown_it import MarkdownIt

from credit_risk_dagster.domain.model.card import Section, to_html, to_markdown
from credit_risk_dagster.pipelines.model_document import model_document
from resources.postgres.inventory import inventory
from resources.postgres.models import ModelMissing
from tests.pipelines.approvals import approved, stored_policy
from tests.pipelines.test_modelling import activate
from tests.platform.commands import Run
from tests.platform.pipeline import Pipeline, good_event


def test_a_model_tells_what_it_is_for_and_who_approved_it(pipeline: Pipeline, ready: int) -> None:
    with pipeline.warehouse.session() as connection:
        before = to_markdown(*model_document(connection, ready, "http://dagster/"))
    assert "Run: http://dagster/runs/run" in before
    activate(pipeline, ready)
    with pipeline.warehouse.session() as connection:
        title, sections = model_document(connection, ready, "http://dagster/")
        with pytest.raises(ModelMissing, match="there is no model 99"):
            model_document(connection, 99, "")
    said = to_markdown(title, sections)
    for words in (
        f"# Model {ready}: logistic@",
        "it is not for decisions",
        "4,000 loans of sample planted",
        "nothing is known of the declined",
        "AUC out of fold (95 %)",
        "nothing speaks against it",
        "| approve |",
        "Next review by ",
    ):
        assert words in said, words
    html = to_html(title, sections)
    assert '<a href="http://dagster/runs/run">' in html
    assert html.count("<table>") == 3


def test_nothing_in_a_document_is_markup() -> None:
    section = Section("a <b>", ("1 < 2 | 3",), (("x|y",), ("<script>",)))
    assert "<script>" not in to_markdown("t", [section]) + to_html("t", [section])
    assert "x\\|y" in to_markdown("t", [section])
    for text in ("![x](http://elsewhere/)", "[x](javascript:alert)", "# x", "- x", "1. x", "`x`"):
        said = to_markdown("t", [Section("s", (text,), (("why",), (text,)))])
        shown = MarkdownIt().enable("table").render(said)
        assert shown.count("<p>") == 1, shown  # a paragraph and a cell, and nothing in them
        assert not re.search("<(img|a|li|code)|<h1>x", shown), shown


def test_the_inventory_has_all_three_kinds(pipeline: Pipeline, ready: int) -> None:
    pipeline.send_and_drain([good_event(1)])
    with pipeline.warehouse.session() as connection:
        items = {item.kind: item for item in inventory(connection)}
    assert (items["policy"].state, items["policy"].owner) == ("active", "built in")
    assert items["model"].subject_id == ready
    assert items["model"].state in ("recorded", "submitted")
    activate(pipeline, ready)
    with pipeline.warehouse.session() as connection:
        approved(connection, "policy", stored_policy(connection, "second"))
        connection.execute("SET session_replication_role = replica")  # as a database of before
        stored_policy(connection, "third")
        connection.execute(
            "INSERT INTO approvals (kind, subject_id, action, who, why) VALUES"
            " ('policy', 3, 'activate', 'batch', 'first'), ('policy', 2, 'activate', 'x', 'x')"
        )
        owners = {i.subject_id: i.owner for i in inventory(connection) if i.kind == "policy"}
        (model,) = (item for item in inventory(connection) if item.kind == "model")
    assert (model.state, bool(model.approved_by)) == ("active", True)
    assert owners == {1: "built in", 2: "Ada", 3: "file: batch"}


@pytest.mark.usefixtures("servers")
def test_the_commands(pipeline: Pipeline, ready: int, run: Run) -> None:
    written = run("model", "document", ready)
    assert (written.code, written.out.splitlines()[0][:9]) == (0, f"# Model {ready}")
    assert run("model", "document", ready, "--html").out.startswith("<!doctype html>")
    listed = run("inventory")
    assert listed.code == 0
    assert "model" in listed.out
