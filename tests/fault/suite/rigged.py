"""Runs a module as `python -m` would, with something arranged beforehand: `python -m tests.fault.suite.rigged celery ...`.

What production runs has no switch to take a guard away or to stop in the middle; here a process of a test gets one, from
the variable FAULT_RIG. What is arranged before a fork holds in every child, each counting for itself.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from core import crashpoints, rounds, service, transaction
from core.decide import Decision, State, decide
from core.doorbell import Doorbell
from core.mailbox import Mailbox
from ops.supervisor import Program

VARIABLE = "FAULT_RIG"
MODULE = "tests.fault.suite.rigged"
LINGER_SECONDS = 0.03
NO_PARTITION_LOCK = """
BEGIN; SELECT free, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, l.*
FROM (SELECT %s::int, %s::int[]) AS w(namespace, free), load_batch(%s, %s, %s, %s) AS l"""


@dataclass(frozen=True, slots=True)
class Rig:
    """`at`: crash points, as core/crashpoints.py reads them; `do` there, whenever a process comes by: kill, stop or linger.
    `permits`: a folder; only who finds a file there with the point's name does it, and takes the file. `log`: a file that gets a
    line for each.
    """

    at: tuple[str, ...] = ()
    do: str = "kill"
    permits: str | None = None
    log: str | None = None
    off: tuple[str, ...] = ()  # guards to do without
    bells: int = 1  # how often each is rung
    miscounts: bool = False  # decide() sells a place too many
    half: int | None = None  # of each mailbox, it sees only every second entry: the even (0) or the odd (1) ones

    def applied_to(self, program: Program) -> Program:
        """The same program, rigged."""
        python, flag, *rest = program.command
        assert flag == "-m", program.command
        environment = {**program.environment, VARIABLE: json.dumps(asdict(self))}
        return replace(program, command=[python, "-m", MODULE, *rest], environment=environment)


@dataclass(frozen=True, slots=True)
class Struck:
    """A line of a rig's log: which process did what it was told, where, and when (wall clock)."""

    pid: int
    point: str
    ms: float


def strikes(log: Path) -> list[Struck]:
    """All of them so far."""
    lines = log.read_text("ascii").splitlines() if log.exists() else []
    return [Struck(int(pid), point, float(ms)) for pid, point, ms in map(str.split, lines)]


def arrange(rig: Rig) -> None:
    """Arrange it in this process and in those it will start."""
    _arm(rig)
    if "partition lock" in rig.off:
        transaction.BEGIN_BATCH = NO_PARTITION_LOCK
    if rig.off:
        rounds.STINT_SECONDS = 0.0  # who is to meet another must not keep out of its way
    if rig.bells != 1:
        _ring_often(rig)
    if rig.miscounts:
        service.decide = _decide_with_a_place_too_many
    if rig.half is not None:
        _see_half(rig.half)


def _arm(rig: Rig) -> None:
    for spec in rig.at:
        point = spec.partition("#")[0]
        crashpoints.arm(spec, lambda point=point: _come_by(rig, point))


def _come_by(rig: Rig, point: str) -> None:
    crashpoints.arm(point, lambda: _come_by(rig, point))
    if rig.permits is not None:
        try:
            os.unlink(os.path.join(rig.permits, point))
        except FileNotFoundError:
            return
    _log(rig, point)
    if rig.do == "kill":
        crashpoints.kill_this_process()
    elif rig.do == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        time.sleep(LINGER_SECONDS)


def _log(rig: Rig, what: str) -> None:
    if rig.log is not None:
        with open(rig.log, "a", encoding="ascii") as log:
            log.write(f"{os.getpid()} {what} {time.time() * 1000:.1f}\n")


def _ring_often(rig: Rig) -> None:
    publish: Callable[[Any, int], None] = Doorbell._publish

    def publish_often(self: Doorbell, partition: int) -> None:
        _log(rig, "bell")
        for _ in range(rig.bells):
            publish(self, partition)

    Doorbell._publish = publish_often


def _see_half(half: int) -> None:
    take = Mailbox.take

    def take_half(self: Mailbox, partitions: Any, limit: int) -> Any:
        return {partition: half_of(taken) for partition, taken in take(self, partitions, limit).items()}

    def half_of(taken: Any) -> Any:
        seen = [entry for entry in taken.entries if entry.command.seq % 2 == half]
        return replace(taken, suspect="", near="", entries=seen)

    Mailbox.take = take_half


def _decide_with_a_place_too_many(state: State, commands: list[Any]) -> Decision:
    roomier = {s.id: msgspec.structs.replace(s, capacity=s.capacity + 1) for s in state.sessions.values()}
    decision = decide(State(roomier, state.live, state.waitlists, state.newest), commands)
    sessions = {s.id: msgspec.structs.replace(s, capacity=s.capacity - 1) for s in decision.sessions.values()}
    return replace(decision, sessions=sessions)


def main() -> None:
    """Arrange what FAULT_RIG says, then run the module named first, with the arguments after it."""
    arrange(Rig(**json.loads(os.environ[VARIABLE])))
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
