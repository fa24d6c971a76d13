"""Who has which right."""

import pytest

from credit_risk_dagster.base_settings import SettingInvalid
from credit_risk_dagster.domain.rights import RIGHTS, has_right, parse_rights
from credit_risk_dagster.settings import AccessSettings


def test_a_right_is_had_by_name_by_group_or_by_anybody() -> None:
    rights = parse_rights("submit: Ada@bank.example cy; approve: risk-team ; review: *")
    assert has_right(rights, "submit", ["ada@BANK.example"])
    assert has_right(rights, "approve", ["bo", "Risk-Team"])
    assert has_right(rights, "review", [])
    assert not has_right(rights, "submit", ["ada"])
    assert not has_right(rights, "approve", [])
    assert not has_right(rights, "export", ["cy"])  # named for nobody
    assert has_right(rights, "see", [])
    assert not has_right(parse_rights("see: ada"), "see", ["cy"])


def test_without_any_everybody_has_all() -> None:
    assert all(has_right(parse_rights(""), right, []) for right in ("submit", "export"))


@pytest.mark.parametrize("text", ["ada", "delete: ada", "submit ada", "submit: a; submit: b"])
def test_what_cannot_be_read_is_said_in_one_line(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_ROLES", text)
    with pytest.raises(SettingInvalid, match="CREDIT_RISK_ROLES: ") as error:
        AccessSettings()
    assert "\n" not in str(error.value)
    assert len(RIGHTS) == 5
