"""Doorbells that nobody hears, and doorbells that ring ten times: speed may suffer, within a bound, and nothing else."""

from __future__ import annotations

import time

from core.doorbell import QUEUE
from tests.fault.suite.books import Books
from tests.fault.suite.case import Run, case, quantile
from tests.fault.suite.rigged import Rig
from tests.fault.suite.stage import Stage

APPLIED_SECONDS = 1.5
PER_SECOND = 300


@case(
    "no-bells",
    fault="no bells",
    injected="every doorbell goes to a broker at which no worker listens",
    passes="the check; accept to outcome p99 within 1.5 s",
    in_tests=None,
)
def no_bells(run: Run) -> None:
    """The sweeper alone finds what waits."""
    elsewhere = run.servers().deployment()
    broker = {"AFORO_BROKER_URL": elsewhere.redis_url}
    stage = run.stage(environments={"api": broker, "sweeper": broker})
    _soon(run, _under_traffic(run, stage))
    with elsewhere.redis() as client:
        run.injected(client.llen(QUEUE))
    run.servers().drop(elsewhere)
    run.require(run.result.injections > 0, "no bell was dropped")
    run.require("swept" in stage.log("sweeper"), "the sweeper had nothing to do")


@case(
    "many-bells",
    fault="each bell ten times",
    injected="every doorbell is sent ten times",
    passes="the check; accept to outcome p99 within 1.5 s",
    in_tests=None,
)
def many_bells(run: Run) -> None:
    """Workers come again and again to find nothing, or somebody at work."""
    log = run.folder("bells") / "bells.log"
    rigs = {name: Rig(bells=10, log=str(log)) for name in ("api", "worker", "sweeper")}
    stage = run.stage(rigs=rigs)
    _soon(run, _under_traffic(run, stage))
    run.injected(len(log.read_text("ascii").splitlines()))
    run.require(run.result.injections > 0, "no bell was rung")


def _under_traffic(run: Run, stage: Stage) -> Books:
    with run.traffic(stage, per_second=PER_SECOND, connections=16) as traffic:
        time.sleep(run.scaled(30, least=3))
    return run.check(stage, traffic.history)


def _soon(run: Run, found: Books) -> None:
    waits = [(row.applied_ms - row.accepted_ms) / 1000 for row in found.rows()]
    run.note(f"accept to outcome: p50 {quantile(waits, 0.5):.2f} s, p99 {quantile(waits, 0.99):.2f} s")
    run.require(quantile(waits, 0.99) <= run.bound(APPLIED_SECONDS), f"accept to outcome p99 is {quantile(waits, 0.99):.2f} s")
