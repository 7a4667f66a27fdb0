"""An API process inside the test's own: the application on its server, with its protocol, and what came of each request."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn

from api.app import create_app
from api.browsers import EVERYWHERE
from api.connections import Guard, Limits
from api.gate import Gate
from api.intake import Intake
from api.protocol import GuardedProtocol
from core import telemetry
from core.bootstrap import ApiServices, worker_services
from tests.support.http import person
from tests.support.raw import Answer, post
from tests.support.stack import Deployment

TALLIES = ("REQUESTS", "ACCEPTED", "REFUSED_AT_DOOR")

Serve = Callable[..., None]  # runs something with a server of its own: see tests/conftest.py


class Serving:
    """A server and what is watched of it: how many requests were taken in ahead of Falcon, what was noted and counted."""

    def __init__(self, deployment: Deployment, monkeypatch: Any, **settings: Any) -> None:
        loaded = deployment.settings(log_level="warning", **settings)
        self.services = ApiServices(loaded)
        self.app = create_app(self.services)
        self.taken = 0
        self.notes: list[tuple[Any, ...]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            Gate(self.app, self.services.door),
            loop="none",
            http=partial(GuardedProtocol, Guard(Limits())),
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            headers=list(EVERYWHERE),
            proxy_headers=bool(loaded.trusted_proxies),
            forwarded_allow_ips=loaded.trusted_proxies,
            log_config=None,
        )
        self.server = uvicorn.Server(config)
        self._watch(monkeypatch)

    def _watch(self, monkeypatch: Any) -> None:
        take = Intake.__call__

        def count(intake: Intake, line: Any, cycle: Any) -> bool:
            is_taken = take(intake, line, cycle)
            self.taken += is_taken
            return is_taken

        monkeypatch.setattr(Intake, "__call__", count)
        observe = self.app.ahead._observe
        note = observe.note

        def remember(method: str, status: int, path: str | None, started: float, *more: Any) -> None:
            self.notes.append((method, status, path, bool(more and more[0])))
            note(method, status, path, started, *more)

        monkeypatch.setattr(observe, "note", remember)
        observe._log = Silent()  # so that paths are noted
        monkeypatch.setattr(telemetry, "flush_tallies", lambda: None)

    def counts(self) -> dict[str, dict[tuple[str, ...], int]]:
        """What was counted so far; nothing is handed on."""
        counts = {name: dict(getattr(telemetry, name)._counts) for name in TALLIES}
        return {**counts, "seconds": {(): len(telemetry._accept_seconds)}}

    async def __aenter__(self) -> Serving:
        self._running = asyncio.create_task(self.server.serve([self._socket]))
        while not self.server.started:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.server.should_exit = True
        await self._running

    def hold_the_door(self) -> HeldDoor:
        """From now on who has come to the door waits there, until it is opened."""
        return HeldDoor(self.services.door)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One to this server."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()


class HeldDoor:
    """A door that takes nobody to Redis before it is opened; `arrived`: somebody is there."""

    def __init__(self, door: Any) -> None:
        self.arrived, self._opened = asyncio.Event(), asyncio.Event()
        self._accept = door._grouped._call
        door._grouped._call = self._hold

    def open(self) -> None:
        """Let in who waits, and whoever comes."""
        self._opened.set()

    async def _hold(self, knocks: Any) -> Any:
        self.arrived.set()
        await self._opened.wait()
        return await self._accept(knocks)


class Silent:
    """An access log that nobody reads."""

    def write(self, _line: Any) -> None:
        """One line."""

    def flush(self) -> None:
        """All of them."""


class Connection:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self, sent: bytes) -> Answer:
        """Send, and have the answer."""
        self.writer.write(sent)
        return await self.answer()

    async def answer(self) -> Answer:
        """The next one."""
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines), lines
        body = await asyncio.wait_for(self._reader.readexactly(int(headers["content-length"])), 20)
        return Answer(int(first.split(" ")[1]), headers, body)

    async def read_until(self, text: bytes) -> None:
        """Read until this has come."""
        await self._reader.readuntil(text)

    async def is_closed(self) -> bool:
        """Whether nothing more comes, for good."""
        return await asyncio.wait_for(self._reader.read(1), 20) == b""


async def new_session(line: Connection, *headers: str, **fields: Any) -> int:
    """A session with these fields."""
    body = {"title": "A", "start_time": "2031-05-01T18:00:00Z", "end_time": "2031-05-01T20:00:00Z", "capacity": 50, **fields}
    answer = await line.ask(post("/api/sessions/", json.dumps(body).encode(), *headers))
    assert answer.status == 201, answer.body
    return answer.json()["id"]


async def warm(line: Connection, **fields: Any) -> str:
    """Where to reserve in a new session whose head is in Redis: somebody has reserved there."""
    path = f"/api/sessions/{await new_session(line, **fields)}/reserve/"
    assert (await line.ask(post(path, somebody()))).status == 202
    return path


def drain(deployment: Deployment) -> None:
    """Apply what is there."""
    worker = worker_services(deployment.settings())
    for partition in range(deployment.partitions):
        worker.drain(partition)
    worker.close()


def waiting(serving: Serving) -> int:
    """How many places are taken, by whoever waits."""
    return sum(serving.services.waits._inside.values())


def somebody() -> bytes:
    """The body of a reserve for whom there is nobody else."""
    return json.dumps(person()).encode()


CHANGES = re.compile(
    r'r=\d+;t=\d+|"(?:id|request_id|manage_token|accepted_at|applied_at)":"[^"]*"|"(?:seq|ahead|id)":\d+|"eta_seconds":[0-9.]+'
    r'|"forecast":{"outcome":"\w+","position":\w+'
)
OF_THE_MOMENT = ("date", "location", "content-length")


def told(answer: Answer, named: bool) -> tuple[Any, ...]:
    """All that an answer says, but for what differs from one command to the next."""
    headers = [(name, CHANGES.sub("?", value)) for name, value in answer.headers.items() if name not in OF_THE_MOMENT]
    if not named:
        headers = [(name, value) for name, value in headers if name != "x-request-id"]
    size = answer.headers["content-length"] == str(len(answer.body))
    location = re.sub("[0-9a-f]{8}-[0-9a-f-]{27}", "?", answer.headers.get("location", ""))
    shown = answer.json() if location else {}
    where = not location or answer.headers["location"].rpartition("/")[2] == shown.get("job", shown)["id"]  # also in a problem
    return answer.status, headers, size, location, where, CHANGES.sub("?", answer.body.decode())


def grown(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """By how much each count has grown."""
    return {
        name: {label: count - before[name].get(label, 0) for label, count in counts.items() if before[name].get(label) != count}
        for name, counts in after.items()
    }
