"""One process of load: `python -m tests.bench.generator`, its task as JSON on stdin, what it saw as JSON on stdout.

A closed loop sends the next request when the last one is answered; an open loop sends when its time has come, whatever the
answers do, and counts every latency from that time, so that a stall shows in all the requests that met it. Times in seconds.
"""

from __future__ import annotations

import gc
import json
import math
import random
import sys
import time
from array import array
from collections import defaultdict, deque
from typing import Any

from tests.bench.arithmetic import arrivals
from tests.bench.lines import Line, Lines
from tests.bench.workload import Requests

HEAD_START_SECONDS = 0.05
CONNECTING_SECONDS = 10.0
CLOSING_SECONDS = 5.0
LOOK_SECONDS = 0.0005
LATE_MAX = 64  # requests sent in one go while others are due: then answers are let in
PLAIN, WAITING = "plain", "waiting"
KINDS = (PLAIN, WAITING)
BROKEN = 1  # in place of a status: the line was lost before the answer


class Run:
    """What both loops have in common: lines, and what came back by them."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self.statuses: dict[str, int] = defaultdict(int)
        self.latencies: dict[str, list[float]] = defaultdict(list)
        self.service: dict[str, list[float]] = defaultdict(list)  # from the moment of sending
        self.broken = 0
        self._idle: list[Line] = []
        self.lines = Lines(task["url"], self.ready, self.answered, self.lost)

    def _connect(self) -> None:
        """The first lines."""
        for _ in range(self._task["connections"]):
            self.lines.open()
        deadline = time.monotonic() + CONNECTING_SECONDS
        while len(self._idle) < self._task["connections"] and time.monotonic() < deadline:
            self.lines.wait(0.1)

    def note(self, kind: str, status: int, latency: float, service: float) -> None:
        """Keep what an answer tells."""
        self.statuses[str(status)] += 1
        self.latencies[f"{kind} {status}"].append(latency)
        self.service[f"{kind} {status}"].append(service)

    def ready(self, line: Line) -> None:
        """A new line."""
        self._idle.append(line)

    def answered(self, line: Line, status: int) -> None:
        """What to do next on a line that is free again."""
        raise NotImplementedError

    def lost(self, line: Line) -> None:
        """A line is gone."""
        self.broken += line.busy


class Closed(Run):
    """Every line sends again as soon as it has its answer, until the time is over."""

    def carry_out(self) -> None:
        """The whole run."""
        task = self._task
        self._make = Requests(task["template"], task["order"]).maker(task["first_number"])
        self._connect()
        self._until = time.monotonic() + task["seconds"]
        first, self._idle = self._idle, []
        for line in first:
            self._send(line, time.monotonic())
        while time.monotonic() < self._until:
            self.lines.wait(self._until - time.monotonic())
        deadline = time.monotonic() + CLOSING_SECONDS
        while any(line.busy for line in self.lines.all.values()):
            if time.monotonic() > deadline:
                raise TimeoutError("requests are not answered")
            self.lines.wait(0.1)
        self.lines.close()

    def _send(self, line: Line, now: float) -> None:
        line.sent = now
        self.lines.begin(line, self._make())

    def ready(self, line: Line) -> None:
        """A new line; also one in place of another."""
        if hasattr(self, "_until"):
            self._send(line, time.monotonic())
        else:
            super().ready(line)

    def answered(self, line: Line, status: int) -> None:
        """Send again."""
        now = time.monotonic()
        self.note(PLAIN, status, now - line.sent, now - line.sent)
        if now < self._until:
            self._send(line, now)

    def lost(self, line: Line) -> None:
        """A line is gone, and is replaced."""
        super().lost(line)
        if time.monotonic() < self._until:
            self.lines.open()


class Open(Run):
    """Requests go when they are due. While all lines are busy they wait here, and that counts.

    All of them are made beforehand, numbered by when they are due; what becomes of them is kept by that number.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        super().__init__(task)
        self._due = array("d", arrivals(task["rate"], task["seconds"], task["seed"]))
        count = self._count = len(self._due)
        chance = random.Random(task["seed"] + 1)
        self._kinds = bytearray(chance.random() < task["waiting_share"] for _ in range(count))
        self._requests = self._made()
        self._sent, self._over_at = (array("d", bytes(8 * count)) for _ in range(2))
        self._statuses = array("H", bytes(2 * count))
        self._queue: deque[int] = deque()
        self._outstanding = self.unsent = 0

    def carry_out(self) -> None:
        """The whole run."""
        task = self._task
        self._connect()
        start = self.started = time.monotonic() + HEAD_START_SECONDS
        for index in range(self._count):
            self._due[index] += start
        self._send_all()
        self.sending_seconds = time.monotonic() - start
        if task["abandon"]:
            self._outstanding -= len(self._queue)
            self.unsent = len(self._queue)
            self._queue.clear()
        deadline = time.monotonic() + task["grace_seconds"]
        while self._outstanding and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            self.lines.wait(0)
        self.lines.close()
        self._tell()

    def _made(self) -> list[bytes]:
        task = self._task
        makers = (
            Requests(task["template"], task["order"]).maker(task["first_number"]),
            Requests(task["waiting_template"], task["order"]).maker(task["first_number"] + task["half"]),
        )
        return [makers[kind]() for kind in self._kinds]

    def _send_all(self) -> None:
        """Each when it is due; what is due at once goes in one pass, and answers come in between.

        To be woken for each answer would cost as much as the rest, so between two looks is a fixed time, and what is measured is
        longer by up to that at both ends, never shorter.
        """
        due, count, at = self._due, self._count, 0
        while at < count:
            now = time.monotonic()
            until = min(count, at + LATE_MAX)
            while at < until and due[at] <= now:
                self._send(at)
                at += 1
            if at < count and due[at] > now:
                time.sleep(LOOK_SECONDS)
            self.lines.wait(0)

    def _send(self, index: int) -> None:
        self._outstanding += 1
        if self._idle:
            self._begin(self._idle.pop(), index)
            return
        self._queue.append(index)
        if len(self.lines) < self._task["connections_max"]:
            self.lines.open()

    def _begin(self, line: Line, index: int) -> None:
        line.index = index
        self._sent[index] = time.monotonic()
        self.lines.begin(line, self._requests[index])

    def ready(self, line: Line) -> None:
        """The line takes what waits longest, or rests."""
        if self._queue:
            self._begin(line, self._queue.popleft())
        else:
            self._idle.append(line)

    def answered(self, line: Line, status: int) -> None:
        """On to the next."""
        index = line.index
        self._over_at[index] = time.monotonic()
        self._statuses[index] = status
        self._outstanding -= 1
        self.ready(line)

    def lost(self, line: Line) -> None:
        """A line is gone; others go on."""
        super().lost(line)
        if line.busy:
            self._statuses[line.index] = BROKEN
            self._outstanding -= 1
        elif line in self._idle:
            self._idle.remove(line)

    def _tell(self) -> None:
        """What became of all; who was sent and never answered, or would have been sent in the end, counts as infinite."""
        abandoned = self._task["abandon"]
        for index, status in enumerate(self._statuses):
            kind, due, sent = KINDS[self._kinds[index]], self._due[index], self._sent[index]
            if status > BROKEN:
                self.note(kind, status, self._over_at[index] - due, self._over_at[index] - sent)
            elif not status and (sent or not abandoned):
                self.latencies[f"{kind} 0"].append(math.inf)


def main() -> dict[str, Any]:
    """Read the task, say when ready, go when told, and tell."""
    task = json.loads(sys.stdin.readline())
    run = (Open if "rate" in task else Closed)(task)
    print("ready", flush=True)
    sys.stdin.readline()
    gc.disable()
    began, used = time.monotonic(), time.process_time()
    run.carry_out()
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
    json.dump(main(), sys.stdout)
