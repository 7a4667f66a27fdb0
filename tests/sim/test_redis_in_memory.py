"""Redis in memory is held to what it stands for: the same calls there and at Valkey have the same answers, and leave the same.

Which calls, a seed says. Entry ids and times differ, and are told by their order.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis

from core import door, mailbox
from core.door import Door, MaybeForgotten, draft_job
from core.entries import decode_job, encode_all
from core.lots import Lot, Wanted
from core.mailbox import BATCH, ONE, PORTION, Mailbox, Publication, connect_async, key
from core.model import RESERVE, Job, JobReservation, ReserveArguments, Session, keyed_job_id
from core.numbering import Lift
from core.projections import Projections
from tests.sim.redis_in_memory import HEAD_FIELDS, AsyncMemoryRedis, MemoryRedis
from tests.support.stack import Deployment
from tests.support.waiting import until

SESSIONS = (1, 2, 3)
STEPS = 400
LOOK_EVERY = 4
MOST_WAITING = 12
TTL_SECONDS = 1000
NEAR_SECONDS = 5  # expiries are the same when they are no further apart
PUBLISH_LIMITS = (2, 256)
ARGUMENTS = ReserveArguments("Ana", "ana@example.org", "ana@example.org")


class Side:
    """One of the two, and the calls that are made to both."""

    def __init__(self, client: Any, async_client: Any, found: Callable[[], dict[str, tuple[Any, int | None]]]) -> None:
        """`found()`: every key with its value and the seconds it has left."""
        self.rung: list[int] = []
        self.went_back: list[tuple[int, int, int]] = []
        self.mailbox = Mailbox(client, TTL_SECONDS)
        self._found = found
        self._entries: list[str] = []  # ids in the order of their appearance
        self._door = Door(async_client, 1, MOST_WAITING, self.rung.append, lambda *told: self.went_back.append(told))
        self._door._who = "api"
        self._projections = Projections(async_client, 1, TTL_SECONDS)
        self._loop = asyncio.new_event_loop()
        self._first_change = 0

    def close(self) -> None:
        """The loop."""
        self._loop.close()

    def accept(self, jobs: list[Job], keyed: bool = False) -> list[Any]:
        """A group at the door."""
        answers = self._loop.run_until_complete(self._accept(jobs, keyed))
        self.look()  # at the new entries
        return [type(a) if isinstance(a, Exception) else (timeless(a.job), a.known, a.depth, a.pace, a.head) for a in answers]

    def accept_mixed(self, together: list[Job], alone: list[Job]) -> list[Any]:
        """A group of some who came together, and behind them others."""
        found = self._loop.run_until_complete(self._accept_mixed(together, alone))
        self.look()
        return [(timeless(a.job), a.known, a.depth, a.pace, a.head) for a in found]

    async def _accept_mixed(self, together: list[Job], alone: list[Job]) -> list[Any]:
        first = self._door.accept_all(lot_of(together))
        many, *others = await asyncio.gather(first, *(self._door.accept(job, ARGUMENTS) for job in alone))
        return [*many, *others]

    async def _accept(self, jobs: list[Job], keyed: bool) -> list[Any]:
        return await asyncio.gather(*(self._door.accept(job, ARGUMENTS, keyed) for job in jobs), return_exceptions=True)

    def put_head(self, session: Session, first_accepted_ms: int = 0) -> bool:
        """As the API loads one."""
        return self._loop.run_until_complete(self._projections.put_head(session, first_accepted_ms))

    def take(self, limit: int, only_free: bool, behind: int | None) -> Any:
        """As a drain reads, perhaps behind an entry that it takes for its mark."""
        marks = {} if behind is None else {0: self._entries[behind]}
        taken = self.mailbox.take([0], limit, only_free, marks)[0]
        assert not taken.unreadable
        entries = [(self.number(e.stream_id), msgspec.structs.replace(e.command, accepted_at=0)) for e in taken.entries]
        return self.number(taken.suspect), self.number(taken.near), entries, taken.way

    def publish(
        self, rows: list[tuple[int, Job | None]], sessions: Any, lifts: Any, earlier: Any, over: int | None, *news: Any,
        around: tuple[int, ...] = (),
    ) -> Any:  # fmt: skip
        """As a drain publishes, perhaps with a look around; entries by number, also the one that its mark names."""
        mark = "" if over is None else self._entries[over]
        found = [(self._entries[number], job) for number, job in rows]
        left, seen = self.mailbox.publish({0: Publication(found, sessions, lifts, earlier, mark, *news)}, around)
        return left, [(sight.partition, sight.waiting, sight.is_taken) for sight in seen]

    def name(self, number: int) -> int:
        """As a drain names."""
        return self.mailbox.name(0, self._entries[number])

    def narrow(self, number: int) -> None:
        """As a drain marks a portion."""
        self.mailbox.narrow(0, self._entries[number])

    def forget_total(self) -> None:
        """As if it had been accepted by a state that is lost."""
        self.mailbox._client.delete(key(0, "total:api"))

    def number(self, entry: str) -> int:
        """An entry by the order of its appearance."""
        return self._entries.index(entry) if entry else -1

    def look(self) -> dict[str, Any]:
        """All there is, but for expiries; entries by number."""
        found = self._found()
        for entry in found.get(key(0, "mailbox"), ({}, None))[0]:
            if entry not in self._entries:
                self._entries.append(entry)
        return {name: self._told(name, value) for name, (value, _) in found.items() if value}

    def expiries(self) -> dict[str, int | None]:
        """The seconds each key has left."""
        return {name: seconds for name, (value, seconds) in self._found().items() if value}

    def _told(self, name: str, value: Any) -> Any:
        if name.endswith("mailbox"):
            return {self.number(entry): (int(seq), command) for entry, (seq, command) in value.items()}
        if name.endswith("trial"):
            return {f: self.number(v) if f in ("until", "near", "name") else int(v) for f, v in value.items()}
        if ":job:" in name:
            return value[:1], timeless(decode_job(value, name.rpartition(":")[2]))
        if ":s:" in name:
            return {field: str(count) if field != "f" else int(count) > 0 for field, count in value.items()}  # f: a moment
        if name.endswith("changes"):
            self._first_change = self._first_change or int(value)
            return int(value) - self._first_change
        return name.endswith("born") or str(value)


def lot_of(jobs: list[Job]) -> Lot:
    """Jobs as they come in a batch."""
    lot = Lot("open", [Wanted(job.kind, job.session_id, ARGUMENTS) for job in jobs])
    lot.ids, lot.fingerprints = [job.id for job in jobs], [job.body_hash for job in jobs]
    rows = [(job.kind, job.session_id, job.id, bytes.fromhex(job.body_hash), ARGUMENTS) for job in jobs]
    lot.bytes = encode_all("open", rows)
    return lot


def timeless(job: Job) -> Job:
    return msgspec.structs.replace(job, accepted_at=0)


def found_at(client: redis.Redis) -> dict[str, tuple[Any, int | None]]:
    """All keys of a real server, as MemoryRedis holds them."""
    names = sorted(client.keys("*"))
    asked = client.pipeline(transaction=False)
    for name in names:
        asked.ttl(name)
        if name.endswith(b"mailbox"):
            asked.xrange(name)
        elif name.endswith(b"trial"):
            asked.hgetall(name)
        else:
            asked.get(name)
    answers = iter(asked.execute())
    rows = zip(names, answers, answers, strict=True)
    return {name.decode(): (_as_held(name, value), left if left >= 0 else None) for name, left, value in rows}


def _as_held(name: bytes, value: Any) -> Any:
    if isinstance(value, list):
        return {entry.decode(): (fields[b"s"], fields[b"c"]) for entry, fields in value}
    if isinstance(value, dict):
        return {field.decode(): content.decode() for field, content in value.items()}
    if b":s:" in name:
        return dict(zip(HEAD_FIELDS, value.decode().split(), strict=True))
    return value if b":job:" in name or name.endswith(b"pace") else value.decode()


def found_in(stand_in: MemoryRedis) -> dict[str, tuple[Any, int | None]]:
    """The same of the stand-in."""
    found = {}
    for name in sorted(stand_in.values):
        value, until = stand_in.get(name), stand_in.expiries.get(name)
        found[name] = (value, None if until is None else (until - now_ms()) // 1000)
    return found


def now_ms() -> int:
    return int(time.time() * 1000)


class Script:
    """Calls by chance, the same for any number of sides, guided by what they have in common: entries, jobs, versions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._jobs: list[Job] = []
        self._versions = dict.fromkeys(SESSIONS, 1)
        self.waiting: dict[int, Any] = {}  # entries by number, as they were last looked at

    def step(self) -> Callable[[Side], Any]:
        """One call."""
        steps = (self._accept, self._take, self._put_head, self._publish, self._trial)
        return self.random.choices(steps, (4, 2, 1, 2, 1))[0]()

    def _accept(self) -> Callable[[Side], Any]:
        jobs = [self._job() for _ in range(self.random.randint(1, 4))]
        keyed = self.random.random() < 0.5
        self._jobs += jobs
        return lambda side: side.accept(jobs, keyed)

    def _job(self) -> Job:
        if self._jobs and self.random.random() < 0.2:
            return self.random.choice(self._jobs)
        session = self.random.choice(SESSIONS)
        job_id = keyed_job_id(b"secret", "open", session, RESERVE, str(len(self._jobs) * 10 + self.random.randrange(10)))
        return draft_job(job_id, RESERVE, session, "open", "0" * 16)

    def _session(self, session_id: int) -> Session:
        rng = self.random
        self._versions[session_id] += rng.randint(0, 2)
        version = max(1, self._versions[session_id] - rng.choice((0, 0, 0, 2)))  # some come late
        capacity, reserved, waiting, places, last_seq = (rng.randint(0, 9) for _ in range(5))
        session = Session(session_id, capacity, reserved, waiting, last_seq, version, waitlist_capacity=places)
        return msgspec.structs.replace(session, closed_at=rng.choice((None, 5)), cancelled_at=rng.choice((None, None, 5)))

    def _put_head(self) -> Callable[[Side], Any]:
        session, first_accepted_ms = self._session(self.random.choice(SESSIONS)), self.random.choice((0, 1, 2**42))
        return lambda side: side.put_head(session, first_accepted_ms)

    def _take(self) -> Callable[[Side], Any]:
        limit = self.random.choice((1, 2, 5, 100))
        only_free = self.random.random() < 0.5
        behind = self.random.choice([None, None, *sorted(self.waiting)[:8]])
        return lambda side: side.take(limit, only_free, behind)

    def _trial(self) -> Callable[[Side], Any]:
        way, number = self.random.choice((BATCH, ONE, PORTION)), self.random.choice(sorted(self.waiting) or [-1])
        calls: list[Callable[[Side], Any]] = [lambda side: side.mailbox.forgive(0, way)]
        if number >= 0:
            calls += [lambda side: side.name(number), lambda side: side.name(number), lambda side: side.narrow(number)]
        return self.random.choice(calls)

    def _publish(self) -> Callable[[Side], Any]:
        rng = self.random
        numbers = sorted(self.waiting)[: rng.randint(0, 6)] + ([0] if self.waiting and rng.random() < 0.1 else [])
        rows = [(number, self._done() if rng.random() < 0.9 else None) for number in numbers]
        earlier = [self._done() for _ in range(rng.randint(0, 2)) if self._jobs]
        told = {job.session_id for job in (*(job for _, job in rows if job), *earlier)}
        sessions = {session_id: self._session(session_id) for session_id in sorted(told)}
        lifts = {session_id: Lift(rng.randint(1, 4), rng.randint(1, 12)) for session_id in sorted(told) if rng.random() < 0.5}
        over = rng.choice([None, None, *numbers[-1:], *sorted(self.waiting)[-1:]])
        gone = frozenset({3} if rng.random() < 0.05 else ())
        around = rng.choice(((), (), (0,)))
        return lambda side: side.publish(rows, sessions, lifts, earlier, over, 12.5, gone, around=around)

    def _done(self) -> Job:
        job = self.random.choice(self._jobs)
        held = JobReservation(self.random.randint(1, 9), job.session_id, "confirmed", 1)
        return msgspec.structs.replace(job, seq=self.random.randint(1, 30), outcome="confirmed", applied_at=7, reservation=held)


@pytest.fixture
def sides(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Side]]:
    """Valkey, and what stands for it."""
    for module in (door, mailbox):
        monkeypatch.setattr(module, "BELL_MS", 1_000_000)  # nothing expires while the two are compared
    client, in_memory = deployment.redis(), MemoryRedis(now_ms)
    found = [
        Side(client, connect_async(deployment.redis_url), lambda: found_at(client)),
        Side(in_memory, AsyncMemoryRedis(in_memory), lambda: found_in(in_memory)),
    ]
    yield found
    for side in found:
        side.close()


@pytest.mark.parametrize("seed", range(len(PUBLISH_LIMITS)))
def test_the_same_calls_have_the_same_answers_and_leave_the_same(
    sides: list[Side], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(mailbox, "PUBLISH_LIMIT", PUBLISH_LIMITS[seed])
    monkeypatch.setattr(mailbox, "PORTION_LIMIT", 2)
    script = Script(seed)
    for number in range(STEPS):
        call = script.step()
        valkey, memory = (call(side) for side in sides)
        assert memory == valkey, f"step {number}"
        if number % LOOK_EVERY == 0:
            left, stands_for_it = (side.look() for side in sides)
            assert stands_for_it == left, f"step {number}"
            script.waiting = left.get(key(0, "mailbox"), {})
    assert sides[0].rung == sides[1].rung != []
    assert sides[0].went_back == sides[1].went_back == []
    (left, stands_for_it) = (side.expiries() for side in sides)
    assert left.keys() == stands_for_it.keys()
    for name, seconds in left.items():
        assert abs((seconds or -100) - (stands_for_it[name] or -100)) <= NEAR_SECONDS, name


def test_what_was_done_before_a_doubt_is_looked_up(sides: list[Side]) -> None:
    """A doubt and a job of the same millisecond are told apart by nobody, so the clock has to move between them."""
    told = []
    for side in sides:
        side.put_head(Session(1, 5, version=1))
        before, after = jobs = [numbered_job(number) for number in range(2)]
        side.accept(jobs)
        for number, (job, doubt) in enumerate([(before, False), (after, True)]):
            done = msgspec.structs.replace(job, seq=number + 1, outcome="sold_out")
            side.publish([], {}, {}, [], 0, 1.0, frozenset(), doubt)
            let_the_clock_move()
            side.publish([(number, done)], {1: Session(1, 5, version=2 + number, last_seq=number + 1)}, {}, [], 1, 1.0)
            let_the_clock_move()
        told.append([side.accept(jobs, keyed=True), side.accept(jobs), side.look()])
    assert told[1] == told[0]
    (first, second), *_ = told[0]
    assert first is MaybeForgotten
    assert second[1]


def let_the_clock_move() -> None:
    now = now_ms()
    until(lambda: now_ms() > now + 1)


def numbered_job(number: int) -> Job:
    return draft_job(keyed_job_id(b"secret", "open", 1, RESERVE, str(number)), RESERVE, 1, "open", "0" * 16)


def test_who_comes_with_others_is_told_of_no_session_and_a_job_is_accepted_once_in_a_group(sides: list[Side]) -> None:
    told = []
    for side in sides:
        side.put_head(Session(1, 5, version=1))
        first, second, third = jobs = [numbered_job(number) for number in range(3)]
        told.append((side.accept_mixed([first, second, first], [second, third]), side.accept(jobs), side.look()))
    assert told[0] == told[1]
    mixed = told[0][0]
    assert [(job.seq, known, head is not None) for job, known, _, _, head in mixed] == [
        (1, False, False), (2, False, False), (1, True, False), (2, True, True), (3, False, True),
    ]  # fmt: skip


def test_a_redis_that_is_put_back_counts_fewer_than_were_accepted(sides: list[Side]) -> None:
    told = []
    for side in sides:
        side.put_head(Session(1, 5, version=1))
        jobs = [numbered_job(number) for number in range(4)]
        side.accept(jobs[:1])
        side.forget_total()
        told.append((side.accept(jobs[1:]), side.went_back))
    assert told[0] == told[1]
    assert told[0][1] == [(0, 1, 0)]
