"""Sends load and says what came of it: a closed loop by wrk where it is installed, else by the project's own generator; an
open loop always by the project's own, since wrk has none.

Load and system share the machine's cores. A request costs the own generator 11 to 17 µs, most of it the system's calls.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.bench.workload import Requests
from tests.support.processes import ROOT

WRK = shutil.which("wrk")
SCRIPT = Path(__file__).with_name("wrk.lua")
SPARE_SECONDS = 60.0
BUSY = 0.9  # of a core: then the generator itself may be what limits
PROCESSES_MAX = 2
NUMBERS_EACH = 200_000_000  # of each process and kind, so that nobody is sent twice
GRACE_SECONDS = 12.0  # longer than the longest `Prefer: wait` that is sent
OPEN_RATE_MAX = 30_000.0  # a second and process


class LoadFailed(Exception):
    """The load could not be sent as it should; the message says why."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a closed loop had answered. `started` and `seconds`: of the monotonic clock."""

    answered: int
    refused: int
    broken: int
    started: float
    seconds: float
    busy: float = 0.0

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.answered - self.refused) / self.seconds


@dataclass(slots=True)
class Arrived:
    """What an open loop had answered: latencies in seconds from when a request was due, and `service` from when it went,
    by kind and status ('plain 202'); status 0: never. `unsent`: they were due, but no connection came free in time."""

    started: float
    seconds: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    service: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    broken: int = 0
    unsent: int = 0

    def count(self, *statuses: int) -> int:
        """How many had one of these answers."""
        return sum(len(found) for name, found in self.latencies.items() if int(name.partition(" ")[2]) in statuses)


class Load:
    """Load on one machine; files go into `folder`."""

    def __init__(self, folder: Path, use_wrk: bool = True) -> None:
        self._folder = folder
        self._wrk = WRK if use_wrk else None
        self._processes = 1

    @property
    def name(self) -> str:
        """Which generators are used."""
        own = "the project's own generator (Python on epoll)"
        closed = "wrk" if self._wrk else f"{own}, at most {PROCESSES_MAX} processes"
        return f"closed loop by {closed}; open loop by {own}"

    def closed(self, url: str, requests: Requests, seconds: float, connections: int = 64) -> Sent:
        """Keep `connections` requests under way. Raises LoadFailed when most of them are refused."""
        sent = (self._by_wrk if self._wrk else self._by_enough)(url, requests, seconds, connections)
        if sent.refused > sent.answered / 2:
            raise LoadFailed(f"{sent.refused} of {sent.answered} requests to {url} were refused")
        return sent

    def _by_enough(self, url: str, requests: Requests, seconds: float, connections: int) -> Sent:
        """By as many processes of our own as it takes, so that none of them is what limits."""
        while True:
            sent = self._by_ourselves(url, requests, seconds, connections)
            if sent.busy < BUSY or self._processes >= PROCESSES_MAX:
                return sent
            self._processes += 1  # from now on: whoever was measured with one was not held back by it

    def open(
        self,
        url: str,
        requests: Requests,
        rate: float,
        seconds: float,
        *,
        seed: int,
        waiting: Requests | None = None,
        waiting_share: float = 0.0,
        connections: int = 32,
        connections_max: int = 1000,
        abandon: bool = False,
    ) -> Arrived:
        """`rate` requests a second, whatever the answers do; of them a share of the kind `waiting`. `abandon`: what could not be
        sent by the end is not sent any more."""
        processes = min(PROCESSES_MAX, max(1, math.ceil(rate / OPEN_RATE_MAX)))
        task = {
            "rate": rate / processes,
            "waiting_template": (waiting or requests).template,
            "waiting_share": waiting_share,
            "half": NUMBERS_EACH,
            "connections": max(1, connections // processes),
            "connections_max": connections_max // processes,
            "grace_seconds": GRACE_SECONDS,
            "abandon": abandon,
        }
        started, all_told = self._run(url, requests, seconds, processes, task, seed)
        found = Arrived(started)
        for told in all_told:
            found.unsent += told["unsent"]
            found.seconds = max(found.seconds, told["sending_seconds"])
            found.broken += told["broken"]
            for name, micros in told["latencies_us"].items():
                found.latencies[name] += [math.inf if value < 0 else value / 1e6 for value in micros]
            for name, micros in told["service_us"].items():
                found.service[name] += [value / 1e6 for value in micros]
        return found

    def _by_wrk(self, url: str, requests: Requests, seconds: float, connections: int) -> Sent:
        template, order = self._folder / "template", self._folder / "order"
        template.write_bytes(requests.template.encode())
        order.write_text("".join(f"{session}\n" for session in requests.order), "ascii")
        length = f"-d{max(1, round(seconds))}s"
        command = [str(self._wrk), "-t1", f"-c{connections}", length, "--timeout", "30s", "-s", str(SCRIPT), url, "--"]
        started = time.monotonic()
        done = subprocess.run(
            [*command, str(template), str(order)], capture_output=True, text=True, timeout=seconds + SPARE_SECONDS, check=False
        )
        if done.returncode:
            raise LoadFailed(f"wrk failed: {done.stderr or done.stdout}")
        told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
        return Sent(told["answered"], told["refused"], told["broken"], started, told["seconds"])

    def _by_ourselves(self, url: str, requests: Requests, seconds: float, connections: int) -> Sent:
        task = {"connections": max(1, connections // self._processes)}
        started, all_told = self._run(url, requests, seconds, self._processes, task, 0)
        sent = Sent(0, 0, 0, started, max(told["seconds"] for told in all_told), max(told["busy"] for told in all_told))
        for told in all_told:
            statuses = {int(status): count for status, count in told["statuses"].items()}
            refused = sum(count for status, count in statuses.items() if status >= 400)
            sent = replace(
                sent,
                answered=sent.answered + sum(statuses.values()),
                refused=sent.refused + refused,
                broken=sent.broken + told["broken"],
            )
        return sent

    def _run(
        self, url: str, requests: Requests, seconds: float, processes: int, task: dict[str, Any], seed: int
    ) -> tuple[float, list[dict[str, Any]]]:
        """Let so many generators work at once. When they began, and what each tells."""
        common = {**task, "url": url, "template": requests.template, "order": list(requests.order), "seconds": seconds}
        running = []
        for number in range(processes):
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.generator"],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if not name.startswith("AFORO_")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            own = {**common, "first_number": 2 * number * NUMBERS_EACH, "seed": seed + 100 * number}
            _write(child, json.dumps(own) + "\n")
            running.append(child)
        for child in running:
            if child.stdout.readline() != "ready\n":
                raise LoadFailed("a load generator did not start")
        started = time.monotonic()
        for child in running:
            _write(child, "go\n")
        told = []
        for child in running:
            shown, _ = child.communicate(timeout=seconds + SPARE_SECONDS)
            if child.returncode:
                raise LoadFailed(f"a load generator ended with {child.returncode}")
            told.append(json.loads(shown))
        return started, told


def _write(child: subprocess.Popen[str], text: str) -> None:
    assert child.stdin is not None
    child.stdin.write(text)
    child.stdin.flush()
