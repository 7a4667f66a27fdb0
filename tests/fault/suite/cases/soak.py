"""The soak: faults at random, one after the other, for as long as asked, in rounds that are checked each by itself."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from core.mailbox import key
from ops import verify
from tests.fault.suite.books import PARTITIONS
from tests.fault.suite.case import Run, case
from tests.fault.suite.stage import Stage, own_memory_bytes, send
from tests.support.stack import Servers

ROUND_SECONDS = 60
GROWTH = 1.2
SMALL_BYTES = 8 * 2**20
QUIET_SECONDS = 5.0


def kill_a_pool_process(run: Run, stage: Stage, _: Servers) -> None:
    """kill -9 of a process of a worker's pool."""
    pids = [pid for name in stage.names("worker") for pid in stage.children(name)]
    if pids:
        send(run.random.choice(pids), signal.SIGKILL)


def kill_a_program(run: Run, stage: Stage, _: Servers) -> None:
    """kill -9 of a whole worker, or of the sweeper."""
    pid = stage.pid(run.random.choice(("worker", "worker-2", "sweeper")))
    if pid is not None:
        send(pid, signal.SIGKILL)


def kill_an_api_process(run: Run, stage: Stage, _: Servers) -> None:
    """kill -9 of a process of gunicorn's."""
    pids = stage.children("api")
    if pids:
        send(run.random.choice(pids), signal.SIGKILL)


def stop_a_pool_process(run: Run, stage: Stage, _: Servers) -> None:
    """SIGSTOP of a process of a worker's pool, and CONT after a while."""
    pids = [pid for name in stage.names("worker") for pid in stage.children(name)]
    if pids:
        pid = run.random.choice(pids)
        send(pid, signal.SIGSTOP)
        threading.Timer(run.random.uniform(1, 10), send, (pid, signal.SIGCONT)).start()


def ring_too_often(_: Run, stage: Stage, __: Servers) -> None:
    """Ten bells for every partition."""
    stage.ring(10)


def forget_the_bells(_: Run, stage: Stage, __: Servers) -> None:
    """Whatever bell is on its way gets lost."""
    stage.redis.delete("aforo")


def put_garbage_in(run: Run, stage: Stage, _: Servers) -> None:
    """An entry that is no command."""
    stage.redis.xadd(key(run.random.randrange(PARTITIONS), "mailbox"), {b"s": b"1", b"c": run.random.randbytes(30)})


def kill_valkey(_: Run, __: Stage, servers: Servers) -> None:
    """kill -9 of Valkey, and start it again."""
    servers.valkey.kill()
    servers.valkey.start()


def kill_postgres(_: Run, __: Stage, servers: Servers) -> None:
    """kill -9 of Postgres, and start it again."""
    servers.postgres.kill()
    servers.postgres.start()


# What the soak may do; a module of other cases may add to it.
FAULTS: list[Callable[[Run, Stage, Servers], None]] = [
    kill_a_pool_process,
    kill_a_program,
    kill_an_api_process,
    stop_a_pool_process,
    ring_too_often,
    forget_the_bells,
    put_garbage_in,
    kill_valkey,
    kill_postgres,
]


@case(
    "soak",
    fault="soak",
    injected="faults of all these sorts at random, for as long as asked (MINUTES=n)",
    passes="the check after each round; flat memory",
    apart=True,
)
def soak(run: Run) -> None:
    """Round after round on the same stage, each with sessions of its own."""
    servers = run.own_servers()
    stage = run.stage(servers, workers=2, job_ttl_seconds="60")
    done: Counter[str] = Counter()
    memory: dict[int, list[tuple[str, int]]] = {}
    end = time.monotonic() + 60 * run.minutes
    while time.monotonic() < end and not run.result.failures:
        _round(run, stage, servers, done, min(end, time.monotonic() + ROUND_SECONDS))
        for pid, seen in _memory(stage, servers).items():
            memory.setdefault(pid, []).append(seen)
    report = verify.run(stage.deployment.database_url, stage.deployment.redis_url)
    run.result.failures += [f"aforo verify: {difference}" for difference in report.differences]
    run.note(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in sorted(done.items())))
    for samples in memory.values():
        (name, first), (_, last) = samples[min(1, len(samples) - 1)], samples[-1]
        run.require(last <= GROWTH * first or last - first < SMALL_BYTES, f"{name} grew from {first >> 20} to {last >> 20} MiB")


def _round(run: Run, stage: Stage, servers: Servers, done: Counter[str], until: float) -> None:
    with run.traffic(stage, per_second=200) as traffic:
        while time.monotonic() < until:
            fault = run.random.choice(FAULTS)
            done[fault.__name__] += 1
            run.injected()
            fault(run, stage, servers)
            time.sleep(run.random.uniform(0.5, 4))
        time.sleep(QUIET_SECONDS)
    findings, _ = run.inspect(stage, traffic.history)
    run.result.failures += findings.lines()


def _memory(stage: Stage, servers: Servers) -> dict[int, tuple[str, int]]:
    return {**stage.memory_bytes(), servers.valkey.pid: ("valkey", own_memory_bytes(servers.valkey.pid))}
