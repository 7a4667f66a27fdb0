"""Controls: each guard holds with the guards above it off, and with all of them off places really are sold twice.

The guards, from the outermost: the partition lock (order), the lock of the session's row, the ledger's key, the constraints
of the tables. A test that passes with its guard off would prove nothing about the guard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg2
import pytest

from core import crashpoints, store
from core.mailbox import key
from tests.support.driving import Driver

NO_PARTITION_LOCK = "SELECT true, %s::bigint * 0 + %s::bigint * 0 + (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
ROOM = 1


@pytest.fixture
def without_partition_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK", NO_PARTITION_LOCK)


@pytest.fixture
def without_row_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SESSIONS_FOR_UPDATE", store.SESSIONS_FOR_UPDATE.replace("FOR UPDATE", ""))


@pytest.fixture
def without_ledger_key(driver: Driver) -> None:
    driver.deployment.sql("ALTER TABLE jobs DROP CONSTRAINT jobs_pkey, DROP CONSTRAINT jobs_one_per_seq")


@pytest.fixture
def without_constraints(driver: Driver) -> None:
    driver.deployment.sql("ALTER TABLE sessions DROP CONSTRAINT sessions_never_overbooked")


def two_workers_meet(driver: Driver) -> tuple[int, list[BaseException]]:
    """Two workers decide about different people after the same last place, each having read before the other wrote.

    How many reservations are confirmed in the end, and what the workers failed with.
    """
    session = driver.new_session(capacity=ROOM)
    mailbox = key(driver.partition(session), "mailbox")
    driver.reserve(session, "ana", "bo")
    (first, second) = driver.redis.xrange(mailbox)
    driver.redis.xdel(mailbox, second[0])  # the first worker sees only ana ...
    errors: list[BaseException] = []
    with Driver(driver.deployment) as other:
        meet = meeting(driver, other, first, second, errors)
        crashpoints.arm("mid_transaction", meet)
        attempt(driver, session, errors)
        meet.thread.join(20)  # type: ignore[attr-defined]
    confirmed = driver.deployment.sql("SELECT count(*) FROM reservations WHERE session_id = %s AND status = 'confirmed'", session)
    return confirmed[0][0], errors


def meeting(driver: Driver, other: Driver, first: tuple, second: tuple, errors: list[BaseException]) -> Callable[[], None]:
    """While the first worker has decided but not committed, let the other one read, decide and try to write."""

    def meet() -> None:
        session = driver.deployment.sql("SELECT max(id) FROM sessions")[0][0]
        mailbox = key(driver.partition(session), "mailbox")
        driver.redis.xdel(mailbox, first[0])  # ... and the other one only bo
        driver.redis.xadd(mailbox, second[1])
        meet.thread = threading.Thread(target=attempt, args=(other, session, errors))  # type: ignore[attr-defined]
        meet.thread.start()  # type: ignore[attr-defined]
        meet.thread.join(1.0)  # type: ignore[attr-defined]  # long enough to read; with locks it waits for us

    return meet


def attempt(driver: Driver, session: int, errors: list[BaseException]) -> None:
    try:
        driver.drain(driver.partition(session))
    except Exception as exc:
        errors.append(exc)


def test_with_all_guards_the_second_worker_leaves(driver: Driver) -> None:
    confirmed, errors = two_workers_meet(driver)
    assert (confirmed, errors) == (1, [])
    driver.drain_all()
    assert driver.deployment.sql("SELECT outcome FROM jobs WHERE seq > 0 ORDER BY seq") == [("confirmed",), ("sold_out",)]


@pytest.mark.usefixtures("without_partition_lock")
def test_without_the_partition_lock_the_row_lock_keeps_order_in_the_session(driver: Driver) -> None:
    confirmed, errors = two_workers_meet(driver)
    assert (confirmed, errors) == (1, [])
    assert driver.deployment.sql("SELECT outcome FROM jobs WHERE seq > 0 ORDER BY seq") == [("confirmed",), ("sold_out",)]


@pytest.mark.usefixtures("without_partition_lock", "without_row_lock", "without_constraints")
def test_without_locks_and_constraint_the_last_place_is_sold_twice(driver: Driver) -> None:
    confirmed, _ = two_workers_meet(driver)
    assert confirmed == 2
    assert driver.report().difference_count > 0


def doubled(driver: Driver) -> tuple[int, list[BaseException]]:
    """The same command in the mailbox of two workers at once. How often it is in the ledger."""
    session = driver.new_session(capacity=10)
    mailbox = key(driver.partition(session), "mailbox")
    driver.reserve(session, "ana")
    errors: list[BaseException] = []
    with Driver(driver.deployment) as other:
        threads: list[threading.Thread] = []

        def meet() -> None:
            threads.append(threading.Thread(target=attempt, args=(other, session, errors)))
            threads[0].start()
            threads[0].join(1.0)

        crashpoints.arm("mid_transaction", meet)
        attempt(driver, session, errors)
        threads[0].join(20)
    driver.redis.delete(mailbox)
    return driver.deployment.sql("SELECT count(*) FROM jobs WHERE session_id = %s AND seq > 0", session)[0][0], errors


@pytest.mark.usefixtures("without_partition_lock", "without_row_lock")
def test_without_locks_the_ledgers_key_lets_a_command_in_once(driver: Driver) -> None:
    count, errors = doubled(driver)
    assert count == 1
    assert all(isinstance(error, psycopg2.IntegrityError) for error in errors)


@pytest.mark.usefixtures("without_partition_lock", "without_row_lock", "without_ledger_key")
def test_without_the_ledgers_key_too_a_command_is_applied_twice(driver: Driver) -> None:
    driver.deployment.sql(
        "DROP INDEX reservations_one_live_per_person; ALTER TABLE reservations DROP CONSTRAINT reservations_pkey"
    )
    count, _ = doubled(driver)
    assert count == 2
    assert driver.report().difference_count > 0


def test_the_constraint_alone_refuses_an_overbooked_row(driver: Driver) -> None:
    session = driver.new_session(capacity=1)
    with pytest.raises(Exception, match="sessions_never_overbooked"):
        driver.deployment.sql("UPDATE sessions SET reserved = 2 WHERE id = %s", session)
