"""Real processes for tests: servers, gunicorn, Celery, the sweeper; each can be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from ops.supervisor import Program, launch
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]


class Running:
    """A program that runs for a test, with its log beside it."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.log = folder / f"{program.name}.log"
        self.start()

    def start(self) -> None:
        """Start it (again) and wait until it is ready."""
        self.process = launch(self.program, self.log)
        try:
            if self.program.is_ready is not None:
                until(self._is_ready_or_dead, 60, f"{self.program.name} is ready; its log: {self.log}")
        except BaseException:  # also whoever breaks it off: nobody else knows of it yet
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """What it has written so far, over all its lives."""
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """End it and the processes it started as a power cut would. When this returns, nothing listens for them any more."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(10)
            until(lambda: not runs_in_group(self.pid), 10, f"the processes of {self.program.name} are gone")

    def stop(self) -> int:
        """End it as an operator would. Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(self.program.stop_signal)
        try:
            return self.process.wait(self.program.stop_seconds)
        finally:
            self.kill()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        self.process.send_signal(number)

    def _is_ready_or_dead(self) -> bool:
        assert self.process.poll() is None, f"{self.program.name} ended at its start:\n{self.output()[-3000:]}"
        return self.program.is_ready is None or self.program.is_ready()


def python_program(name: str, environment: dict[str, str], *arguments: str, folder: Path = ROOT) -> Program:
    """A program of this checkout, run by the Python that runs the tests."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("AFORO_", "PROMETHEUS_", "PYTEST_", "COV_"))}
    return Program(
        name=name,
        command=[sys.executable, *arguments],
        environment={**inherited, "PYTHONUNBUFFERED": "1", **environment},
        folder=folder,
    )


def worker_program(environment: dict[str, str], processes: int = 1) -> Program:
    """A Celery worker."""
    command = (
        "-m",
        "celery",
        "--app",
        "worker.app",
        "worker",
        "--concurrency",
        str(processes),
        "--loglevel",
        "WARNING",
    )
    return python_program("worker", environment, *command)


def sweeper_program(environment: dict[str, str]) -> Program:
    """The sweeper."""
    return python_program("sweeper", environment, "-m", "worker.sweeper")


def runs_in_group(group: int) -> bool:
    """Whether a process of this group runs; one that only waits to be collected does not."""
    shown = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, timeout=10, check=False)
    return any(int(pgid) == group and not state.startswith("Z") for pgid, state in map(str.split, shown.stdout.splitlines()))


def children_of(pid: int) -> list[int]:
    """The pids of the processes that this one has started and that still run."""
    shown = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, timeout=10, check=False)
    return [int(line) for line in shown.stdout.split()]


def answers(url: str, *, anything: bool = False) -> bool:
    """Whether a GET is answered with 200, or with anything at all."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return anything or answer.status == 200
    except urllib.error.HTTPError:
        return anything
    except OSError:
        return False
