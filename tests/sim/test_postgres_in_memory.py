"""Postgres in memory is held to what it stands for: the same transactions there and at Postgres read and leave the same.

Which transactions, a seed says: every read that a drain makes, before and after it writes, and some are rolled back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import psycopg2
import pytest
from sqlalchemy.exc import IntegrityError

from core.decide import Decision, State, decide, may_demote
from core.model import IDS_PER_POSITION, MOVES_MAX, Command, Job, Reservation
from core.numbering import Incident
from core.queries import Queries
from core.service import _waitlist_needs
from core.store import Store, create_engine
from tests.sim.postgres_in_memory import Broken, MemoryStore
from tests.support.deciding import amend, cancel, configure, group, replay, reserve, turn
from tests.support.driving import SESSION
from tests.support.stack import Deployment

BATCHES = 60
PEOPLE = ("ana", "bo", "cy", "dee", "eve", "fay", "gus")
STOPPED = (Broken, IntegrityError, psycopg2.IntegrityError)
KINDS = ("reserve", "cancel", "group", "amend", "close", "reopen", "replay")


class RolledBack(Exception):
    """Ends a transaction."""


class Commands:
    """Random commands in seq order, in batches as a drain would make them."""

    def __init__(self, seed: int, sessions: list[int]) -> None:
        self.random = random.Random(seed)
        self._seqs = dict.fromkeys(sessions, 0)
        self.sent: list[Command] = []
        self._position = 1 - IDS_PER_POSITION  # of the last command, also where its batch was rolled back
        self._asked: dict[int, list[tuple[str, int]]] = {session: [] for session in sessions}  # who, and the id they would get

    def batch(self) -> list[Command]:
        """The next ones."""
        rng = self.random
        if rng.random() < 0.2:  # by itself, as the drain has it
            batch = [self._configure(rng.choice(sorted(self._seqs)))]
        else:
            batch = [self._command(rng.choice(sorted(self._seqs))) for _ in range(rng.randint(1, 6))]
        self.sent += batch
        return batch

    def take_back(self, batch: list[Command]) -> None:
        """They were not applied."""
        for command in batch:
            self._seqs[command.session_id] -= 1
            self.sent.remove(command)

    def _command(self, session: int) -> Command:
        rng = self.random
        self._seqs[session] += 1
        self._position += IDS_PER_POSITION
        seq, name = self._seqs[session], rng.choice(PEOPLE)
        kind = rng.choices(KINDS, (8, 5, 2, 4, 1, 2, 1))[0]
        if kind == "reserve":
            self._asked[session].append((name, self._position))
            return reserve(name, seq, session, rng.randint(1, 3))
        if kind == "cancel":
            return cancel(name, seq, session, seats=rng.choice((None, None, 1, 2)))
        if kind == "group":
            return group(seq, [(name, rng.randint(1, 2)) for name in rng.sample(PEOPLE, rng.randint(1, 3))], session)
        if kind == "replay" and (before := [c for c in self.sent if c.session_id == session]):
            return msgspec.structs.replace(replay(seq, session), replay_of=rng.choice(before).job_id)
        if kind == "amend" and self._asked[session]:
            who, position = rng.choice(self._asked[session])
            return amend(who, seq, position, session, name="Ana\tMaría", checked_in=rng.random() < 0.7)
        return turn("reopen" if kind in ("replay", "amend") else kind, seq, session)

    def _configure(self, session: int) -> Command:
        rng = self.random
        self._seqs[session] += 1
        self._position += IDS_PER_POSITION
        if rng.random() < 0.05:
            return turn("cancel_session", self._seqs[session], session)
        wishes = {"capacity": rng.randint(0, 8), "waitlist_capacity": rng.randint(0, 5), "closes_at": None}
        chosen = {name: value for name, value in wishes.items() if rng.random() < 0.6}
        return configure(self._seqs[session], session, **chosen, on_shrink=rng.choice(("refuse", "waitlist")))


def batch_of(store: Any, commands: list[Command], known: list[str], fails: bool) -> list[Any]:
    """What a drain does with a batch, and everything it reads in doing so; or None in the place of a time."""
    with store.batch(0) as batch:
        told: list[Any] = [timeless(batch.known(known))]
        loaded = batch.load(commands)
        sessions, live, positions = loaded.sessions, loaded.live, loaded.positions
        needs = _waitlist_needs(sessions, live, commands)
        windows = batch.waitlists(needs) if needs else {}
        state = State(sessions, live, windows)
        if may_demote(commands[0]):
            state.newest = {commands[0].session_id: batch.newest_confirmed(commands[0].session_id, MOVES_MAX)}
        positioned = [msgspec.structs.replace(c, position=p) for c, p in zip(commands, positions, strict=True)]
        decision = decide(state, positioned)
        batch.write(decision)
        told += [timeless(loaded.known), sessions, live, windows, state.newest, positions, decision]
        told.append(jobs_in_order(batch.jobs_of(decision.updated) if decision.updated else []))
        told.append(jobs_in_order(batch.jobs_touched_by([*known, *(c.job_id for c in commands)])))
        batch.record_incidents(0, [Incident("seq_gap", commands[0].session_id, {"first": 1, "last": 1})])
        if fails:
            raise RolledBack
    return told


def timeless(known: dict[str, Any]) -> dict[str, Any]:
    return {job_id: (msgspec.structs.replace(job, applied_at=0), seen) for job_id, (job, seen) in known.items()}


def jobs_in_order(jobs: list[Job]) -> list[Job]:
    return sorted({msgspec.structs.replace(job, applied_at=0) for job in jobs}, key=lambda job: job.id)


@pytest.fixture
def store(deployment: Deployment) -> Iterator[Store]:
    found = Store(create_engine(deployment.settings().database_url, 2))
    yield found
    found.dispose()


@pytest.fixture
def stand_in(store: Store) -> MemoryStore:
    """With the same sessions, and the same position next."""
    found = MemoryStore(lambda: int(time.time() * 1000))
    shape = {**SESSION, "capacity": 3, "waitlist_capacity": 3}
    created = [store.create_session({**shape, "waitlist_policy": policy}, "open") for policy in ("strict", "fill")]
    with store.batch(0) as batch:
        assert batch is not None
        loaded = batch.load([turn("close", 1, session) for session in created])
        found.sessions.update(loaded.sessions)
    found.position = loaded.positions[-1] + IDS_PER_POSITION
    return found


@pytest.mark.parametrize("seed", range(2))
def test_the_same_transactions_read_and_leave_the_same(
    deployment: Deployment, store: Store, stand_in: MemoryStore, seed: int
) -> None:
    commands = Commands(seed, sorted(stand_in.sessions))
    for number in range(BATCHES):
        known = commands.random.sample([c.job_id for c in commands.sent], min(3, len(commands.sent)))
        batch, fails = commands.batch(), commands.random.random() < 0.15
        told = []
        for side in (store, stand_in):
            with suppress(RolledBack):
                told.append(batch_of(side, batch, [*known, "00000000-0000-8000-8000-000000000000"], fails))
        if fails:
            commands.take_back(batch)
        else:
            assert told[1] == told[0], f"batch {number}"
    queries = Queries(create_engine(deployment.settings().database_url, 1))
    with queries.audit() as audit:
        assert sorted(stand_in.reservations.values(), key=by_id) == sorted(audit.reservations(), key=by_id)
        assert stand_in.sessions == {view.id: view.decided() for view in audit.sessions()}
        rows = [(row.job_id, row.seq, row.outcome, row.accepted_seq, row.position) for row in audit.ledger() if row.seq]
    held = [(*key, row.verdict) for key, row in sorted(stand_in.by_seq.items())]
    assert [(v.command.job_id, seq, v.outcome, v.command.accepted_seq, v.command.position) for _, seq, v in held] == rows
    assert deployment.sql("SELECT count(*) FROM incidents") == [(len(stand_in.incidents),)]


def by_id(row: Reservation) -> int:
    return row.id


def twice(commands: list[Command]) -> list[Command]:
    return [msgspec.structs.replace(command, seq=command.seq + 2) for command in commands]


def once_more(commands: list[Command]) -> list[Command]:
    return [reserve(f"other{command.seq}", command.seq, command.session_id) for command in commands]


@pytest.mark.parametrize("again", [twice, once_more], ids=["the same job", "the same seq"])
def test_the_ledgers_keys_stop_what_was_applied(
    store: Store, stand_in: MemoryStore, again: Callable[[list[Command]], list[Command]]
) -> None:
    session = min(stand_in.sessions)
    first = [reserve("ana", 1, session), cancel("ana", 2, session)]
    for side in (store, stand_in):
        batch_of(side, first, [], fails=False)
        with pytest.raises(STOPPED, match=r"ledger|jobs_"):
            batch_of(side, again(first), [], fails=False)


def write(store: Any, decision: Decision) -> None:
    with store.batch(0) as batch:
        batch.load([turn("close", 1, 1)])
        batch.write(decision)


@pytest.mark.parametrize("reserved", [-1, 4])
def test_a_counter_out_of_range_is_stopped(store: Store, stand_in: MemoryStore, reserved: int) -> None:
    for side in (store, stand_in):
        session = msgspec.structs.replace(stand_in.sessions[1], reserved=reserved)
        with pytest.raises(STOPPED, match=r"never.overbooked"):
            write(side, Decision((), {session.id: session}, (), ()))


def test_a_second_live_reservation_of_a_person_is_stopped(store: Store, stand_in: MemoryStore) -> None:
    session = min(stand_in.sessions)
    for side in (store, stand_in):
        batch_of(side, [reserve("ana", 1, session)], [], fails=False)
        twin = Reservation(10**6, session, "Ana", "a", "ana@example.org", 1, "confirmed", 2, "open", 1)
        with pytest.raises(STOPPED, match=r"one.live"):
            write(side, Decision((), {}, (twin,), ()))


def test_a_partition_is_one_transactions_and_what_it_writes_its_own_until_it_commits(store: Store, stand_in: MemoryStore) -> None:
    session = min(stand_in.sessions)
    command = reserve("ana", 1, session)
    for side in (store, stand_in):
        with side.batch(0) as held:
            with side.batch(0) as second:
                assert second is None
            loaded = held.load([command])
            (position,) = loaded.positions
            held.write(decide(State(loaded.sessions, {}), [msgspec.structs.replace(command, position=position)]))
            with side.batch(1) as other:
                assert other.known([command.job_id]) == {}
        with side.batch(1) as other:
            assert list(other.known([command.job_id])) == [command.job_id]
            assert [r.seats for r in other.load([command]).live.values()] == [1]
