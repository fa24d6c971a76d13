"""Limits of the portfolio, and what is said of a file that has none."""

from pathlib import Path

import pytest

from credit_risk_dagster.decision_settings import DEFAULT_LIMITS
from credit_risk_dagster.domain.limits import LIMITS, LimitsUnreadable, load_limits, measure


def test_the_file_that_comes_with_it_has_every_limit() -> None:
    assert [limit.name for limit in load_limits(DEFAULT_LIMITS)] == list(LIMITS)


def test_levels_begin_at_their_thresholds(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text(
        "largest_state: {amber: 12.5, red: 25}\nexpected_loss: {amber: 1, red: 2}\n"
        "watchlist_share: {amber: 5, red: 10}\n"
    )
    found = measure(
        load_limits(file),
        {
            "limits": {
                "largest_state": {"of": "CA", "value": 0.125},
                "watchlist_share": {"value": 0.1},
                "expected_loss": {"value": None},
            }
        },
    )
    assert [(one.limit.name, one.level, one.of) for one in found] == [
        ("watchlist_share", "red", None),
        ("expected_loss", "grey", None),
        ("largest_state", "amber", "CA"),
    ]
    assert {one.level for one in measure(load_limits(file), None)} == {"grey"}


def test_an_empty_file_has_none(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text("# none yet\n")
    assert load_limits(file) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "it must be a mapping, such as watchlist_share: {amber: 6, red: 10}"),
        ("largest_stat: {amber: 1, red: 2}", "largest_stat is no limit: write largest_state"),
        ("fraud: {amber: 1, red: 2}", "fraud is no limit: there are watchlist_share, "),
        ("largest_state: 12", "largest_state is '12': give amber and red, as "),
        ("largest_state: {amber: 1, rde: 2}", "largest_state is \"{'amber': 1, 'rde': 2}\": give"),
        ("largest_state: {amber: 1}", "largest_state.red is missing: give a percentage"),
        ("largest_state: {amber: 1, red: lots}", "largest_state.red is 'lots': give a percent"),
        ("largest_state: {amber: 1, red: true}", "largest_state.red is 'True': give a percent"),
        ("largest_state: {amber: .nan, red: 3}", "largest_state.amber is 'nan': give a percent"),
        ("largest_state: {amber: 1, red: 101}", "largest_state.red is '101': give a percentage"),
        (
            "largest_state: {amber: 9, red: 9}",
            "largest_state.amber is 9, and must be below largest_state.red, which is 9",
        ),
        ("a: [", "is not YAML: "),
    ],
)
def test_a_file_that_is_none_is_one_line_with_key_value_and_fix(
    text: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text(text)
    with pytest.raises(LimitsUnreadable) as error:
        load_limits(file)
    message = str(error.value)
    assert message.startswith(f"limits {file}")
    assert said in message
    assert "\n" not in message


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(LimitsUnreadable, match=r"limits .*none\.yaml cannot be read"):
        load_limits(tmp_path / "none.yaml")
