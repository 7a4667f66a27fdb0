"""`aforo demo`: many people after few places, over HTTP, and what became of them all.

The load comes from one event loop over keep-alive connections, each waiting for its answer before it sends again. Outcomes
are counted afterwards from the ledger itself, through the API's own reservations and the session's counters.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from ops.client import Client

CONNECTIONS = 64
APPLIED_SECONDS = 60.0
CALL_SECONDS = 60.0
RETRY_SECONDS = 0.2
Progress = Callable[[int], None]


class DemoFailed(Exception):
    """The demo could not be carried through; the message says why."""


@dataclass(slots=True)
class Result:
    """What happened. Latencies in seconds, one for each accepted request."""

    session_id: int
    people: int
    places: int
    outcomes: Counter[str] = field(default_factory=Counter)
    accept_seconds: float = 0.0
    total_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    reserved: int = 0
    jobs: list[str] = field(default_factory=list)

    @property
    def overbooked(self) -> int:
        """Places sold beyond the capacity."""
        return max(0, max(self.reserved, self.outcomes["confirmed"]) - self.places)

    def latency(self, share: float) -> float:
        """The latency that this share of the requests stayed within."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def run(client: Client, people: int, places: int, progress: Progress) -> Result:
    """Send `people` reservations after `places` places. `progress(n)`: n more are done. Raises DemoFailed, NoAnswer."""
    start = datetime.now(UTC) + timedelta(days=30)
    body = {
        "title": "Everybody wants to come",
        "start_time": start.isoformat(),
        "end_time": (start + timedelta(hours=2)).isoformat(),
        "capacity": places,
    }
    made = client.post("/api/sessions/", body)
    if made.status != 201:
        raise DemoFailed(f"no session could be made: {made.body.get('detail')}")
    result = Result(made.body["id"], people, places)
    started = time.monotonic()
    asyncio.run(_all(client, result, progress))
    result.accept_seconds = time.monotonic() - started
    _wait_until_applied(client, result)
    result.total_seconds = time.monotonic() - started
    asyncio.run(_count(client, result))
    result.reserved = client.get(f"/api/sessions/{result.session_id}/").body["reserved"]
    return result


class Connection:
    """One keep-alive connection to the API, one request at a time."""

    def __init__(self, client: Client) -> None:
        parts = urlsplit(client.origin)
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in client.authorization.items())
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError, EOFError, ValueError when there is none."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}{self._headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.lower().startswith(b"content-length:"))
        return int(lines[0].split()[1]), await reader.readexactly(length)

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _all(client: Client, result: Result, progress: Progress) -> None:
    numbers = iter(range(result.people))

    async def visitor() -> None:
        connection = Connection(client)
        try:
            for number in numbers:
                await _reserve(connection, result, number)
                progress(1)
        finally:
            await connection.close()

    await _together(visitor)


async def _reserve(connection: Connection, result: Result, number: int) -> None:
    person = json.dumps({"name": f"Guest {number}", "email": f"guest-{number}@example.org"}).encode()
    deadline = time.monotonic() + CALL_SECONDS
    while True:
        sent = time.monotonic()
        status, answer = await connection.call("POST", f"/api/sessions/{result.session_id}/reserve/", person)
        if status == 202:
            result.latencies.append(time.monotonic() - sent)
            result.jobs.append(json.loads(answer)["id"])
            return
        if status != 503 or time.monotonic() > deadline:
            raise DemoFailed(f"a reservation was answered {status}: {answer[:300].decode('utf-8', 'replace')}")
        await asyncio.sleep(RETRY_SECONDS)


async def _together(visitor: Callable[[], Any]) -> None:
    tasks = [asyncio.create_task(visitor()) for _ in range(CONNECTIONS)]
    try:
        await asyncio.gather(*tasks)
    except (OSError, EOFError, ValueError, StopIteration) as exc:
        raise DemoFailed(f"a connection broke: {exc!r}") from exc
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _wait_until_applied(client: Client, result: Result) -> None:
    deadline = time.monotonic() + APPLIED_SECONDS
    while client.get(f"/api/sessions/{result.session_id}/").body["last_seq"] < result.people:
        if time.monotonic() > deadline:
            raise DemoFailed(f"not everything was applied within {APPLIED_SECONDS:.0f} s; do the workers run?")
        time.sleep(RETRY_SECONDS / 10)


async def _count(client: Client, result: Result) -> None:
    jobs = iter(result.jobs)

    async def reader() -> None:
        connection = Connection(client)
        try:
            for job in jobs:
                status, answer = await connection.call("GET", f"/api/jobs/{job}")
                if status != 200:
                    raise DemoFailed(f"job {job} was answered {status}")
                result.outcomes[json.loads(answer)["outcome"] or "none"] += 1
        finally:
            await connection.close()

    await _together(reader)
