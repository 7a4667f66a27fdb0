"""Processes that are killed: workers at any moment, workers at named points, the API between acceptance and bell."""

from __future__ import annotations

import signal
import time

from tests.fault.suite.case import Run, case, quantile
from tests.fault.suite.stage import Stage, send
from tests.support.waiting import until

MOVES_ON_SECONDS = 3.0


@case(
    "worker-crash",
    fault="worker crash",
    injected="kill -9 of a process of a worker's pool, of its first process, or of the sweeper, 50 times during 50,000 requests",
    passes="the check; recovery p99 within 3 s",
    in_tests=None,
)
def worker_crash(run: Run) -> None:
    """Workers die at any moment, whatever they hold."""
    stage = run.stage(workers=2)
    deaths = run.scaled(50, least=4)
    moments = []
    with run.traffic(stage, requests=run.scaled(50_000)) as traffic:
        while not traffic.is_over or len(moments) < deaths:
            time.sleep(run.random.uniform(0.2, 0.8))
            moment = time.time() * 1000
            if send(_victim(run, stage), signal.SIGKILL):
                moments.append(moment)
    run.injected(len(moments))
    run.recovered_after(moments, run.check(stage, traffic.history))
    worst = quantile(run.result.recoveries, 0.99)
    run.require(worst <= MOVES_ON_SECONDS, f"recovery p99 is {worst:.2f} s")


def _victim(run: Run, stage: Stage) -> int:
    """Mostly a process of a pool, now and then a whole worker or the sweeper."""

    def chosen() -> int | None:
        sort = run.random.choice(("pool", "pool", "pool", "worker", "sweeper"))
        names = stage.names("sweeper" if sort == "sweeper" else "worker")
        if not names:
            return None
        name = run.random.choice(names)
        pids = stage.children(name) if sort == "pool" else [stage.pid(name)]
        return run.random.choice(pids) if pids else None

    return until(chosen, 20, "there is somebody to kill")
