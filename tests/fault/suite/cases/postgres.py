"""Postgres killed and read-only: nothing is decided meanwhile, everything afterwards, and nobody is blamed for it."""

from __future__ import annotations

import time
from contextlib import closing

import psycopg2

from tests.fault.suite.case import Run, case
from tests.fault.suite.stage import Stage
from tests.support.damage import kill_postgres

DRAINED_SECONDS = 10.0


@case(
    "postgres-crash",
    fault="Postgres crash",
    injected="SIGKILL of the postmaster, 20 times; then default_transaction_read_only=on for 5 s",
    passes="only delay; nobody quarantined; drained within 10 s after it is back",
    in_tests=0.05,
)
def postgres_crash(run: Run) -> None:
    """Commands are accepted meanwhile, and wait."""
    servers = run.own_servers()
    stage = run.stage(servers)
    back = []
    with run.traffic(stage, per_second=run.scaled(500, least=150)) as traffic:
        for _ in range(run.scaled(20)):
            time.sleep(run.random.uniform(0.3, 1.0))
            kill_postgres(servers.postgres)
            time.sleep(run.random.uniform(0.0, 2.0))
            servers.postgres.start()
            back.append(time.time() * 1000)
            stage.caught_up(back[-1])
        _only_reads(stage, "on")
        time.sleep(run.scaled(5))
        _only_reads(stage, "off")
        back.append(time.time() * 1000)
        stage.caught_up(back[-1])
    run.injected(len(back))
    found = run.check(stage, traffic.history)
    run.recovered_after(back, found)
    longest = max(run.result.recoveries, default=0.0)
    run.require(longest <= DRAINED_SECONDS, f"it took up to {longest:.1f} s until all that had waited was applied")
    blamed = [row.job for row in found.rows() if row.outcome == "quarantined"]
    run.require(not blamed, f"quarantined: {blamed}")


def _only_reads(stage: Stage, value: str) -> None:
    """As an operator does it: for everybody, from their next transaction on."""
    with closing(psycopg2.connect(stage.deployment.owner_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            cursor.execute("SELECT pg_reload_conf()")
