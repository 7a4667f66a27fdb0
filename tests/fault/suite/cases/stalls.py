"""A worker that stands still while it holds a partition, and goes on long after others have taken over."""

from __future__ import annotations

import signal
import time

from tests.fault.suite.case import Run, case
from tests.fault.suite.rigged import Rig, strikes
from tests.fault.suite.stage import send
from tests.support.driving import state_of
from tests.support.waiting import until

INSIDE = ("after_read", "mid_transaction", "before_commit")
MOVES_ON_SECONDS = 5.0
POOL = 4


@case(
    "hung-holder",
    fault="hung holder",
    injected=f"SIGSTOP for 30 s of processes of a worker's pool at {', '.join(INSIDE)} and after_commit, then CONT",
    passes="the check; the partition moves on within 5 s; late commits fail; counts never go back",
    in_tests=0.15,
)
def hung_holder(run: Run) -> None:
    """All of one worker's processes stop, each at a point of its own choice; another worker and the sweeper have to take over."""
    log = run.folder("stops") / "stops.log"
    rig = Rig(at=(*INSIDE, "after_commit"), do="stop", again=40, seed=run.seed, log=str(log))
    stage = run.stage(workers=2, pool=POOL, rigs={"worker": rig})
    hold_seconds = run.scaled(30, least=5)
    rounds = run.scaled(4)
    with run.traffic(stage, per_second=200) as traffic:
        for number in range(1, rounds + 1):
            until(lambda: len(_stopped(stage.children("worker"))) == POOL, 60, "all of the worker's processes have stopped")
            time.sleep(hold_seconds)
            for pid in stage.children("worker"):
                send(pid, signal.SIGCONT)
            late = sum(strike.point in INSIDE for strike in strikes(log)[: number * POOL])
            until(lambda late=late: stage.log("worker").count("drain_interrupted") >= late, 20, "those in a transaction fail")
        time.sleep(1)
    for pid in stage.children("worker"):
        send(pid, signal.SIGCONT)
    moments = [strike.ms for strike in strikes(log)]
    run.injected(len(moments))
    run.recovered_after(moments, run.check(stage, traffic.history))
    worst = max(run.result.recoveries, default=0)
    run.require(worst <= run.bound(MOVES_ON_SECONDS), f"something waited {worst:.2f} s")


def _stopped(pids: list[int]) -> list[int]:
    return [pid for pid in pids if state_of(pid) == "T"]
