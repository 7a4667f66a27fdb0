"""A worker that stands still while it holds a partition, and goes on long after others have taken over."""

from __future__ import annotations

import signal
import time

from tests.fault.suite.case import Run, case
from tests.fault.suite.rigged import Rig, strikes
from tests.fault.suite.stage import send
from tests.support.waiting import until

INSIDE = ("after_read", "mid_transaction", "before_commit")
POINTS = (*INSIDE, "after_commit")
MOVES_ON_SECONDS = 5.0
APART_SECONDS = 7  # so that no partition is held by one that hangs after another


@case(
    "hung-holder",
    fault="hung holder",
    injected=f"SIGSTOP for 30 s of worker processes at {', '.join(INSIDE)} and after_commit, then CONT",
    passes="the check; the partition moves on within 5 s; late commits fail; counts never go back",
    in_tests=0.1,
)
def hung_holder(run: Run) -> None:
    """Processes stop one after the other, each with a partition in its hands; the others and the sweeper have to take over."""
    permits = run.folder("permits")
    log = run.folder("stops") / "stops.log"
    rig = Rig(at=POINTS, do="stop", permits=str(permits), log=str(log))
    stage = run.stage(workers=2, pool=len(POINTS), rigs={"worker": rig})
    points, stops = run.scaled(len(POINTS)), 0
    with run.traffic(stage, per_second=200) as traffic:
        for _ in range(run.scaled(2)):
            for point in run.random.sample(POINTS, points):
                (permits / point).touch()
                stops += 1
                until(lambda: len(strikes(log)) == stops, 60, f"somebody comes by {point}")  # noqa: B023  at once
                time.sleep(APART_SECONDS if points > 1 else 0)
            time.sleep(run.scaled(30 - APART_SECONDS, least=5))
            for strike in strikes(log):
                send(strike.pid, signal.SIGCONT)
            late = sum(strike.point in INSIDE for strike in strikes(log))
            until(lambda: stage.log("worker").count("drain_interrupted") >= late, 30, "late commits fail")  # noqa: B023  at once
        time.sleep(1)
    run.injected(stops)
    run.recovered_after([strike.ms for strike in strikes(log)], run.check(stage, traffic.history))
    worst = max(run.result.recoveries, default=0)
    run.require(worst <= run.bound(MOVES_ON_SECONDS), f"something waited {worst:.2f} s")
