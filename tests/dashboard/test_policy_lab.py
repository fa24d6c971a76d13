"""The Policy lab as a person meets it."""

from typing import Any

import numpy as np
import psycopg
import pytest
from streamlit.testing.v1 import AppTest

from credit_risk_dagster.domain.policy import Policy, load_policy, parse_policy, validate_policy
from credit_risk_dagster.domain.policy_diff import differences
from credit_risk_dagster.domain.policy_lab import lab_numbers
from credit_risk_dagster.settings import DEFAULT_POLICY
from dashboard.data import policy_lab as queries
from resources.postgres.approvals import Approvals
from tests.dashboard.conftest import ELEVATED, LOW, WATCHLIST, Commit
from tests.pipelines.approvals import stored_policy

ACTIVE = load_policy(DEFAULT_POLICY)
BAD = {"loan_status": "Charged Off"}
GOOD = {"loan_status": "Fully Paid"}
# On the edge: flagged as soon as the DTI threshold is 28 or less.
NEARLY = LOW | {"dti": 28, "inq_last_6mths": 2, "loan_amnt": 20_000}


def open_page(**query: str) -> AppTest:
    def script() -> None:
        from dashboard.views import policy_lab

        policy_lab.page()

    page = AppTest.from_function(script, default_timeout=60)
    for name, value in query.items():
        page.query_params[name] = value
    return page.run()


def figures(page: AppTest) -> dict[str, tuple[str, str]]:
    return {m.label.rpartition("svg%3E) ")[2]: (m.value, m.delta) for m in page.metric}


def table(page: AppTest) -> dict[str, tuple[str, str]]:
    frame = page.table[0].value
    return {str(name): tuple(row) for name, row in zip(frame.index, frame.to_numpy(), strict=True)}


def complaint(page: AppTest) -> str:
    """The first error, without what keeps it from being Markdown."""
    return page.error[0].value.replace("\\", "")


def text(page: AppTest) -> str:
    """What the page says, without what keeps it from being Markdown."""
    said = "\n".join(element.value for element in (*page.markdown, *page.caption))
    return said.replace("\\", "")


def changed(name: str, **tests: str) -> Policy:
    """The active policy under another name, with other tests in its conditions."""
    content = ACTIVE.table.content() | {"name": name}
    del content["examples"]
    for condition, test in tests.items():
        content["conditions"][condition.replace("_", "-")] = {
            test.split()[0]: test.split(" ", 1)[1]
        }
    return validate_policy(content, name)


def test_an_empty_database_says_how_to_fill_it(warehouse: psycopg.Connection[Any]) -> None:
    page = open_page()
    assert not page.exception
    assert "No scored applications yet" in page.info[0].value
    assert "make demo" in page.info[0].value


def test_applications_that_come_after_an_empty_page_are_found(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    page = open_page()
    assert page.info
    commit(LOW)
    page.run()
    assert not page.info
    assert "1 application" in text(page)


def test_the_candidate_begins_as_the_active_policy(commit: Commit) -> None:
    commit(*[LOW | GOOD] * 6, *[ELEVATED | GOOD] * 2, WATCHLIST | BAD, NEARLY | BAD)
    page = open_page()
    assert not page.exception
    assert f"decides as the active policy `{ACTIVE.version}`" in text(page)
    shown = figures(page)
    assert shown["Flagged share"] == ("10.0 %", "+0.00 points against active")
    assert shown["Enter the Watchlist"][0] == "0"
    assert shown["Bad loans caught (recall)"][0] == "50.0 %"
    assert shown["Bad among flagged (precision)"][0] == "100.0 %"
    assert shown["Exposure on the Watchlist"][0] == "$10.0 K"
    assert len(page.get("vega_lite_chart")) == 2
    assert "Nobody enters the Watchlist." in text(page)


def test_a_lower_threshold_flags_more(commit: Commit) -> None:
    commit(*[LOW | GOOD] * 6, *[ELEVATED | GOOD] * 2, WATCHLIST | BAD, NEARLY | BAD)
    page = open_page()
    page.slider(key="dti_at_least").set_value(28.0).run()
    assert not page.exception
    assert (
        "condition high-dti, dti: >= 30 → >= 28; rule high-dti, reason: DTI>=30 → DTI>=28"
        in text(page)
    )
    shown = figures(page)
    assert shown["Flagged share"] == ("20.0 %", "+10.00 points against active")
    assert shown["Enter the Watchlist"][0] == "1"
    assert shown["Leave the Watchlist"][0] == "0"
    assert shown["Bad loans caught (recall)"] == ("100.0 %", "+50.00 points against active")
    assert shown["Exposure on the Watchlist"] == ("$30.0 K", "+$20.0 K against active")
    entering = page.dataframe[0].value
    assert entering["loan_id"].tolist() == ["1009"]
    assert entering["otherwise"].tolist() == ["Low"]
    assert list(entering["reasons"][0]) == ["DTI ≥ 28 %", "Inquiries ≥ 2"]
    assert table(page)["Bad rate, Low"][1] == "0.0 % (0.0 to 39.0)"


def test_who_may_not_see_applicants_sees_figures_alone(
    commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(*[LOW] * 9, WATCHLIST)
    before = len(open_page(dti_at_least="40").dataframe)
    monkeypatch.setenv("CREDIT_RISK_ROLES", "see: ada")
    page = open_page(dti_at_least="40")
    assert not page.exception
    assert "for who may see them" in " ".join(info.value for info in page.info)
    assert len(page.dataframe) < before


def test_a_higher_threshold_lets_people_leave(commit: Commit) -> None:
    commit(LOW, WATCHLIST)
    page = open_page(dti_at_least="40.0")  # from an address that a colleague sent
    assert figures(page)["Leave the Watchlist"][0] == "1"
    leaving = page.dataframe[0].value
    assert leaving["otherwise"].tolist() == ["Elevated"]
    assert list(leaving["reasons"][0]) == ["DTI ≥ 30 %", "Delinquencies > 0"]


def test_without_known_outcomes_there_is_no_recall(commit: Commit) -> None:
    commit(LOW, WATCHLIST)
    page = open_page()
    assert figures(page)["Bad loans caught (recall)"] == ("–", "no known outcomes")
    assert table(page)["Bad rate, Watchlist"] == ("–", "–", "")


def test_the_outcome_definition_decides_who_is_bad(commit: Commit) -> None:
    late = {"loan_status": "Late (16-30 days)"}
    commit(*[LOW | GOOD] * 2, WATCHLIST | late)
    assert figures(open_page())["Bad loans caught (recall)"][0] == "100.0 %"
    assert figures(open_page(outcome="Matured"))["Bad loans caught (recall)"][0] == "–"


def test_band_edges_out_of_order_are_explained(commit: Commit) -> None:
    commit(LOW)
    page = open_page()
    page.slider(key="dti_1").set_value(35.0).run()
    assert not page.exception
    assert "bands.dti: band edges must ascend, got [35.0, 30.0, 40.0]" in complaint(page)
    assert not page.metric
    page.button[-1].click().run()  # back to the active policy
    assert not page.error
    assert page.slider(key="dti_1").value == 20
    assert page.metric


def test_an_uploaded_policy_sets_every_slider(commit: Commit) -> None:
    commit(LOW, NEARLY)
    policy = changed(
        "from-a-colleague", high_dti="dti >= 27.25", high_utilization="revol_util >= 400"
    )
    page = open_page()
    page.file_uploader[0].upload("theirs.yaml", policy.yaml.encode(), "application/yaml").run()
    assert not page.exception
    assert page.slider(key="dti_at_least").value == 27.25
    assert page.slider(key="util_at_least").value == 400
    assert page.text_input(key="policy").value == "from-a-colleague"
    assert "condition high-utilization, revol_util: >= 80 → >= 400" in text(page)
    assert figures(page)["Enter the Watchlist"][0] == "1"
    assert downloaded(page) == policy


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: [", "is not YAML"),
        (b"\xff\xfe", "no text in UTF-8"),
        (b"name: x", "bands: is missing, add it"),
        (ACTIVE.yaml.replace("30.0", "-1").encode(), "greater than or equal to 0"),
        (ACTIVE.yaml.replace(">= 80", ">= much").encode(), "'much' is no number and no column"),
    ],
)
def test_a_file_that_is_no_policy_is_explained_and_changes_nothing(
    commit: Commit, content: bytes, words: str
) -> None:
    commit(LOW)
    page = open_page()
    page.file_uploader[0].upload("bad.yaml", content, "application/yaml").run()
    assert not page.exception
    assert "policy bad.yaml" in complaint(page)
    assert words in complaint(page)
    assert page.slider(key="dti_at_least").value == 30
    assert page.metric  # the candidate is as it was


def test_the_candidate_can_be_downloaded_as_a_policy_file(commit: Commit) -> None:
    commit(LOW)
    page = open_page()
    page.slider(key="inq_at_least").set_value(3.0).run()
    page.text_input(key="policy").set_value("stricter").run()
    policy = downloaded(page)
    assert policy.name == "stricter"
    assert differences(ACTIVE, policy) == [
        "condition asking, inq_last_6mths: >= 2 → >= 3",
        "rule asking, reason: INQ_LAST_6MTHS>=2 → INQ_LAST_6MTHS>=3",
    ]


def test_a_name_that_no_policy_can_have_is_explained(commit: Commit) -> None:
    commit(LOW)
    page = open_page(policy="No Spaces Please")
    assert "name: String should match pattern" in complaint(page)
    assert page.get("download_button")[0].proto.disabled


def downloaded(page: AppTest) -> Policy:
    """The candidate, as the page writes it."""
    return parse_policy(page.code[0].value, "downloaded")


def test_nothing_is_written(warehouse: psycopg.Connection[Any], commit: Commit) -> None:
    commit(LOW, NEARLY)
    tables = ("policies", "scored_applications", "batches", "stream_offsets")
    before = [warehouse.execute(f"SELECT * FROM {t}").fetchall() for t in tables]
    page = open_page(dti_at_least="25.0")
    assert figures(page)["Enter the Watchlist"][0] == "1"
    assert [warehouse.execute(f"SELECT * FROM {t}").fetchall() for t in tables] == before


# --- the sample ---------------------------------------------------------------------------------


def loans(sample: queries.LabSample) -> list[str]:
    found = queries.lab_applications(sample, np.arange(len(sample.status)))
    return found["loan_id"].tolist()


def test_the_sample_is_the_newest_applications_and_no_more(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    for _ in range(3):
        commit(*[LOW] * 4)
    # Three batches in three minutes, two of them in the same one.
    warehouse.execute(
        "UPDATE scored_applications SET scored_at = date_trunc('minute', scored_at)"
        " - interval '1 minute' * (2 - least(\"offset\" / 4, 1))"
        " + interval '1 second' * (\"offset\" / 4)"
    )
    warehouse.execute("TRUNCATE risk_by_minute")
    warehouse.execute(
        "INSERT INTO risk_by_minute SELECT date_trunc('minute', scored_at),"
        " source_id, risk_tier, count(*), sum(loan_amnt) FROM scored_applications"
        " GROUP BY 1, 2, 3"
    )
    for size in (1, 4, 5, 8, 11, 12, 13):
        newest = [str(1_000 + i) for i in range(11, 11 - min(size, 12), -1)]
        assert loans(queries.lab_sample.__wrapped__(size, 0, lab_numbers(ACTIVE))) == newest


# --- tables, joint applications -------------------------------------------------------------------


def test_a_policy_of_thresholds_has_the_same_sliders(commit: Commit) -> None:
    commit(LOW, NEARLY)
    first = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
    page = open_page()
    page.file_uploader[0].upload("v1.yaml", first.yaml.encode(), "application/yaml").run()
    assert not page.exception
    assert page.slider(key="dti_at_least").value == 30
    assert page.selectbox(key="dti_band_at_least").value == "High"
    assert "joint applications are decided by: combined → primary" in text(page)


def test_the_lab_decides_joint_applications_as_each_policy_says(commit: Commit) -> None:
    joint = WATCHLIST | {"application_type": "Joint App", "dti": 45, "dti_joint": 10}
    commit(LOW, joint, joint | {"dti": None}, WATCHLIST)
    content = ACTIVE.table.content() | {"name": "primary", "joint": "primary"}
    policy = validate_policy(content | {"examples": []}, "primary")
    page = open_page()
    assert figures(page)["Flagged share"][0] == "25.0 %"
    page.file_uploader[0].upload("primary.yaml", policy.yaml.encode(), "application/yaml").run()
    assert not page.exception
    assert figures(page)["Enter the Watchlist"][0] == "1"


def test_a_policy_that_reads_more_than_numbers_is_not_for_the_lab(commit: Commit) -> None:
    commit(LOW)
    content = ACTIVE.table.content() | {"name": "by-purpose", "examples": []}
    content["rules"][0]["when"] = {"purpose": "car"}
    policy = validate_policy(content, "by-purpose")
    page = open_page()
    page.file_uploader[0].upload("theirs.yaml", policy.yaml.encode(), "application/yaml").run()
    assert not page.exception
    assert "reads purpose" in page.info[0].value


def test_a_candidate_is_submitted_with_its_figures(
    warehouse: psycopg.Connection[Any], commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(*[LOW | GOOD] * 6, *[ELEVATED | GOOD] * 2, WATCHLIST | BAD, NEARLY | BAD)
    page = open_page(dti_at_least="28.0")
    button = next(b for b in page.button if b.label == "Submit")
    button.click().run()
    assert "A submission needs a reason" in complaint(page)
    why = next(box for box in page.text_input if box.label == "Why should it decide?")
    why.set_value("fewer losses")
    next(b for b in page.button if b.label == "Submit").click().run()
    assert not page.exception
    assert "Policy 2 is submitted" in page.success[0].value
    row = warehouse.execute(
        "SELECT name, action, who, why, evidence FROM approvals JOIN policies"
        " ON policy_id = subject_id WHERE kind = 'policy'"
    ).fetchone()
    assert row is not None
    name, action, who, reason, evidence = row
    assert (name, action, reason) == ("lendingclub-v2-candidate", "submit", "fewer losses")
    assert who == warehouse.info.user
    assert evidence["entering"] == 1
    assert evidence["candidate"]["recall"]["value"] == 1
    assert evidence["flagged_change"]["low"] < 0.1 < evidence["flagged_change"]["high"]
    page = open_page(dti_at_least="28.0")
    assert "submit" in page.dataframe[-1].value["action"].str.lower().tolist()
    monkeypatch.setenv("CREDIT_RISK_ROLES", "submit: ada@bank.example")
    page = open_page(dti_at_least="28.0")
    assert next(b for b in page.button if b.label == "Submit").disabled


def test_rows_of_another_policy_than_the_active_one_are_said(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    stored_policy(warehouse, "active-one")
    approvals = Approvals(warehouse, "policy")
    approvals.record(1, "activate", "a test")
    warehouse.execute("ALTER TABLE approvals DISABLE TRIGGER ALL")
    warehouse.execute("UPDATE approvals SET effective_from = now() - interval '1 minute'")
    commit(LOW)
    warning = open_page().warning[0].value.replace("\\", "")
    assert f"newest batch was decided by {ACTIVE.version}, and the active policy is act" in warning


def test_a_loan_that_was_sent_again_counts_once(commit: Commit) -> None:
    for _ in range(5):
        commit(*[LOW | {"id": number} for number in range(10)], WATCHLIST | {"id": 10})
    page = open_page()
    assert "11 applications, of each loan the newest" in text(page)
    assert figures(page)["Flagged share"][0] == "9.1 %"
