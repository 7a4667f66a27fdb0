"""Keeps a stack of processes running: starts them in order, starts again what died, with back-off, stops all in order.

It knows nothing of what the processes are; ops/up.py says that. One thread calls `look` again and again; nothing here waits
for one child while another needs it, except at the start and at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

READY_SECONDS = 60.0
LOOK_SECONDS = 0.05
FIRST_BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 10.0
STEADY_SECONDS = 30.0  # a child that ran so long begins its back-off anew
SHOWN_LOG_BYTES = 2000


class ChildFailed(Exception):
    """A process ended while it was being started, or was not ready in time; the message shows the end of its log."""


class Interrupted(ChildFailed):
    """Somebody asked to stop while a process was being started."""


@dataclass(frozen=True, slots=True)
class Program:
    """A process to run: how it is started, when it is ready, how it is stopped."""

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    user: int | None = None
    group: int | None = None
    stop_signal: Signals = SIGTERM
    stop_seconds: float = 45.0
    is_ready: Callable[[], bool] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Seen:
    """A child as the status screen shows it."""

    name: str
    pid: int | None
    seconds: float
    restarts: int


def launch(program: Program, log: Path) -> subprocess.Popen[bytes]:
    """Start it, in a session of its own so that a Ctrl-C at the terminal reaches only us; its output goes to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=program.folder,
            env=program.environment,
            user=program.user,
            group=program.group,
            extra_groups=[] if program.user is not None else None,
            umask=0o077,
            start_new_session=True,
        )


class Child:
    """One program and its process, over all its lives."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.restarts = 0
        self._back_off = FIRST_BACK_OFF_SECONDS
        self._start_at = 0.0
        self._start()

    def _start(self) -> None:
        self.process: subprocess.Popen[bytes] | None = launch(self.program, self.log)
        self._started = time.monotonic()

    def look(self) -> bool:
        """Start it again if it died and its time has come. Whether its pid changed."""
        now = time.monotonic()
        if self.process is None:
            if now < self._start_at:
                return False
            try:
                self._start()
            except OSError:  # no room for its log, or for another process: there may be later
                self._wait(now)
                return False
            self.restarts += 1
            return True
        if self.process.poll() is None:
            return False
        _kill_group(self.process.pid)  # what it had started itself ends with it
        if now - self._started > STEADY_SECONDS:
            self._back_off = FIRST_BACK_OFF_SECONDS
        self.process = None
        self._wait(now)
        return True

    def _wait(self, now: float) -> None:
        """It is started again later, and after that later still."""
        self._start_at = now + self._back_off
        self._back_off = min(self._back_off * 2, LONGEST_BACK_OFF_SECONDS)

    def wait_until_ready(self, interrupted: Callable[[], bool]) -> None:
        """Wait until it is ready. Raises ChildFailed, Interrupted."""
        deadline = time.monotonic() + READY_SECONDS
        while self.program.is_ready is not None and not self.program.is_ready():
            if interrupted():
                raise Interrupted(f"stopped while {self.program.name} was being started")
            if self.process is None or self.process.poll() is not None:
                raise ChildFailed(f"{self.program.name} ended at its start; the end of {self.log}:\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.program.name} was not ready within {READY_SECONDS:.0f} s; see {self.log}")
            time.sleep(LOOK_SECONDS)

    def stop(self, hurry: Callable[[], bool]) -> None:
        """End it in its own manner, by force when that takes too long or `hurry()` says so."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(self.program.stop_signal)
        deadline = time.monotonic() + self.program.stop_seconds
        while self.process.poll() is None and time.monotonic() < deadline and not hurry():
            time.sleep(LOOK_SECONDS)
        _kill_group(self.process.pid)
        self.process.wait()

    def seen(self) -> Seen:
        """How it is now."""
        pid = self.process.pid if self.process is not None else None
        return Seen(self.program.name, pid, time.monotonic() - self._started if pid else 0.0, self.restarts)

    def _last_words(self) -> str:
        return self.log.read_bytes()[-SHOWN_LOG_BYTES:].decode("utf-8", "replace").strip()


class Supervisor:
    """Children in the order in which they were started."""

    def __init__(
        self, logs: Path, on_change: Callable[[dict[str, int]], None], interrupted: Callable[[], bool] = lambda: False
    ) -> None:
        """`on_change` is told every name's pid whenever one of them has changed."""
        self._logs = logs
        self._on_change = on_change
        self._interrupted = interrupted
        self._children: list[Child] = []

    def start(self, program: Program) -> None:
        """Start a program and wait until it is ready. Raises ChildFailed, Interrupted."""
        child = Child(program, self._logs / f"{program.name}.log")
        self._children.append(child)
        self._on_change(self.pids())
        child.wait_until_ready(self._interrupted)

    def look(self) -> None:
        """Start again what died. Call it often."""
        changed = [child.look() for child in self._children]
        if any(changed):
            self._on_change(self.pids())

    def pids(self) -> dict[str, int]:
        """The pids of those that run, by name."""
        return {child.program.name: child.process.pid for child in self._children if child.process is not None}

    def seen(self) -> Iterator[Seen]:
        """Every child, as it is now."""
        return (child.seen() for child in self._children)

    def stop(self, order: tuple[str, ...], hurry: Callable[[], bool]) -> None:
        """Stop all, those named in `order` first, the others from the last started to the first."""
        rest = [child for child in reversed(self._children) if child.program.name not in order]
        first = [child for name in order for child in self._children if child.program.name == name]
        for child in (*first, *rest):
            child.stop(hurry)
        self._children.clear()


def started_at(pid: int) -> str | None:
    """When this process started, in the system's own words; None if there is no such process. Tells a pid used anew."""
    try:
        # After the name in parentheses, which may hold anything; the start is the 22nd field of all.
        return Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False)
    return asked.stdout.strip() or None


def end_leftovers(started: dict[int, str], gently: frozenset[int], seconds: float) -> list[int]:
    """End processes of an earlier run that are still the ones they were. Their pids.

    Those in `gently` are asked to, and killed only when that takes longer than `seconds`; the others are killed at once.
    """
    leftovers = [pid for pid, start in started.items() if started_at(pid) == start]
    for pid in leftovers:
        if pid not in gently:
            _kill_group(pid)
            continue
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)  # a stopped process would never hear the other
            os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(started_at(pid) == started[pid] for pid in leftovers):
        time.sleep(LOOK_SECONDS)
    for pid in leftovers:
        if started_at(pid) == started[pid]:
            _kill_group(pid)
    return leftovers


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, SIGKILL)
