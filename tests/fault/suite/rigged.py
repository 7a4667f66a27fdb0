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
from typing import Any

import msgspec

from core import crashpoints, service, store
from core.decide import Decision, State, decide
from core.doorbell import Doorbell
from core.mailbox import Mailbox
from ops.supervisor import Program

VARIABLE = "FAULT_RIG"
MODULE = "tests.fault.suite.rigged"
LINGER_SECONDS = 0.03
NO_PARTITION_LOCK = "SELECT true, %s::bigint * 0 + %s::bigint * 0 + (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


@dataclass(frozen=True, slots=True)
class Rig:
    """`at`: a crash point, as core/crashpoints.py reads it; `do` there: kill, stop or linger, and (but for kill) again at
    each `again`th time. `log`: a file that gets the time of each. `off`: guards to do without. `bells`: how often each is rung.
    """

    at: str | None = None
    do: str = "kill"
    again: int | None = None
    log: str | None = None
    off: tuple[str, ...] = ()
    bells: int = 1
    miscounts: bool = False  # decide() sells a place too many
    halves: bool = False  # of each mailbox, a process sees only every second entry: its pid says which

    def applied_to(self, program: Program) -> Program:
        """The same program, rigged."""
        python, flag, *rest = program.command
        assert flag == "-m", program.command
        environment = {**program.environment, VARIABLE: json.dumps(asdict(self))}
        return replace(program, command=[python, "-m", MODULE, *rest], environment=environment)


def arrange(rig: Rig) -> None:
    """Arrange it in this process."""
    if rig.at is not None:
        crashpoints.arm(rig.at, lambda: _act(rig))
    if "partition lock" in rig.off:
        store.LOCK = NO_PARTITION_LOCK
    if "row lock" in rig.off:
        assert "FOR UPDATE" in store.SESSIONS_FOR_UPDATE
        store.SESSIONS_FOR_UPDATE = store.SESSIONS_FOR_UPDATE.replace("FOR UPDATE", "")
    if rig.bells != 1:
        _ring_often(rig.bells)
    if rig.miscounts:
        service.decide = _decide_with_a_place_too_many
    if rig.halves:
        _see_half()


def _act(rig: Rig) -> None:
    if rig.log is not None:
        with open(rig.log, "a", encoding="ascii") as log:
            log.write(f"{os.getpid()} {time.time()}\n")
    if rig.do == "kill":
        crashpoints.kill_this_process()
    if rig.again is not None:
        name = rig.at.partition("#")[0]
        crashpoints.arm(f"{name}#{rig.again}", lambda: _act(rig))
    if rig.do == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        time.sleep(LINGER_SECONDS)


def _ring_often(bells: int) -> None:
    publish: Callable[[Any, int], None] = Doorbell._publish

    def publish_often(self: Doorbell, partition: int) -> None:
        for _ in range(bells):
            publish(self, partition)

    Doorbell._publish = publish_often


def _see_half() -> None:
    take = Mailbox.take

    def take_half(self: Mailbox, partition: int, limit: int) -> Any:
        taken = take(self, partition, limit)
        seen = [e for e in taken.entries if int(e.stream_id.partition("-")[2]) % 2 == os.getpid() % 2]
        return replace(taken, suspect="", entries=seen)

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
