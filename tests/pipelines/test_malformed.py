"""The catalogue of malformed events, through the broker into Postgres."""

from tests.malformed import CATALOGUE
from tests.platform.pipeline import Pipeline, good_event


def test_malformed_events_are_rejected_with_their_bytes_and_harm_no_other(
    pipeline: Pipeline,
) -> None:
    """Each kind between two good events: offsets 3n and 3n + 2 are good, 3n + 1 is the kind."""
    assert sum(reason is not None for _, _, reason in CATALOGUE) >= 100
    values: list[bytes | None] = []
    for number, (_, value, _) in enumerate(CATALOGUE):
        values += [good_event(2 * number), value, good_event(2 * number + 1)]
    pipeline.send(values)
    pipeline.drain()

    rejected = {
        row["offset"]: (row["reason"], row["value"])
        for row in pipeline.query('SELECT "offset", reason, value FROM rejected_events')
    }
    scored = {
        row["offset"]: row["loan_id"]
        for row in pipeline.query('SELECT "offset", loan_id FROM scored_applications')
    }
    for number, (name, value, reason) in enumerate(CATALOGUE):
        at = 3 * number
        assert (scored[at], scored[at + 2]) == (str(2 * number), str(2 * number + 1)), name
        if reason is None:
            assert at + 1 in scored, name
        else:
            assert rejected[at + 1] == (reason, value), name
    assert len(scored) + len(rejected) == len(values)
    assert pipeline.unreconciled() == 0
