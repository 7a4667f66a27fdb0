"""One process of load: `python -m tests.bench.generator`, its task as JSON on stdin, what it saw as JSON on stdout.

A closed loop sends the next request when the last one is answered; an open loop sends when its time has come, whatever the
answers do, and counts every latency from that time, so that a stall shows in all the requests that met it. Times in seconds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import random
import re
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import uvloop

from tests.bench.arithmetic import arrivals
from tests.bench.workload import Requests

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")
TICK_SECONDS = 0.001
HEAD_START_SECONDS = 0.05
CLOSING_SECONDS = 5.0
PLAIN, WAITING = "plain", "waiting"


class Line(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = b""
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self.transport: Any = transport

    def begin(self, kind: str, request: bytes, due: float) -> None:
        """Send a request that should have gone at `due`."""
        self.busy, self.kind, self.due, self.sent = True, kind, due, time.monotonic()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """A part of an answer, usually all of it."""
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        length = LENGTH.search(data, 0, end + 2) if end >= 0 else None
        if length is None or len(data) < end + 4 + int(length[1]):
            self._buffer = data
            return
        self._buffer = b""
        self.busy = False
        self._run.answered(self, int(data[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server hung up."""
        self._run.lost(self)


class Run:
    """What both loops have in common: lines, and what came back by them."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self._host, self._port = urlsplit(task["url"]).hostname, urlsplit(task["url"]).port
        self.statuses: dict[str, int] = defaultdict(int)
        self.latencies: dict[str, list[float]] = defaultdict(list)
        self.service: dict[str, list[float]] = defaultdict(list)  # from the moment of sending
        self.broken = 0
        self.lines: set[Line] = set()
        self.done = asyncio.Event()

    async def line(self) -> Line:
        """A new connection."""
        _, line = await asyncio.get_running_loop().create_connection(lambda: Line(self), self._host, self._port)
        self.lines.add(line)
        return line

    def note(self, line: Line, status: int) -> None:
        """Keep what an answer tells."""
        now = time.monotonic()
        name = f"{line.kind} {status}"
        self.statuses[str(status)] += 1
        self.latencies[name].append(now - line.due)
        self.service[name].append(now - line.sent)

    def answered(self, line: Line, status: int) -> None:
        """What to do next on a line that is free again."""
        raise NotImplementedError

    def lost(self, line: Line) -> None:
        """A line is gone."""
        self.lines.discard(line)
        self.broken += line.busy


class Closed(Run):
    """Every line sends again as soon as it has its answer, until the time is over."""

    async def carry_out(self) -> None:
        """The whole run."""
        task = self._task
        make = Requests(task["template"], task["order"]).maker(task["first_number"])
        self._make: Callable[[], bytes] = make
        lines = await asyncio.gather(*(self.line() for _ in range(task["connections"])))
        self._until = time.monotonic() + task["seconds"]
        self._working = len(lines)
        for line in lines:
            line.begin(PLAIN, make(), time.monotonic())
        await asyncio.wait_for(self.done.wait(), task["seconds"] + CLOSING_SECONDS)

    def answered(self, line: Line, status: int) -> None:
        """Send again."""
        self.note(line, status)
        now = time.monotonic()
        if now < self._until:
            line.begin(PLAIN, self._make(), now)
        else:
            self._finished()

    def lost(self, line: Line) -> None:
        """A line is gone, and is replaced."""
        super().lost(line)
        if time.monotonic() < self._until:
            self._replacing = asyncio.ensure_future(self._replace())
        elif line.busy:
            self._finished()

    async def _replace(self) -> None:
        (await self.line()).begin(PLAIN, self._make(), time.monotonic())

    def _finished(self) -> None:
        self._working -= 1
        if self._working <= 0:
            self.done.set()


class Open(Run):
    """Requests go when they are due. While all lines are busy they wait here, and that counts."""

    async def carry_out(self) -> None:
        """The whole run."""
        task = self._task
        self._make = {
            PLAIN: Requests(task["template"], task["order"]).maker(task["first_number"]),
            WAITING: Requests(task["waiting_template"], task["order"]).maker(task["first_number"] + task["half"]),
        }
        self._idle = list(await asyncio.gather(*(self.line() for _ in range(task["connections"]))))
        self._opening: set[asyncio.Task[None]] = set()
        self._queue: deque[tuple[str, float]] = deque()
        self._outstanding = self.unsent = 0
        chance = random.Random(task["seed"] + 1)
        start = time.monotonic() + HEAD_START_SECONDS
        for at in arrivals(task["rate"], task["seconds"], task["seed"]):
            due = start + at
            while due > time.monotonic():
                await asyncio.sleep(TICK_SECONDS)
            self._send(WAITING if chance.random() < task["waiting_share"] else PLAIN, due)
            if not self._outstanding % 64:
                await asyncio.sleep(0)  # late already: let the answers in all the same
        self._is_over = True
        self.sending_seconds = time.monotonic() - start
        if task["abandon"]:
            self._outstanding -= len(self._queue)
            self.unsent = len(self._queue)
            self._queue.clear()
        if self._outstanding:
            try:
                await asyncio.wait_for(self.done.wait(), task["grace_seconds"])
            except TimeoutError:
                self._never_answered()

    _is_over = False

    def _send(self, kind: str, due: float) -> None:
        self._outstanding += 1
        if self._idle:
            self._idle.pop().begin(kind, self._make[kind](), due)
            return
        self._queue.append((kind, due))
        if len(self.lines) + len(self._opening) < self._task["connections_max"]:
            opening = asyncio.ensure_future(self._another())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _another(self) -> None:
        self._free(await self.line())

    def _free(self, line: Line) -> None:
        if self._queue:
            kind, due = self._queue.popleft()
            line.begin(kind, self._make[kind](), due)
        else:
            self._idle.append(line)

    def answered(self, line: Line, status: int) -> None:
        """The line takes what waits longest, or rests."""
        self.note(line, status)
        self._outstanding -= 1
        self._free(line)
        if self._is_over and not self._outstanding:
            self.done.set()

    def lost(self, line: Line) -> None:
        """A line is gone; others go on."""
        super().lost(line)
        if line in self._idle:
            self._idle.remove(line)
        self._outstanding -= line.busy

    def _never_answered(self) -> None:
        for kind in (*(kind for kind, _ in self._queue), *(line.kind for line in self.lines if line.busy)):
            self.latencies[f"{kind} 0"].append(math.inf)


async def main() -> dict[str, Any]:
    """Read the task, say when ready, go when told, and tell."""
    task = json.loads(sys.stdin.readline())
    run = (Open if "rate" in task else Closed)(task)
    print("ready", flush=True)
    sys.stdin.readline()
    gc.disable()
    began, used = time.monotonic(), time.process_time()
    await run.carry_out()
    seconds = time.monotonic() - began
    return {
        "statuses": run.statuses,
        "broken": run.broken,
        "unsent": getattr(run, "unsent", 0),
        "seconds": seconds,
        "sending_seconds": getattr(run, "sending_seconds", task["seconds"]),
        "busy": (time.process_time() - used) / seconds,
        "latencies_us": {name: _micros(found) for name, found in run.latencies.items()},
        "service_us": {name: _micros(found) for name, found in run.service.items()},
    }


def _micros(seconds: list[float]) -> list[int]:
    return [-1 if math.isinf(value) else round(value * 1e6) for value in seconds]


if __name__ == "__main__":
    json.dump(uvloop.run(main()), sys.stdout)
