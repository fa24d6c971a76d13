"""Forgetting an applicant: every row and byte that carries a loan, in Postgres and in the lake; the
record has no name."""

import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import psycopg

from credit_risk_dagster.domain.loans import events_of, loan_of, names, normal_id
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.lake_forget import LakePlace, finish_forgettings, loan_places
from credit_risk_dagster.pipelines.lake_history import tables
from resources.lake import Lake, LakeRefused, LakeUnavailable
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse
from resources.postgres.forgetting import Forgetting, Forgettings, Place
from resources.postgres.rejected import RejectedEvents
from resources.postgres.sources import Sources

_PATIENCE_SECONDS = 20


class ForgetRefused(PlatformError):
    """What was asked names no loan, or would name it in the record."""


class ForgetIncomplete(PlatformError):
    """Postgres forgot, and the lake could not be asked."""


def forget(
    warehouse: Warehouse,
    lake: Lake,
    loan_id: str,
    *,
    by: str,
    why: str,
    dry_run: bool = False,
    log: logging.Logger,
) -> Forgetting | None:
    """Forget the applicant of a loan.

    Safe to call again, also after one that was killed: it deletes what there is.

    Args:
        loan_id: as a producer may write it.
        by, why: who does it, and the request's own name: kept for ever, so without the loan's id.
        dry_run: look, and delete nothing.
        log: what was done, without the id.

    Returns:
        What went, or would; None when nothing of the loan is stored. Its `lake_rows` are None when
        another run archives, which then forgets for it.

    Raises:
        ForgetRefused: the id is none, or `by` or `why` has it.
        ForgetIncomplete: Postgres forgot all the same; call again when S3 answers.
        LakeBusy, LakeDamaged, ObjectMissing: the same.
        RedriveRaced, TablesBusy, WarehouseUnavailable, NotMigrated: as their names say.
    """
    wanted = normal_id(loan_id)
    if wanted is None:
        raise ForgetRefused("the loan's id is empty or no id: give it as the topic has it")
    _require_record(by, why, wanted)
    with warehouse.session("forget") as connection:
        rejected = RejectedEvents(connection)
        rejected.lock_redrive()  # what is looked for here must not move meanwhile
        places = set(_rejected_of(wanted, rejected))
        return _forget(connection, lake, wanted, places, by, why, dry_run, log)


def forget_at(
    warehouse: Warehouse, lake: Lake, place: Place, *, by: str, why: str, log: logging.Logger
) -> Forgetting | None:
    """Forget the applicant whose application has this place in the stream: who asks for it need
    not name the loan, where what was asked is kept. Otherwise as `forget`.

    An event without a loan's id is forgotten alone.
    """
    _require_record(by, why, None)
    with warehouse.session("forget") as connection:
        rejected = RejectedEvents(connection)
        rejected.lock_redrive()
        loan_id, there = _found_at(connection, rejected, place)
        if loan_id is not None:
            _require_record(by, why, loan_id)
        places = {*there, *(_rejected_of(loan_id, rejected) if loan_id else ())}
        return _forget(connection, lake, loan_id, places, by, why, False, log)


def _forget(
    connection: psycopg.Connection[Any],
    lake: Lake,
    loan_id: str | None,
    places: set[Place],
    by: str,
    why: str,
    dry_run: bool,
    log: logging.Logger,
) -> Forgetting | None:
    known = {(source.topic, source.key): source.source_id for source in Sources(connection).all()}
    failure: PlatformError | None = None
    found: list[tuple[str, LakePlace]] = []
    try:
        topics = {topic for topic, _ in known} if loan_id else set()
        found = [(topic, at) for topic in topics for at in loan_places(lake, topic, loan_id or "")]
    except (LakeUnavailable, LakeRefused) as error:
        failure = error
    in_lake = {
        (known[topic, key], partition, at)
        for topic, (key, partition, at) in found
        if (topic, key) in known
    }
    forgettings = Forgettings(connection)
    everywhere = sorted(places | in_lake)
    done = forgettings.forget(loan_id, everywhere, by, why, dry_run=dry_run)
    if done is None and in_lake:  # Postgres forgot it before
        done = forgettings.of(min(in_lake))
    if dry_run:
        done = done and replace(done, lake_rows=len(found))
    elif not failure:
        _forget_in_lake(connection, lake, found, log)
        done = done and replace(done, lake_rows=forgettings.lake_rows(done.forgetting_id))
    log.info("%s", told(done, dry_run))
    if failure:
        raise ForgetIncomplete(
            f"{told(done, dry_run)}, but the lake was not looked through: {failure}. "
            "Forget again when it answers"
        ) from failure
    return done


def _forget_in_lake(
    connection: psycopg.Connection[Any],
    lake: Lake,
    found: Collection[tuple[str, LakePlace]],
    log: logging.Logger,
) -> None:
    """Delete from the lake, unless another run archives: that one does it at its end."""
    topics = {source.topic for source in Sources(connection).all()}
    uris = sorted(tables(lake, topic)["raw_events"].uri for topic in topics)
    ledger = ArchiveLedger(connection)
    if all(ledger.try_lock(uri, _PATIENCE_SECONDS) for uri in uris):
        finish_forgettings(connection, lake, found, log=log)


def told(done: Forgetting | None, dry_run: bool = False) -> str:
    """What was found and done, in a line without the loan."""
    if done is None:
        return "nothing is stored of the loan"
    counts = (
        counted(done.scored, "scored row"),
        counted(done.rejected, "rejected event"),
        counted(done.reviews, "review"),
        counted(done.mentions, "mention in other notes", "mentions in other notes"),
        counted(done.outcomes, "outcome"),
    )
    found = ", ".join(counts)
    rows = f", and {counted(done.lake_rows, 'row')} of the lake" if done.lake_rows else ""
    if dry_run:
        return f"{found} would go{rows}"
    later = "; the lake's rows go with the next run that archives"
    told = f"{found} are gone, forgetting {done.forgetting_id}{rows}"
    return told + later if done.lake_rows is None else told


def _require_record(by: str, why: str, loan_id: str | None) -> None:
    for what, text, limit in (("--by", by, 200), ("--why", why, 2000)):
        if not 0 < len(text.strip()) <= limit:
            raise ForgetRefused(f"{what} has {len(text.strip())} characters: it needs 1 to {limit}")
        if loan_id is not None and names(loan_id, text):
            raise ForgetRefused(
                f"{what} has the loan's id in it, and is kept for ever: name the request instead"
            )


def _rejected_of(loan_id: str, rejected: RejectedEvents) -> Iterator[Place]:
    """Where the rejected events are that carry the loan: each is looked into, as no index can."""
    after = (-1, -1, -1)
    while events := rejected.page(after=after):
        after = events[-1].coordinates
        for at in events_of(loan_id, [e.value for e in events], [e.key for e in events]):
            yield events[at].coordinates


def _found_at(
    connection: psycopg.Connection[Any], rejected: RejectedEvents, place: Place
) -> tuple[str | None, list[Place]]:
    """The loan of the event at a place, as far as it says, and the place, if there is any."""
    if scored := Forgettings(connection).scored_at(place):
        return scored[0], [place]
    for event in rejected.each(partition=place[1], offset=place[2]):
        if event.coordinates == place:
            return loan_of(event.value, event.key), [place]
    return None, []
