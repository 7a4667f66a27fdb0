"""Postgres read-only, cancelling, cutting connections, killed: only delay. Nobody is quarantined for what no command did."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest

from core import crashpoints
from core.errors import Unavailable
from tests.support.driving import Driver, state_of
from tests.support.processes import Running, children_of
from tests.support.stack import Servers
from tests.support.waiting import until

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
CANCEL_WHO_WAITS = (
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def database_of(driver: Driver) -> str:
    return driver.settings.database_url.rpartition("/")[2]


def test_a_read_only_database_delays_and_blames_nobody(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    driver.deployment.sql(f"ALTER DATABASE {database_of(driver)} SET default_transaction_read_only = on")
    driver.worker.store.dispose()  # new connections take it on
    for _ in range(5):
        with pytest.raises(Unavailable):
            driver.drain(driver.partition(session))
    driver.deployment.sql(f"ALTER DATABASE {database_of(driver)} RESET ALL")
    driver.drain_all()  # the connection that was read-only from its start is not used again
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    assert driver.check(receipts).quarantined == 0


def test_a_cancelled_statement_delays_and_blames_nobody(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    for _ in range(4):
        with ThreadPoolExecutor(1) as threads, closing(psycopg2.connect(driver.deployment.database_url)) as other:
            cursor = other.cursor()
            cursor.execute("SELECT 1 FROM sessions WHERE id = %s FOR UPDATE", (session,))
            cancelled = threads.submit(until, lambda: driver.deployment.sql(CANCEL_WHO_WAITS), 4)
            with pytest.raises(Unavailable):
                driver.drain(driver.partition(session))
            assert cancelled.result() == [(True,)]
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    assert driver.check(receipts).quarantined == 0


@pytest.mark.parametrize("point", ["after_read", "mid_transaction", "before_commit"])
def test_a_connection_cut_within_a_transaction_delays_and_blames_nobody(driver: Driver, point: str) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    for _ in range(4):
        crashpoints.arm(point, lambda: driver.deployment.sql(TERMINATE))
        with pytest.raises(Unavailable):
            driver.drain(driver.partition(session))
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    assert driver.check(receipts).quarantined == 0


def test_a_connection_cut_after_the_commit_still_publishes(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana")
    crashpoints.arm("after_commit", lambda: driver.deployment.sql(TERMINATE))
    assert driver.drain(driver.partition(session)) == 1
    assert driver.outcomes(receipts) == ["confirmed"]
    assert driver.waiting(session) == 0


def test_postgres_killed_and_started_again_loses_nothing(own_servers: Servers) -> None:
    with Driver(own_servers.deployment()) as driver:
        session = driver.new_session()
        receipts = driver.reserve(session, "ana")
        driver.drain_all()
        for round_ in range(3):
            receipts += driver.reserve(session, f"guest{round_}")
            crashpoints.arm("before_commit", lambda: kill_with_backends(own_servers.postgres))
            with pytest.raises(Unavailable):
                driver.drain(driver.partition(session))
            receipts += driver.reserve(session, f"friend{round_}")  # accepting needs no Postgres
            with pytest.raises(Unavailable):
                driver.drain(driver.partition(session))
            own_servers.postgres.start()
            until(driver.can_drain_all, 15, "everything is drained after Postgres is back")
        assert driver.outcomes(receipts) == ["confirmed"] * 7
        assert driver.check(receipts).quarantined == 0


def kill_with_backends(postgres: Running) -> None:
    """SIGKILL the postmaster, and wait for its backends: they notice, but could still commit before they do."""
    backends = children_of(postgres.pid)
    postgres.kill()
    until(lambda: all(state_of(pid) in ("", "Z") for pid in backends), 10, "the backends have noticed")
