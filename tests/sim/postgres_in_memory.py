"""Postgres in memory: a `StorePort` with transactions, their locks, and the constraints that stop a wrong one at its commit.

Time is what the test says. `at(place)` is called where another process may come in between: what it raises is the fault,
and what it returns, if anything, is raised after the commit: a lost reply. test_stand_ins.py holds it to Postgres's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from core.crashpoints import reach
from core.decide import Decision, PersonKey, newest_confirmed
from core.errors import Unavailable
from core.model import (
    CANCELLED,
    GROUP,
    IDS_PER_POSITION,
    JOB_FORMAT,
    WAITLISTED,
    Command,
    Job,
    JobReservation,
    Reservation,
    Session,
    Verdict,
    people_of,
)
from core.numbering import Known, Loaded, known_from
from core.waitlist import WaitlistNeed, Window

At = Callable[[str], BaseException | None]


class MemoryStore:
    """What is committed, the locks that transactions hold, and the sequence of positions."""

    def __init__(self, now_ms: Callable[[], int], at: At = lambda place: None) -> None:
        self.sessions: dict[int, Session] = {}
        self.reservations: dict[int, Reservation] = {}
        self.jobs: dict[str, Row] = {}
        self.by_seq: dict[tuple[int, int], Row] = {}
        self.live: dict[PersonKey, int] = {}
        self.incidents: list[Any] = []
        self.unreadable: list[Any] = []
        self.locked: dict[Any, Transaction] = {}  # partitions, and sessions as ("session", id)
        self.position = 1
        self.now_ms = now_ms
        self.at = at

    @contextmanager
    def batch(self, *partitions: int, ahead: Sequence[Command] = ()) -> Iterator[Transaction | None]:
        """See core.store.Store.batch."""
        self.at("lock")
        free = tuple([partition for partition in partitions if self.may_lock(partition)])
        if not free:
            yield None
            return
        transaction = Transaction(self, free)
        self.locked.update(dict.fromkeys(free, transaction))
        try:
            if ahead and len(free) == len(partitions):
                transaction.ahead = transaction.load(ahead)
            yield transaction
            lost = self.at("commit")
            transaction.commit()
            if lost is not None:
                raise lost
        finally:
            transaction.end()

    def may_lock(self, partition: int) -> bool:
        """Whether nobody holds the partition."""
        return partition not in self.locked

    def has(self, row: Row) -> bool:
        """Whether the row would break the ledger's keys."""
        return row.verdict.command.job_id in self.jobs or _seq(row) in self.by_seq

    def job(self, row: Row, written: Transaction | None = None) -> Job:
        """A ledger row as the job shown, as a transaction sees it; see core.store.JOB_COLUMNS."""
        c, verdict, seen = row.verdict.command, row.verdict, written or self
        session = seen.sessions[c.session_id]

        def shown(r: Reservation) -> JobReservation:
            return JobReservation(r.id, r.session_id, r.status if session.cancelled_at is None else CANCELLED, r.seats)

        one = seen.reservations.get(verdict.reservation_id or 0)
        party = [r for r in seen.reservations.values() if c.kind == GROUP and (r.session_id, r.seq) == (c.session_id, c.seq)]
        return Job(
            JOB_FORMAT, c.job_id, c.kind, c.session_id, c.client, c.body_hash, c.seq, c.accepted_at, verdict.outcome,
            row.applied_at, c.accepted_seq is not None, one and shown(one), tuple(shown(r) for r in sorted(party, key=_id)),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger."""

    verdict: Verdict
    applied_at: int


class Broken(Exception):
    """A constraint of the database stopped a transaction."""


class Transaction:
    """A `BatchPort`; what it writes is seen by itself only, until it commits. See core.store.Batch."""

    def __init__(self, store: MemoryStore, partitions: tuple[int, ...]) -> None:
        self._store = store
        self.partitions = partitions
        self.ahead: Loaded | None = None
        self._ended = False
        self._decisions: list[Decision] = []
        self._rows: list[Row] = []
        self._incidents: list[Any] = []
        self._unreadable: list[Any] = []
        self.sessions, self.reservations = store.sessions, store.reservations
        self.applied_at = store.now_ms()

    def load(self, commands: Sequence[Command]) -> Loaded:
        """As committed; the people behind the locks of the sessions."""
        known = self.known([c.job_id for c in commands])
        sessions = self._lock_sessions(c.session_id for c in commands)
        people = [(c.session_id, email_key) for c in commands for email_key in people_of(c.arguments)]
        live = {key: self.reservations[self._store.live[key]] for key in people if key in self._store.live}
        return Loaded(known, sessions, live, self._positions(len(commands)))

    def _lock_sessions(self, ids: Iterable[int]) -> dict[int, Session]:
        """Waits for whoever holds one of them."""
        wanted = sorted(set(ids) & self.sessions.keys())
        for session_id in wanted:
            while self._store.locked.setdefault(("session", session_id), self) is not self:
                self._store.at("wait")
        self._check()
        return {session_id: self._store.sessions[session_id] for session_id in wanted}

    def known(self, job_ids: Sequence[str]) -> dict[str, tuple[Job, Known]]:
        """As committed."""
        self._check()
        rows = [self._store.jobs[job_id] for job_id in job_ids if job_id in self._store.jobs]
        return {row.verdict.command.job_id: (self._store.job(row, self), known_from(row.verdict.command)) for row in rows}

    def waitlists(self, needs: Iterable[WaitlistNeed]) -> dict[int, Window]:
        """Of each party size the first, as many as may be needed."""
        self._check()
        return {need.session_id: need.window(self._first(need)) for need in needs}

    def _first(self, need: WaitlistNeed) -> Iterator[Reservation]:
        loaded: dict[int, int] = {}
        waiting = (r for r in self.reservations.values() if (r.session_id, r.status) == (need.session_id, WAITLISTED))
        for row in sorted(waiting, key=lambda r: r.rank or 0):
            loaded[row.seats] = loaded.get(row.seats, 0) + 1
            if loaded[row.seats] <= need.limit(row.seats):
                yield row

    def newest_confirmed(self, session_id: int, limit: int) -> list[Reservation]:
        """As committed."""
        self._check()
        return newest_confirmed(r for r in self.reservations.values() if r.session_id == session_id)[:limit]

    def _positions(self, count: int) -> list[int]:
        """From a sequence, which no rollback puts back."""
        first, self._store.position = self._store.position, self._store.position + count * IDS_PER_POSITION
        return list(range(first, self._store.position, IDS_PER_POSITION))

    def write(self, decision: Decision) -> None:
        """Seen by this transaction from here on."""
        self.reservations = {**self.reservations, **{r.id: r for r in (*decision.updated, *decision.inserted)}}
        reach("mid_transaction")
        self._check()
        self._decisions.append(decision)
        self._rows += [Row(verdict, self.applied_at) for verdict in decision.verdicts]
        self.sessions = {**self.sessions, **decision.sessions}

    def jobs_of(self, reservations: Sequence[Reservation]) -> list[Job]:
        """As they read now."""
        self._check()
        rows = {**self._store.by_seq, **{_seq(row): row for row in self._rows}}
        places = [(r.session_id, r.seq) for r in reservations]
        return [self._store.job(rows[place], self) for place in places if place in rows]

    def jobs_touched_by(self, job_ids: Sequence[str]) -> list[Job]:
        """As they read now."""
        self._check()
        rows = {**self._store.jobs, **{row.verdict.command.job_id: row for row in self._rows}}
        effects = [effect for job_id in job_ids if job_id in rows for effect in rows[job_id].verdict.effects]
        touched = [self.reservations[e.reservation_id] for e in effects if e.reservation_id in self.reservations]
        return self.jobs_of(list({(r.session_id, r.seq): r for r in touched}.values()))

    def record_incidents(self, _partition: int, incidents: Sequence[Any]) -> None:
        """With the commit."""
        self._incidents += incidents

    def set_aside(self, _partition: int, unreadable: Sequence[Any]) -> None:
        """With the commit."""
        self._unreadable += unreadable

    def commit(self) -> None:
        """All of it, or nothing where a constraint is broken."""
        self._check()
        store = self._store
        inserted = [r for decision in self._decisions for r in decision.inserted]
        updated = [r for decision in self._decisions for r in decision.updated]
        left = {(r.session_id, r.email_key) for r in updated if r.status == CANCELLED}
        came = [(r.session_id, r.email_key) for r in inserted if r.status != CANCELLED]
        if any(store.has(row) for row in self._rows):
            raise Broken("ledger keys")
        if len(set(came)) < len(came) or any(key in store.live and key not in left for key in came):
            raise Broken("one live reservation a person")
        if not all(0 <= s.reserved <= s.capacity for s in self.sessions.values()):
            raise Broken("never overbooked")
        for row in self._rows:
            store.jobs[row.verdict.command.job_id] = store.by_seq[_seq(row)] = row
        for key in left:
            store.live.pop(key, None)
        store.live |= {(r.session_id, r.email_key): r.id for r in inserted if r.status != CANCELLED}
        store.reservations |= {r.id: r for r in (*updated, *inserted)}
        store.sessions |= {s.id: s for decision in self._decisions for s in decision.sessions.values()}
        store.incidents += self._incidents
        store.unreadable += self._unreadable

    def end(self) -> None:
        """Rolled back, unless it was committed; its locks go with it."""
        self._ended = True
        for name in [name for name, holder in self._store.locked.items() if holder is self]:
            del self._store.locked[name]

    def _check(self) -> None:
        if self._ended:
            raise Unavailable("Postgres has ended this transaction.")


def _seq(row: Row) -> tuple[int, int]:
    return row.verdict.command.session_id, row.verdict.command.seq


def _id(row: Reservation) -> int:
    return row.id
