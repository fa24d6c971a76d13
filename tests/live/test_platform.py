"""The shared run is what it says: everything that tests look at is there."""

import urllib.request

from tests.platform.running import ENOUGH_EVENTS, Platform


def test_everything_is_there(live: Platform) -> None:
    assert live.committed() >= ENOUGH_EVENTS
    assert live.query("SELECT reason FROM rejected_events WHERE reason = 'invalid_json'")
    assert live.query("SELECT key FROM archive_objects WHERE key IS NOT NULL")
    assert live.query("SELECT verdict FROM drift_reports")
    assert live.query("SELECT auc FROM model_benchmarks WHERE subject = 'rules'")
    dagster, dashboard, api = live.services
    for url in (f"{dagster}/server_info", dashboard, f"{api}/health", f"{api}/metrics"):
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.status == 200
