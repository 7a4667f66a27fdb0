"""The clients: connections that reserve and cancel as people would, readers that look on, and a history of it all.

They live in a thread with an event loop of its own, so that a case can go about its faults meanwhile. Everything they choose
comes from the seed; what happens to it does not.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop

from tests.fault.suite.history import ACCEPTED, MAYBE, Call, History, JobSeen, JobShown, SessionSeen, Wish

CALL_SECONDS = 15.0
AGAIN_MOST = 5
AGAIN_SECONDS = 0.1
READERS = 2
READ_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 1.0
NO_ANSWER = (OSError, EOFError, ValueError, TimeoutError)
_wishes = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Venue:
    """A session, and how many people want to come to it."""

    id: int
    people: int


@dataclass(frozen=True, slots=True)
class Manners:
    """How clients behave; shares are between 0 and 1."""

    cancels: float = 0.35
    keyed: float = 0.7
    waits: float = 0.05  # with Prefer: wait
    repeats: float = 0.03  # sends again although it was answered
    gives_up: float = 0.2  # leaves a maybe alone
    pauses: bool = True  # as Retry-After asks


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of HTTP's."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Job(msgspec.Struct):
    id: str
    session_id: int
    seq: int
    accepted_at: str
    outcome: str | None = None

    def shown(self) -> JobShown:
        return JobShown(self.id, self.session_id, self.seq, self.accepted_at, self.outcome)


class _Problem(msgspec.Struct):
    code: str | None = None
    job: _Job | None = None


class _Session(msgspec.Struct):
    id: int
    version: int
    last_seq: int
    reserved: int
    capacity: int


_job = msgspec.json.Decoder(_Job)
_problem = msgspec.json.Decoder(_Problem)
_session = msgspec.json.Decoder(_Session)


class Connection:
    """One keep-alive connection, one request at a time. It connects when it is used, and again after a failure."""

    def __init__(self, origin: str) -> None:
        parts = urlsplit(origin)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, seconds: float = CALL_SECONDS
    ) -> Reply:
        """Raises one of NO_ANSWER when there is none in time."""
        try:
            async with asyncio.timeout(seconds):
                return await self._call(method, path, body, headers or {})
        except BaseException:
            await self.close()
            raise

    async def _call(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body)
        status, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answered = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
        content = await reader.readexactly(int(answered.get("content-length", 0)))
        if answered.get("connection") == "close":
            await self.close()
        return Reply(int(status.split()[1]), answered, content)

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Traffic:
    """Clients and readers at work, from `with` to `stop`. `history` may be read after it."""

    def __init__(
        self,
        origin: str,
        venues: list[Venue],
        seed: str,
        *,
        requests: int | None = None,
        per_second: float | None = None,
        connections: int = 32,
        readers: int = READERS,
        manners: Manners | None = None,
    ) -> None:
        """`requests`: stop after so many wishes (None: go on). `per_second`: no faster than that, all connections together."""
        self.history = History()
        self._origin = origin
        self._venues = venues
        self._seed = seed
        self._requests = requests
        self._per_second = per_second
        self._connections = connections
        self._readers = readers
        self._manners = manners or Manners()
        self._sent = itertools.count()
        self._recent: list[str] = []
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let everybody finish what they are at, then stop. Raises what a client could not cope with."""
        self._stop.set()
        self.join()

    def join(self, seconds: float = 600) -> None:
        """Wait until all `requests` are sent and answered."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the clients were not done within {seconds} s"
        if self._failure is not None:
            raise self._failure

    @property
    def is_over(self) -> bool:
        """Whether all requests are done."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._all())
        except BaseException as exc:
            self._failure = exc

    async def _all(self) -> None:
        self._started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(self._client(number)) for number in range(self._connections)]
            readers = [group.create_task(self._reader(number)) for number in range(self._readers)]
            await asyncio.wait(clients)
            for reader in readers:
                reader.cancel()

    # -- those who want something ----------------------------------------------------------------------------------------

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/client {number}")
        connection = Connection(self._origin)
        try:
            while not self._stop.is_set():
                turn = next(self._sent)
                if self._requests is not None and turn >= self._requests:
                    return
                if self._per_second is not None:
                    await asyncio.sleep(max(0.0, self._started + turn / self._per_second - time.monotonic()))
                await self._wish(connection, self._choose(chance, turn), chance)
        finally:
            await connection.close()

    def _choose(self, chance: random.Random, turn: int) -> Wish:
        venue = chance.choice(self._venues)
        number = next(_wishes)
        email = f"guest-{chance.randrange(venue.people)}@example.org"
        key = f"{self._seed}-{number}".replace("/", "-").replace(" ", "-") if chance.random() < self._manners.keyed else None
        if chance.random() < self._manners.cancels:
            return Wish(number, venue.id, "cancel", key, email, 1 if chance.random() < 0.2 else None)
        seats = chance.choice((1, 1, 1, 1, 2, 3, 5))
        return Wish(number, venue.id, "reserve", key, email, seats, f"Guest {number}")

    async def _wish(self, connection: Connection, wish: Wish, chance: random.Random) -> None:
        """Send it, and again under its key as long as nobody knows what became of it; sometimes also when one does."""
        call = await self._send(connection, wish, chance)
        again = 0
        while wish.key is not None and again < AGAIN_MOST:
            again += 1
            if call.fate == MAYBE:
                if chance.random() < self._manners.gives_up:
                    return
                await asyncio.sleep(AGAIN_SECONDS * again)
            elif call.fate != ACCEPTED or chance.random() >= self._manners.repeats:
                return
            call = await self._send(connection, wish, chance)

    async def _send(self, connection: Connection, wish: Wish, chance: random.Random) -> Call:
        wait = chance.random() < self._manners.waits
        call = await send(connection, wish, wait_seconds=5 if wait else None)
        self.history.note(call)
        if call.job is not None and len(self.history.calls) % 8 == 0:
            self._recent = [call.job.id, *self._recent[:49]]
        if call.retry_after is not None and call.job is None and self._manners.pauses:
            await asyncio.sleep(min(float(call.retry_after), LONGEST_PAUSE_SECONDS))
        return call

    # -- those who look on -----------------------------------------------------------------------------------------------

    async def _reader(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/reader {number}")
        connection = Connection(self._origin)
        try:
            while True:
                await asyncio.sleep(READ_SECONDS)
                try:
                    if self._recent and chance.random() < 0.5:
                        await self._look_at_job(connection, chance.choice(self._recent))
                    else:
                        await self._look_at_session(connection, chance.choice(self._venues).id)
                except NO_ANSWER:
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            await connection.close()

    async def _look_at_job(self, connection: Connection, job: str) -> None:
        invoked = time.monotonic()
        reply = await connection.call("GET", f"/api/jobs/{job}")
        if reply.status == 200:
            self.history.jobs.append(JobSeen(_job.decode(reply.body).shown(), invoked, time.monotonic()))

    async def _look_at_session(self, connection: Connection, session: int) -> None:
        invoked = time.monotonic()
        reply = await connection.call("GET", f"/api/sessions/{session}/")
        if reply.status == 200:
            s = _session.decode(reply.body)
            seen = SessionSeen(s.id, invoked, time.monotonic(), s.version, s.last_seq, s.reserved, s.capacity)
            self.history.sessions.append(seen)


async def send(connection: Connection, wish: Wish, wait_seconds: int | None = None, seconds: float = CALL_SECONDS) -> Call:
    """Send a wish once. A call without an answer is a result like any other."""
    body: dict[str, Any] = {"email": wish.email}
    if wish.name is not None:
        body["name"] = wish.name
    if wish.seats is not None:
        body["seats"] = wish.seats
    headers = {} if wish.key is None else {"Idempotency-Key": wish.key}
    if wait_seconds is not None:
        headers["Prefer"] = f"wait={wait_seconds}"
    path = f"/api/sessions/{wish.session}/{wish.kind}/"
    invoked = time.monotonic()
    try:
        reply = await connection.call("POST", path, json.dumps(body).encode(), headers, seconds)
    except NO_ANSWER:
        return Call(wish, invoked, time.monotonic(), None)
    return _call(wish, invoked, time.monotonic(), reply)


def _call(wish: Wish, invoked: float, returned: float, reply: Reply) -> Call:
    retry_after = reply.headers.get("retry-after")
    if reply.status in (200, 201, 202):
        return Call(wish, invoked, returned, reply.status, _job.decode(reply.body).shown(), None, retry_after)
    problem = _problem.decode(reply.body) if reply.body.startswith(b"{") else _Problem()
    job = problem.job.shown() if problem.job is not None else None
    return Call(wish, invoked, returned, reply.status, job, problem.code, retry_after)


@dataclass(slots=True)
class Crowd:
    """Wishes that a case makes by itself, outside of any traffic, and sends all at once."""

    origin: str
    history: History = field(default_factory=History)

    def send(self, wishes: list[Wish], connections: int = 64) -> list[Call]:
        """Each wish once, over so many connections. Their calls, in the order of the wishes; noted in the history, too."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            calls = runner.run(self._send(wishes, connections))
        for call in calls:
            self.history.note(call)
        return calls

    async def _send(self, wishes: list[Wish], connections: int) -> list[Call]:
        calls: list[Call | None] = [None] * len(wishes)
        numbers = iter(range(len(wishes)))

        async def client() -> None:
            connection = Connection(self.origin)
            for number in numbers:
                calls[number] = await send(connection, wishes[number])
            await connection.close()

        await asyncio.gather(*(client() for _ in range(min(connections, len(wishes)))))
        return [call for call in calls if call is not None]


def wish(session: int, kind: str, email: str, key: str | None = None, seats: int | None = None) -> Wish:
    """A wish of a case's own; a reserve's seats are 1 unless they are named."""
    number = next(_wishes)
    if kind == "reserve":
        return Wish(number, session, kind, key, email, seats or 1, f"Guest {number}")
    return Wish(number, session, kind, key, email, seats)
