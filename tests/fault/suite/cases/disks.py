"""Disks that are full, under Valkey's log and under Postgres's: nothing is answered that is not written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress

import psycopg2

from tests.fault.suite.case import Run, Skipped, case
from tests.fault.suite.history import MAYBE
from tests.fault.suite.stage import Stage
from tests.support.damage import AppendOnly, NotPossible, SmallDisk, small_disk, wal_folder
from tests.support.processes import Running
from tests.support.stack import Servers
from tests.support.waiting import until

LOG_MEGABYTES = 64
WAL_MEGABYTES = 160
WAL_SEGMENTS = 12  # of 16 MB: more than fit
TIMES = 3
FULL_SECONDS = 3.0
NO_SPACE = "No space left on device"


@case(
    "disk-full",
    fault="disk full",
    injected=f"{TIMES} times each, a small disk (tmpfs, needs root) under Valkey's log, then under Postgres's, full for 3 s; who "
    "ends of it is started again and again",
    passes="no false 202; recovers when space is back",
)
def disk_full(run: Run) -> None:
    """Both servers end when their logs cannot be written; whatever runs them starts them again until they can."""
    servers = run.own_servers()
    log, wal = _on_small_disks(run, servers)
    stage = run.stage(servers)
    back = []
    with run.traffic(stage, per_second=500) as traffic:
        for _ in range(run.scaled(TIMES)):
            time.sleep(run.random.uniform(0.5, 1.0))
            back.append(_filled(log, servers.valkey, lambda: until(lambda: _has_ended(servers.valkey), 30, "Valkey has ended")))
            stage.caught_up(back[-1])
        unanswered = sum(call.fate == MAYBE for call in traffic.history.calls)
        for _ in range(run.scaled(TIMES)):
            time.sleep(run.random.uniform(0.5, 1.0))
            back.append(_filled(wal, servers.postgres, lambda: _use_up_wal(stage)))
            stage.caught_up(back[-1])
    run.injected(len(back))
    run.require(unanswered > 0, "nobody has noticed the full disk under the log")
    run.require(NO_SPACE in servers.postgres.output(), "Postgres has not noticed the full disk under its log")
    found = run.check(stage, traffic.history)
    run.recovered_after(back, found)
    run.require(all(row.outcome != "quarantined" for row in found.rows()), "somebody was quarantined for it")


def _on_small_disks(run: Run, servers: Servers) -> tuple[SmallDisk, SmallDisk]:
    """Move both logs to disks of their own. Raises Skipped."""
    servers.valkey.stop()
    servers.postgres.stop()
    try:
        log = run.entered(small_disk(AppendOnly(servers.valkey).folder, LOG_MEGABYTES))
        wal = run.entered(small_disk(wal_folder(servers.postgres), WAL_MEGABYTES))
    except NotPossible as exc:
        raise Skipped(str(exc)) from exc
    servers.postgres.start()
    servers.valkey.start()
    return log, wal


def _filled(disk: SmallDisk, server: Running, until_it_hurts: Callable[[], None]) -> float:
    """Leave no room for a while, then make some. When the server was back."""
    disk.fill()
    until_it_hurts()
    until_when = time.monotonic() + FULL_SECONDS
    while time.monotonic() < until_when:
        _keep_running(server)
        disk.fill()  # also what a restart has freed
        time.sleep(0.1)
    disk.free()
    until(lambda: _keep_running(server), 60, f"{server.program.name} runs again")
    return time.time() * 1000


def _keep_running(server: Running) -> bool:
    """Start it if it has ended, as a supervisor does. Whether it serves."""
    if _has_ended(server):
        with suppress(AssertionError):  # it ended again
            server.start()
    return not _has_ended(server) and server.program.is_ready is not None and server.program.is_ready()


def _has_ended(server: Running) -> bool:
    return server.process.poll() is not None


def _use_up_wal(stage: Stage) -> None:
    """Ask for new segments until there is no room for one."""
    with suppress(psycopg2.Error), closing(psycopg2.connect(stage.deployment.owner_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for _ in range(WAL_SEGMENTS):
                cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS used_up (n int)")
                cursor.execute("SELECT pg_logical_emit_message(true, 'aforo', 'x'), pg_switch_wal()")
