"""More than it can take: refusals in time, and no process that grows."""

from __future__ import annotations

import time

from tests.fault.suite.case import Run, case, quantile
from tests.fault.suite.clients import Manners
from tests.fault.suite.history import Call
from tests.fault.suite.stage import Stage, own_memory_bytes
from tests.support.processes import children_of
from tests.support.stack import Servers

TIMES = 3
ACCEPT_SECONDS = 0.25
GROWTH = 1.2
SMALL_BYTES = 4 * 2**20  # less than this is no growth, whatever its share
MEASURED_SECONDS = 5


@case(
    "overload",
    fault="overload",
    injected=f"{TIMES} times what it can take for 2 minutes (two commands a transaction, 200 may wait in each partition)",
    passes="the check; 503 with Retry-After; accept p99 of the accepted within 250 ms; no process grows by more than a fifth",
    in_tests=None,
)
def overload(run: Run) -> None:
    """Queues fill, and what is over is refused."""
    servers = run.own_servers()
    stage = run.stage(servers, pool=1, max_queued="200", batch_size="2", job_ttl_seconds="5")
    venues = run.venues(stage)
    can_take = _measured(run, stage)
    seconds = run.scaled(120, least=12)
    options = {"per_second": TIMES * can_take, "connections": 128, "manners": Manners(pauses=False, waits=0)}
    with run.traffic(stage, venues, **options) as traffic:
        time.sleep(seconds / 4)
        before = _memory(stage, servers)
        time.sleep(3 * seconds / 4)
        after = _memory(stage, servers)
    calls = traffic.history.calls
    refused = [call for call in calls if call.status == 503]
    run.injected(len(refused))
    run.check(stage, traffic.history)
    _answers(run, calls, refused, offered=len(calls) / seconds / can_take)
    for pid, (name, size) in after.items():
        grown = size - before.get(pid, (name, size))[1]
        run.require(
            size <= GROWTH * (size - grown) or grown < SMALL_BYTES,
            f"{name} grew from {(size - grown) / 2**20:.0f} to {size / 2**20:.0f} MiB",
        )


def _measured(run: Run, stage: Stage) -> float:
    """Commands applied a second, with more waiting than that."""
    with run.traffic(stage, connections=32, manners=Manners(waits=0)):
        time.sleep(MEASURED_SECONDS)
        before = _applied(stage)
        time.sleep(MEASURED_SECONDS)
        can_take = (_applied(stage) - before) / MEASURED_SECONDS
    stage.drained()
    run.note(f"it can take {can_take:.0f} commands a second")
    return can_take


def _applied(stage: Stage) -> int:
    return stage.deployment.sql("SELECT count(*) FROM jobs")[0][0]


def _answers(run: Run, calls: list[Call], refused: list[Call], offered: float) -> None:
    latencies = [call.returned - call.invoked for call in calls if call.job is not None]
    slow = quantile(latencies, 0.99)
    run.note(
        f"{offered:.1f} times that was offered; {len(refused):,} of {len(calls):,} refused; "
        f"accept p50 {1000 * quantile(latencies, 0.5):.0f} ms, p99 {1000 * slow:.0f} ms"
    )
    run.require(offered > 0.8 * TIMES, f"only {offered:.1f} times what it can take could be offered")
    run.require(refused, "nothing was refused")
    run.require(all(call.retry_after for call in refused), "a 503 had no Retry-After")
    run.require(slow <= run.bound(ACCEPT_SECONDS), f"accept p99 is {1000 * slow:.0f} ms")


def _memory(stage: Stage, servers: Servers) -> dict[int, tuple[str, int]]:
    found = stage.memory_bytes()
    for name, pid in (("valkey", servers.valkey.pid), *(("postgres", pid) for pid in children_of(servers.postgres.pid))):
        found[pid] = (name, own_memory_bytes(pid))
    return found
