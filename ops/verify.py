"""`aforo verify`: replays the ledger through `decide()` and compares the result with every table, and with Redis.

It reads one snapshot, so it may run under traffic, and streams it, so that only one session's live reservations are in
memory at a time. The rows a replay leaves are compared by a sum of their hashes; only a session that differs is read again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from core.decide import Decision, State, decide
from core.entries import read_head, told_of
from core.errors import Unavailable
from core.mailbox import connect, key
from core.model import (
    ARGUMENTS_OF,
    CANCELLED,
    CREATE,
    QUARANTINED,
    Command,
    Reservation,
    Session,
    Verdict,
    partition_of_session,
)
from core.operations import Verified, note_verified
from core.queries import Audit, LedgerRow, Queries, SessionView
from core.replay import complete, evolve
from core.store import create_engine

SHOWN_DIFFERENCES = 20
SHOWN_RENUMBERED = 20
REPLAY_CHUNK = 1000
REDIS_CHUNK = 500
MASK = 2**64 - 1
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Report:
    """What was looked at and what differs. `differences` holds the first ones, in words, and `notes` the first commands that
    were renumbered, which is no difference but tells of lost data."""

    sessions: int = 0
    jobs: int = 0
    reservations: int = 0
    gaps: int = 0
    renumbered: int = 0
    replays: int = 0
    quarantined: int = 0
    pruning: int = 0
    compared_with_redis: int = 0
    difference_count: int = 0
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing differs, and no accepted command is missing."""
        return self.difference_count == 0

    def renumber(self, row: LedgerRow) -> None:
        """Note one command that was applied under another seq than it was accepted with."""
        self.renumbered += 1
        if len(self.notes) < SHOWN_RENUMBERED:
            was = f"accepted as seq {row.accepted_seq}, which another command had"
            self.notes.append(f"session {row.session_id}: seq {row.seq} (job {row.job_id}) was {was}")

    def differs(self, what: str) -> None:
        """Note one difference."""
        self.difference_count += 1
        if len(self.differences) < SHOWN_DIFFERENCES:
            self.differences.append(what)


def run(database_url: str, redis_url: str | None, progress: Progress | None = None) -> Report:
    """Verify a whole database, and its Redis when there is one. `progress(done, all)` counts ledger rows.

    Raises core.errors.Unavailable.
    """
    started = time.monotonic()
    report = Report()
    engine = create_engine(database_url, 2)
    queries = Queries(engine)
    try:
        with queries.audit() as audit:
            rows = _compare_tables(audit, report, progress)
        if redis_url:
            _compare_redis(queries, redis_url, rows, report)
    finally:
        engine.dispose()
    report.seconds = time.monotonic() - started
    return report


def note(report: Report, redis_url: str) -> None:
    """Keep the result where the console shows it; what cannot be kept is on the screen all the same."""
    shown = Verified(
        round(time.time() * 1000),
        report.ok,
        report.sessions,
        report.jobs,
        report.reservations,
        report.difference_count,
        tuple(report.differences),
        round(report.seconds, 2),
    )
    with suppress(Unavailable):
        note_verified(redis_url, shown)


def _compare_tables(audit: Audit, report: Report, progress: Progress | None) -> list[tuple[int, int]]:
    _, all_jobs, _ = audit.counts()
    report.pruning = audit.pruning()
    for hour, kept, counted in audit.differing_totals():
        report.differs(f"the total of sessions bookable until the hour of {hour} is {kept}, there are {counted}")
    ledger = _Grouped(audit.ledger(), lambda row: row.session_id)
    reservations = _Grouped(audit.reservations(), lambda row: row.session_id)
    versions: list[tuple[int, int]] = []
    for session in audit.sessions():
        for orphan in itertools.chain(ledger.before(session.id), reservations.before(session.id)):
            report.differs(f"a row of session {orphan}, which does not exist")
        replay = _Replay(session, report)
        replay.run(ledger.of(session.id), progress, all_jobs)
        replay.compare(reservations.of(session.id), partial(audit.reservations, session.id))
        report.sessions += 1
        versions.append((session.id, session.version))
    for orphan in itertools.chain(ledger.before(None), reservations.before(None)):
        report.differs(f"a row of session {orphan}, which does not exist")
    return versions


class _Grouped:
    """A stream of rows ordered by session, read group by group beside the stream of sessions."""

    def __init__(self, rows: Iterator[Any], session_of: Callable[[Any], int]) -> None:
        self._rows = rows
        self._session_of = session_of
        self._next = next(rows, None)

    def before(self, session_id: int | None) -> Iterator[int]:
        """Skip rows of sessions before this one: their ids, which nobody asked for. None: all that are left."""
        while self._next is not None and (session_id is None or self._session_of(self._next) < session_id):
            yield self._session_of(self._next)
            self._next = next(self._rows, None)

    def of(self, session_id: int) -> Iterator[Any]:
        """The rows of this session."""
        while self._next is not None and self._session_of(self._next) == session_id:
            yield self._next
            self._next = next(self._rows, None)


class _Replay:
    """One session's ledger, decided again."""

    def __init__(self, session: SessionView, report: Report) -> None:
        self._stored = session.decided()
        self._report = report
        self._state: State | None = None
        self._sum = 0
        self._last_seq = -1
        self._last_position = -1

    def run(self, rows: Iterator[LedgerRow], progress: Progress | None, all_jobs: int) -> None:
        """Replay the rows in seq order, comparing each verdict with what the ledger says it was."""
        while chunk := list(itertools.islice(rows, REPLAY_CHUNK)):
            self._report.jobs += len(chunk)
            self._follow_order(chunk)
            if self._state is None:
                self._begin(chunk.pop(0))
            if self._state is not None and chunk:
                commands = [_command(row) for row in chunk]
                decision = decide(complete(self._state, commands), commands)
                for row, verdict in zip(chunk, decision.verdicts, strict=True):
                    self._compare_verdict(row, verdict)
                self._keep(decision)
                evolve(self._state, decision)
            if progress is not None:
                progress(self._report.jobs, all_jobs)

    def compare(self, stored: Iterable[Reservation], again: Callable[[], Iterator[Reservation]]) -> None:
        """Compare what the replay leaves with the session's row and its reservations."""
        name = f"session {self._stored.id}"
        found_sum = found_seats = found_waiting = 0
        for row in map(self._as_it_counts, stored):
            self._report.reservations += 1
            found_sum = (found_sum + _hash(row)) & MASK
            found_seats += row.seats if row.status == "confirmed" else 0
            found_waiting += row.status == "waitlisted"
        if found_seats != self._stored.reserved:
            self._report.differs(f"{name}: reserved is {self._stored.reserved}, its confirmed rows hold {found_seats}")
        if found_waiting != self._stored.waiting:
            self._report.differs(f"{name}: waiting is {self._stored.waiting}, of its rows {found_waiting} are waitlisted")
        if self._stored.reserved > self._stored.capacity:
            self._report.differs(f"{name}: overbooked, {self._stored.reserved} of {self._stored.capacity}")
        if self._state is None:
            self._report.differs(f"{name}: its ledger does not begin with its creation")
            return
        replayed, found = self._state.sessions[self._stored.id], self._stored
        for attribute in Session.__struct_fields__:
            has, replays = getattr(found, attribute), getattr(replayed, attribute)
            if has != replays and attribute != "version":  # which descriptive changes raise too
                self._report.differs(f"{name}: {attribute} is {has}, the replay gives {replays}")
        if found_sum != self._sum:
            self._report.differs(f"{name}: its reservations are not those of the replay{self._first_difference(again())}")

    def _follow_order(self, rows: list[LedgerRow]) -> None:
        for row in rows:
            if row.seq != self._last_seq + 1:
                self._report.gaps += 1
                missing = f"{self._last_seq + 1} to {row.seq - 1}"
                self._report.differs(f"session {row.session_id}: accepted commands are missing, seq {missing}")
            if row.position <= self._last_position:
                self._report.differs(f"session {row.session_id}: seq {row.seq} was applied before its predecessor")
            self._last_seq, self._last_position = row.seq, row.position
            if row.accepted_seq is not None:
                self._report.renumber(row)
            self._report.replays += row.kind == "replay"
            self._report.quarantined += row.outcome == QUARANTINED

    def _begin(self, row: LedgerRow) -> None:
        if row.kind != CREATE or row.seq != 0:
            return
        session = Session(id=row.session_id, **row.arguments)
        self._state = State({session.id: session}, {})

    def _compare_verdict(self, row: LedgerRow, verdict: Verdict) -> None:
        effects = msgspec.to_builtins(verdict.effects)
        was = (row.outcome, [list(effect) for effect in row.effects], row.reservation_id)
        now = (verdict.outcome, [list(effect) for effect in effects], verdict.reservation_id)
        if was != now:
            self._report.differs(f"session {row.session_id}, seq {row.seq}: the ledger says {was}, the replay {now}")

    def _keep(self, decision: Decision) -> None:
        assert self._state is not None  # noqa: S101  only called after _begin
        for row in decision.updated:
            before = self._state.live[row.session_id, row.email_key]
            self._sum = (self._sum - _hash(before) + _hash(row)) & MASK
        for row in decision.inserted:
            self._sum = (self._sum + _hash(row)) & MASK
        for session in decision.configured:
            self._keep_cancelled(session, decision)

    def _keep_cancelled(self, session: Session, decision: Decision) -> None:
        """A session that this decision cancelled takes all that was live in it along."""
        assert self._state is not None  # noqa: S101  only called after _begin
        if session.cancelled_at is None or self._state.sessions[session.id].cancelled_at is not None:
            return
        live = {row.id: row for row in self._state.live.values()}
        live |= {row.id: row for row in (*decision.updated, *decision.inserted)}
        for row in live.values():
            if row.status != CANCELLED:
                self._sum = (self._sum - _hash(row) + _hash(_cancelled_with(row, session))) & MASK

    def _as_it_counts(self, row: Reservation) -> Reservation:
        """The rows of a cancelled session are cancelled with it, whether or not they say so yet."""
        return row if row.status == CANCELLED else _cancelled_with(row, self._stored)

    def _first_difference(self, stored: Iterator[Reservation]) -> str:
        """Words for the first live reservation that differs; one that was cancelled since is not kept for this."""
        assert self._state is not None  # noqa: S101  only called after _begin
        live = {r.id: r for r in self._state.live.values()}
        for row in map(self._as_it_counts, stored):
            expected = live.pop(row.id, None)
            if row.status != "cancelled" and expected != row:
                return f": number {row.id} differs" if expected else f": number {row.id} should not be live"
        return f": number {min(live)} is missing" if live else ": one that was cancelled differs"


def _compare_redis(queries: Queries, redis_url: str, versions: list[tuple[int, int]], report: Report) -> None:
    client = connect(redis_url)
    partitions = queries.partitions()
    for start in range(0, len(versions), REDIS_CHUNK):
        chunk = versions[start : start + REDIS_CHUNK]
        pipeline = client.pipeline(transaction=False)
        for session_id, _ in chunk:
            pipeline.mget(_head_key(session_id, partitions))
        for (session_id, version), (found,) in zip(chunk, pipeline.execute(), strict=True):
            if found is None or read_head(found).version < version:
                continue  # not cached, or a publication on its way
            difference = _redis_difference(queries, client, session_id, partitions)
            if difference and (difference := _redis_difference(queries, client, session_id, partitions)):
                report.differs(difference)
            report.compared_with_redis += 1


def _redis_difference(queries: Queries, client: Any, session_id: int, partitions: int) -> str | None:
    """Row before head: a head of the same version must agree with it. And after it: none may be ahead of its row."""
    row = queries.session(session_id)
    (found,) = client.mget(_head_key(session_id, partitions))
    if row is None or found is None:
        return None
    head = read_head(found)
    if head.version > row.version:
        row = queries.session(session_id)
        if row is None or head.version <= row.version:
            return None
        heard, seq = head.now.last_seq, row.last_seq
        return f"session {session_id}: Redis has heard of seq {heard}, Postgres is at {seq}: it has gone back"
    if head.version != row.version:
        return None
    stored = told_of(row.decided())
    return None if head.now == stored else f"session {session_id}: Redis has {head.now}, Postgres {stored}"


def _head_key(session_id: int, partitions: int) -> str:
    return key(partition_of_session(session_id, partitions), f"s:{session_id}")


def _command(row: LedgerRow) -> Command:
    shape = ARGUMENTS_OF.get(row.kind)
    return Command(
        job_id=row.job_id,
        session_id=row.session_id,
        seq=row.seq,
        kind=row.kind,
        arguments=msgspec.convert(row.arguments, shape) if shape else None,
        client=row.client,
        body_hash=row.body_hash,
        accepted_at=row.accepted_at,
        position=row.position,
        accepted_seq=row.accepted_seq,
        quarantined=row.outcome == QUARANTINED,
    )


def _cancelled_with(row: Reservation, session: Session) -> Reservation:
    if session.cancelled_at is None:
        return row
    return msgspec.structs.replace(row, status=CANCELLED, cancelled_at=session.cancelled_at, rank=None)


def _hash(row: Reservation) -> int:
    return hash(msgspec.structs.astuple(row)) & MASK
