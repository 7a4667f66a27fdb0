"""Processes that are killed: workers at any moment, workers at named points, the API between acceptance and bell."""

from __future__ import annotations

import signal
import time
from collections import Counter
from itertools import count
from pathlib import Path

from tests.fault.suite.case import Run, case, quantile
from tests.fault.suite.clients import Crowd, wish
from tests.fault.suite.history import MAYBE, Wish
from tests.fault.suite.rigged import Rig, strikes
from tests.fault.suite.stage import Stage, send
from tests.support.waiting import until

MOVES_ON_SECONDS = 3.0
REQUESTS_PER_SECOND = 700
POINTS = ("after_read", "mid_transaction", "before_commit", "after_commit", "between_publishes", "after_publish")
HOT_SESSIONS = 2
BURST = 270  # for each of them: more than is published in one part
WORKERS_FIRST_SECONDS = 2.0
DRAINED_SECONDS = 2.0


@case(
    "worker-crash",
    fault="worker crash",
    injected="kill -9 of a process of a worker's pool or of a whole worker, 50 times during 50,000 requests",
    passes="the check; recovery p99 within 3 s",
    in_tests=0.06,
)
def worker_crash(run: Run) -> None:
    """Workers die at any moment, whatever they hold."""
    stage = run.stage(workers=2)
    deaths = run.scaled(50)
    requests = run.scaled(50_000)
    moments: list[float] = []
    with run.traffic(stage, requests=requests, per_second=REQUESTS_PER_SECOND) as traffic:
        pause = requests / REQUESTS_PER_SECOND / deaths
        while len(moments) < deaths:
            time.sleep(pause * run.random.uniform(0.5, 1.4))
            moment = time.time() * 1000
            if send(_victim(run, stage), signal.SIGKILL):
                moments.append(moment)
        traffic.join()
    run.injected(len(moments))
    run.recovered_after(moments, run.check(stage, traffic.history))
    worst = quantile(run.result.recoveries, 0.99)
    run.require(worst <= run.bound(MOVES_ON_SECONDS), f"recovery p99 is {worst:.2f} s")


def _victim(run: Run, stage: Stage) -> int:
    """Mostly a process of a pool, now and then a whole worker."""

    def chosen() -> int | None:
        names = stage.names("worker")
        if not names:
            return None
        name = run.random.choice(names)
        pids = [stage.pid(name)] if run.random.random() < 0.2 else stage.children(name)
        return run.random.choice(pids) if pids else None

    return until(chosen, 20, "there is somebody to kill")


@case(
    "crash-points",
    fault="crash points",
    injected=f"a process of the pool killed exactly at {', '.join(POINTS)}: 20 times each, with a good drain between",
    passes="the check",
    in_tests=0.05,
)
def crash_points(run: Run) -> None:
    """Whoever comes by a point for which there is a permit dies there; the sweeper drains what it left."""
    permits = run.folder("permits")
    log = run.folder("deaths") / "deaths.log"
    stage = run.stage(pool=4, rigs={"worker": Rig(at=POINTS, permits=str(permits), log=str(log))})
    hot = run.venues(stage, *({"capacity": 200, "waitlist_capacity": 100} for _ in range(HOT_SESSIONS)))[-HOT_SESSIONS:]
    wanted = [point for point in POINTS for _ in range(run.scaled(20))]
    run.random.shuffle(wanted)
    crowd = Crowd(stage.url)
    people = count()
    while wanted:
        stage.whole("worker")
        for _ in hot:
            if wanted and not (permits / wanted[-1]).exists():
                (permits / wanted.pop()).touch()
        _burst(stage, crowd, [_anybody(run, venue.id, next(people)) for venue in hot for _ in range(BURST)], permits)
        for left in permits.iterdir():  # nobody came by in time
            wanted.insert(0, left.name)
            left.unlink()
    seen = Counter(strike.point for strike in strikes(log))
    run.injected(seen.total())
    run.note(", ".join(f"{seen[point]} at {point}" for point in POINTS))
    run.recovered_after([strike.ms for strike in strikes(log)], run.check(stage, crowd.history))


def _burst(stage: Stage, crowd: Crowd, wishes: list[Wish], permits: Path) -> None:
    """Let them pile up, so that whoever drains takes many at once; the workers first, and the sweeper what they leave."""
    with stage.stopped("sweeper"):
        with stage.stopped("worker"):
            crowd.send(wishes)
        deadline = time.monotonic() + WORKERS_FIRST_SECONDS
        while stage.waiting() and any(permits.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
    stage.drained(60)


def _anybody(run: Run, session: int, number: int) -> Wish:
    if run.random.random() < 0.3:
        return wish(session, "cancel", f"guest-{run.random.randrange(number + 1)}@example.org")
    return wish(session, "reserve", f"guest-{number}@example.org", seats=run.random.choice((1, 1, 2)))


@case(
    "api-crash",
    fault="API crash",
    injected="kill -9 of a gunicorn process between the script's acceptance and the bell, 50 times",
    passes="the check; everything drained within 2 s",
    in_tests=None,
)
def api_crash(run: Run) -> None:
    """What was accepted and never rung for, or answered, is the sweeper's."""
    log = run.folder("deaths") / "deaths.log"
    stage = run.stage(rigs={"api": Rig(at=("accepted#3",), log=str(log))})
    wanted = run.scaled(50)
    with run.traffic(stage, per_second=150, connections=16) as traffic:
        until(lambda: len(strikes(log)) >= wanted, 20 + 10 * wanted, f"{wanted} processes of the API die")
    moments = [strike.ms for strike in strikes(log)]
    run.injected(len(moments))
    run.note(f"{sum(call.fate == MAYBE for call in traffic.history.calls)} calls were left without an answer")
    run.recovered_after(moments, run.check(stage, traffic.history))
    worst = max(run.result.recoveries, default=0)
    run.require(worst <= run.bound(DRAINED_SECONDS), f"something waited {worst:.2f} s")
    run.require(any(call.fate == MAYBE for call in traffic.history.calls), "nobody noticed anything")
