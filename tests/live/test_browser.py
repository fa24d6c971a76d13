"""The dashboard in a real browser, during a live run."""

import csv
import re
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from playwright.sync_api import Browser, expect

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import policies
from dashboard.parts import orchestration
from resources.postgres.connection import Warehouse
from tests.live.browser import PAGES, THEMES, WIDTHS, Visit, visit
from tests.platform.running import Platform
from tests.platform.waiting import wait_until


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize("title", PAGES)
def test_a_page_is_accessible_in_every_look(live: Platform, desk: Visit, title: str) -> None:
    """Light on a desk and dark on a phone: no violation, nothing cut off."""
    desk.open(live.services.dashboard_url + PAGES[title], title)
    assert not desk.page.get_by_test_id("stException").count()
    for theme, (name, width) in zip(THEMES, WIDTHS.items(), strict=True):
        desk.look(theme, width)
        assert desk.violations() == [], f"{theme}, {name}"
        overflow = desk.page.evaluate(
            "() => document.querySelector('[data-testid=stMain]').scrollWidth - innerWidth"
        )
        assert overflow <= 0, f"{theme}, {name}: the page is wider than the window"


def test_the_figures_move(live: Platform, desk: Visit) -> None:
    desk.open(live.services.dashboard_url, "Credit risk overview")

    def decisions() -> int:
        told = desk.page.get_by_text(re.compile("Since the start")).inner_text()
        return number(re.findall(r"([\d,]+) decisions", told)[0])

    before = decisions()
    wait_until(lambda: decisions() > before, 60, "more decisions")
    expect(desk.page.get_by_text("Live", exact=True)).to_be_visible()
    # Whether anything is wrong, and the page that tells more.
    expect(desk.page.locator(".signals li")).to_have_count(8)
    desk.page.locator(".signals").get_by_role("link", name="Pipeline").click()
    expect(desk.page.get_by_role("heading", name="Operations", level=1)).to_be_visible()


def test_a_filtered_view_can_be_sent_to_a_colleague(
    live: Platform, browser: Browser, desk: Visit
) -> None:
    desk.open(live.services.dashboard_url, "Credit risk overview")
    desk.page.get_by_role("radio", name="7 d").click()
    desk.page.wait_for_url(re.compile("period=7"))
    desk.settle()
    everything = number(desk.figure("Applications"))
    desk.page.get_by_role("combobox", name="Purpose").click()
    desk.page.get_by_role("option", name="Credit card").click()
    desk.page.keyboard.press("Escape")
    desk.page.wait_for_url(re.compile("purpose="))
    assert parse_qs(urlsplit(desk.page.url).query)["purpose"] == ["Credit card"]
    wait_until(lambda: 0 < number(desk.figure("Applications")) < everything, 30, "fewer of them")
    desk.look("dark", WIDTHS["desktop"])
    assert desk.violations() == []  # what is chosen can be read, too
    with visit(browser) as colleague:
        colleague.open(desk.page.url, "Credit risk overview")
        assert 0 < number(colleague.figure("Applications")) < everything
        assert colleague.problems == []


def test_from_the_queue_to_the_decision(live: Platform, desk: Visit) -> None:
    desk.open(f"{live.services.dashboard_url}/watchlist", "Watchlist")
    table = desk.page.get_by_test_id("stDataFrame").first
    # The grid is drawn on a canvas: its first column has the boxes that select a row.
    table.click(position={"x": 18, "y": 52})
    desk.page.wait_for_url(re.compile("case="))
    heading = desk.page.get_by_role("heading", name=re.compile(r"^Loan \d+"), level=2)
    heading.wait_for()
    (case_id,) = parse_qs(urlsplit(desk.page.url).query)["case"]
    (row,) = live.query(
        "SELECT loan_id FROM cases WHERE case_id = %(case_id)s", case_id=int(case_id)
    )
    assert heading.inner_text() == f"Loan {row['loan_id']}"
    run = desk.page.get_by_role("link", name=re.compile(r"^[0-9a-f]{8}$")).first
    address = str(run.get_attribute("href"))
    assert address.startswith(live.services.dagster_url)
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.status == 200


def test_several_are_assigned_at_once(live: Platform, desk: Visit) -> None:
    desk.open(f"{live.services.dashboard_url}/watchlist?sort=Largest+amount", "Watchlist")
    for y, chosen in ((52, 1), (87, 2)):  # the first one opens its case, beside the table
        desk.page.get_by_test_id("stDataFrame").first.click(position={"x": 18, "y": y})
        expect(desk.page.get_by_role("button", name=f"Assign {chosen} selected")).to_be_visible()
        desk.settle()


def test_on_a_phone_a_case_is_above_the_queue_and_filters_are_folded(
    live: Platform, browser: Browser
) -> None:
    (case,) = live.query("SELECT min(case_id) AS id FROM cases")
    with visit(browser, width=WIDTHS["phone"]) as phone:
        page = phone.page
        phone.open(f"{live.services.dashboard_url}/watchlist?case={case['id']}", "Watchlist")
        heading = page.get_by_role("heading", name=re.compile(r"^Loan \d+"), level=2).bounding_box()
        table = page.get_by_test_id("stDataFrame").first.bounding_box()
        assert heading
        assert table
        assert heading["y"] < table["y"]
        expect(page.get_by_role("combobox", name="Assignee")).to_be_hidden()
        page.get_by_role("button", name="Filters").click()
        expect(page.get_by_role("combobox", name="Assignee")).to_be_visible()
        assert phone.violations() == []
        assert phone.problems == []


def test_of_two_reviewers_at_one_case_the_second_is_told_who_was_first(
    live: Platform, browser: Browser, desk: Visit
) -> None:
    (case,) = live.query("SELECT min(case_id) AS id FROM cases WHERE state = 'open'")
    address = f"{live.services.dashboard_url}/watchlist?case={case['id']}"

    def ready(seen: Visit, name: str) -> None:
        page = seen.page
        seen.open(address, "Watchlist")
        page.get_by_role("textbox", name="Reviewer").fill(name)
        page.keyboard.press("Enter")
        for field, option in (("Found", "False positive"), ("Because", "Income verified")):
            page.get_by_role("combobox", name=field).click()
            page.get_by_role("option", name=option).click()
            seen.settle()
        page.get_by_role("textbox", name="Note").fill(f"{name} called")
        page.get_by_role("textbox", name="Note").blur()
        seen.settle()

    with visit(browser) as other:
        ready(desk, "Ada Lovelace")
        ready(other, "Bo")
        desk.page.keyboard.press("x")
        expect(desk.page.get_by_role("button", name="Open again")).to_be_visible()
        other.page.get_by_role("button", name="Close case").click()
        told = f"Not done: case {case['id']} was changed by Ada Lovelace at"
        expect(other.page.get_by_text(told)).to_be_visible()
        expect(other.page.get_by_role("button", name="Open again")).to_be_visible()
        assert other.problems == []
    (row,) = live.query(
        "SELECT who, action, db_role FROM case_events WHERE case_id = %(id)s", **case
    )
    assert row == {"who": "Ada Lovelace", "action": "close", "db_role": "credit_risk_reader"}
    desk.settle()

    def another() -> bool:  # a page that is just drawn anew hears no key
        desk.page.keyboard.press("n")
        desk.page.wait_for_timeout(1_000)
        return f"case={case['id']}" not in desk.page.url

    wait_until(another, 30, "the next case")
    desk.page.reload()  # the browser remembers who reviews
    expect(desk.page.get_by_role("textbox", name="Reviewer")).to_have_value("Ada Lovelace")


def test_the_export_has_what_the_page_counts(live: Platform, desk: Visit) -> None:
    def counted() -> int:
        desk.open(f"{live.services.dashboard_url}/watchlist?sort=Largest+amount", "Watchlist")
        shown = desk.page.get_by_text(re.compile(r"^[\d,]+ cases?$")).inner_text()
        return number(shown.split()[0])

    before = counted()
    desk.page.get_by_test_id("stDataFrame").first.hover()
    expect(desk.page.get_by_role("button", name=re.compile("^Search"))).to_be_visible()
    # Nor does a table hand itself out, to whoever, without a row in `exports`.
    expect(desk.page.get_by_role("button", name=re.compile("Download as CSV"))).to_be_hidden()
    with desk.page.expect_download() as download:
        desk.page.get_by_role("button", name="Export CSV").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert before <= len(rows)  # equal, unless something came meanwhile
    # The page asks anew every few seconds.
    wait_until(lambda: counted() >= len(rows), 30, "the page counts them, too")
    amounts = [float(row["loan_amnt_usd"]) for row in rows]
    assert amounts == sorted(amounts, reverse=True)
    (kept,) = live.query("SELECT rows FROM exports ORDER BY export_id DESC LIMIT 1")
    assert kept == {"rows": len(rows)}


def test_operations_show_dagsters_state_and_lead_there(live: Platform, desk: Visit) -> None:
    desk.open(f"{live.services.dashboard_url}/operations", "Operations")
    desk.page.get_by_role("link", name="redrive_rejected").wait_for()  # what Dagster answered
    assert not desk.page.get_by_text("does not answer").count()
    assert number(desk.figure("Rejected events")) > 0
    link = desk.page.get_by_role("link", name="redrive_rejected")
    address = str(link.get_attribute("href"))
    assert address.startswith(live.services.dagster_url)
    desk.page.goto(address)
    # Dagster's page is large, and says "Loading" until it has everything.
    expect(desk.page.get_by_text("redrive_rejected").first).to_be_visible()
    desk.problems.clear()  # Dagster's own


def test_a_policy_is_tried_and_downloaded(
    live: Platform, browser: Browser, desk: Visit, tmp_path: Path
) -> None:
    desk.open(f"{live.services.dashboard_url}/policy-lab?dti_at_least=20.5", "Policy lab")
    before = live.query("SELECT name, document FROM policies")
    slider = desk.page.get_by_role("slider", name="DTI, at least")
    slider.focus()
    slider.press("ArrowLeft")
    desk.page.wait_for_url(re.compile(r"dti_at_least=20(\.0)?(&|$)"))
    wait_until(lambda: number(desk.figure("Enter the Watchlist")) > 0, 30, "somebody is flagged")
    desk.look("dark", WIDTHS["desktop"])
    assert desk.violations() == []  # what is chosen can be read, too
    with visit(browser) as colleague:
        colleague.open(desk.page.url, "Policy lab")
        assert number(colleague.figure("Enter the Watchlist")) > 0
        assert colleague.problems == []
    with desk.page.expect_download() as download:
        desk.page.get_by_role("button", name="Download the candidate").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    candidate = load_policy(path)
    assert path.stem == candidate.name == "lendingclub-v2-candidate"
    assert candidate.table.conditions["high-dti"].dti == ">= 20"
    desk.page.get_by_role("button", name="Back to the active policy").click()
    wait_until(lambda: desk.figure("Enter the Watchlist") == "0", 30, "nobody is flagged")
    desk.page.locator("input[type=file]").set_input_files(path)
    wait_until(lambda: number(desk.figure("Enter the Watchlist")) > 0, 30, "the file is used")
    assert live.query("SELECT name, document FROM policies") == before


def test_the_html_of_a_drift_report_is_downloaded(live: Platform, desk: Visit) -> None:
    desk.open(f"{live.services.dashboard_url}/drift", "Drift")
    desk.page.get_by_role("button", name="Get the HTML report from S3").click()
    with desk.page.expect_download() as download:
        desk.page.get_by_role("button", name="Save the HTML report").click()
    (row,) = live.query(
        "SELECT window_end FROM drift_reports ORDER BY created_at DESC, report_id DESC LIMIT 1"
    )
    title = f"<title>Drift to {row['window_end']:%Y-%m-%d %H:%M:%S} UTC</title>"
    assert title in download.value.path().read_text(encoding="utf-8")


def test_the_model_page_has_the_benchmarks_verdict(live: Platform, desk: Visit) -> None:
    desk.open(f"{live.services.dashboard_url}/model", "Model")
    (row,) = live.query(
        "SELECT verdict FROM model_benchmarks WHERE subject = 'rules'"
        " ORDER BY benchmark_id DESC LIMIT 1"
    )
    expect(desk.page.get_by_text(row["verdict"])).to_be_visible()


def test_the_checks_have_the_state_that_dagster_knows(
    live: Platform, desk: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_DAGSTER_URL", live.services.dagster_url)
    checks = orchestration.checks("UTC").set_index("check")
    assert checks["asset"]["psi_significant"] == "drift_report"
    assert checks["state"]["psi_significant"] in ("Passed", "Failed")
    assert checks["at"]["psi_significant"].year > 2000
    assert checks["to_do"]["psi_significant"]
    desk.open(f"{live.services.dashboard_url}/drift", "Drift")
    expect(desk.page.get_by_text(f"of {len(checks)} checks")).to_be_visible()


def test_a_policys_walk_from_the_lab_to_the_rows_and_back(live: Platform, desk: Visit) -> None:
    """Submitted from the lab, not approved by its author but by another, active, rolled back."""

    def newest() -> str:
        (row,) = live.query(
            "SELECT name FROM scored_applications JOIN policies USING (policy_id)"
            " ORDER BY scored_at DESC LIMIT 1"
        )
        return str(row["name"])

    first = newest()
    desk.open(
        f"{live.services.dashboard_url}/policy-lab?dti_at_least=20&policy=stricter", "Policy lab"
    )
    desk.page.get_by_text("Submit the candidate for approval").click()
    desk.page.get_by_role("textbox", name="Why should it decide?").fill("fewer stretched loans")
    desk.page.get_by_role("button", name="Submit", exact=True).click()
    expect(desk.page.get_by_text(re.compile(r"Policy \d+ is submitted"))).to_be_visible()
    with Warehouse(live.warehouse).session() as connection:
        submitted = policies.chosen(connection, "stricter")
        (given,) = submitted.approvals
        assert (given.who, given.db_role) == ("credit_risk_reader", "credit_risk_reader")
        assert given.evidence
        assert given.evidence["entering"] > 0
        with pytest.raises(psycopg.errors.CheckViolation, match="somebody else has to"):
            connection.execute(
                "INSERT INTO approvals (kind, subject_id, action, why, who)"
                " VALUES ('policy', %s, 'approve', 'mine', %s)",
                (given.subject_id, given.who),
            )
        policies.approve(connection, "policy", given.subject_id, "checked")
        policies.activate(connection, given.subject_id, "agreed")
        wait_until(lambda: newest() == "stricter", 60, "new rows name the policy")

        def lab_knows() -> bool:  # a page is of some seconds ago at most
            desk.open(f"{live.services.dashboard_url}/policy-lab", "Policy lab")
            return desk.page.get_by_text("decides as the active policy stricter@").is_visible()

        wait_until(lab_knows, 30, "the lab has the new active policy", every=1.0)
        policies.roll_back(connection, "too many are flagged")
        wait_until(lambda: newest() == first, 60, "new rows name the one before")
