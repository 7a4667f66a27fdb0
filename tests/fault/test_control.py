"""Controls: each guard holds with the guards before it off, and with all of them off places really are sold twice.

A test that passes with its guard off would prove nothing about the guard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import msgspec
import psycopg2
import pytest
from sqlalchemy.exc import IntegrityError

from core import crashpoints, service, transaction
from core.decide import Decision, State, decide
from core.mailbox import key
from core.model import Command
from tests.fault.suite.cases.controls import DROP, GUARDS
from tests.support.driving import Driver
from tests.support.waiting import until

NO_PARTITION_LOCK = """
BEGIN; SELECT free, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, l.*
FROM (SELECT %s::int, %s::int[]) AS w(namespace, free), load_batch(%s, %s, %s, %s) AS l"""
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

Take = Callable[..., None]


@pytest.fixture
def without(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Take:
    """Takes guards away."""

    def take(*guards: str) -> None:
        for guard in guards:
            if guard == "partition lock":
                monkeypatch.setattr(transaction, "BEGIN_BATCH", NO_PARTITION_LOCK)
            else:
                driver.deployment.sql(DROP[guard])

    return take


def two_workers_meet(driver: Driver, session: int, meanwhile: Callable[[], None] = lambda: None) -> list[Exception]:
    """One worker has decided and not yet committed; `meanwhile` happens, then another one drains as far as it gets.

    What the two failed with.
    """
    failures: list[Exception] = []

    def drain(worker: Driver) -> None:
        try:
            worker.drain(driver.partition(session))
        except Exception as exc:
            failures.append(exc)

    with Driver(driver.deployment) as other:
        second = threading.Thread(target=drain, args=(other,))

        def meet() -> None:
            meanwhile()
            second.start()
            until(lambda: not second.is_alive() or driver.deployment.sql(WAITING), 4, "the other one is done, or waits for us")

        crashpoints.arm("mid_transaction", meet)
        drain(driver)
        second.join(20)
    return failures


def places_sold(driver: Driver, session: int) -> int:
    rows = driver.deployment.sql("SELECT count(*) FROM reservations WHERE session_id = %s AND status = 'confirmed'", session)
    return rows[0][0]


@pytest.mark.parametrize("off", range(len(GUARDS)), ids=lambda off: f"without {', '.join(GUARDS[:off]) or 'nothing'}")
def test_two_workers_on_the_same_commands_sell_the_last_place_once(driver: Driver, without: Take, off: int) -> None:
    without(*GUARDS[:off])
    session = driver.new_session(capacity=1)
    receipts = driver.reserve(session, "ana", "bo")
    failures = two_workers_meet(driver, session)
    # With the partition lock the second worker leaves; without it, a guard further in costs one of them its batch.
    assert len(failures) == (1 if off else 0)
    assert all(isinstance(failure, (IntegrityError, psycopg2.IntegrityError)) for failure in failures)
    driver.drain_all()
    assert places_sold(driver, session) == 1
    assert driver.outcomes(receipts) == ["confirmed", "sold_out"]
    driver.check(receipts)


def test_two_workers_on_the_same_commands_sell_the_last_place_twice_without_any_guard(
    driver: Driver, without: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(*GUARDS)
    monkeypatch.setattr(service, "DRAIN_SECONDS", 60.0)  # however busy the machine, the second one comes to the second command
    session = driver.new_session(capacity=1)
    driver.reserve(session, "ana", "bo")
    assert two_workers_meet(driver, session) == []
    assert places_sold(driver, session) == 2
    assert driver.deployment.sql("SELECT count(*) FROM jobs WHERE session_id = %s AND seq > 0", session) == [(4,)]
    assert driver.report().difference_count > 0


@pytest.mark.parametrize("locked", [True, False], ids=["with the row lock", "without"])
def test_two_workers_on_different_commands_are_kept_apart_by_the_row_lock(
    driver: Driver, without: Take, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    monkeypatch.setattr(service, "DRAIN_SECONDS", -1.0)  # a batch a turn: the first worker leaves bo to the other one
    without("partition lock", *(() if locked else ("row lock",)))
    session = driver.new_session(capacity=1)
    mailbox = key(driver.partition(session), "mailbox")
    driver.reserve(session, "ana", "bo")
    (first, _), (second, bo) = driver.redis.xrange(mailbox)
    driver.redis.xdel(mailbox, second)  # one worker sees only ana ...

    def turn() -> None:
        driver.redis.xdel(mailbox, first)  # ... the other one only bo: no key of the ledger can tell
        driver.redis.xadd(mailbox, bo)

    failures = two_workers_meet(driver, session, turn)
    assert failures == []
    assert places_sold(driver, session) == (1 if locked else 2)
    assert (driver.report().differences == []) is locked


@pytest.mark.parametrize("constrained", [True, False], ids=["with the constraint", "without"])
def test_a_decision_that_counts_wrong_is_stopped_by_the_constraint(
    driver: Driver, without: Take, monkeypatch: pytest.MonkeyPatch, constrained: bool
) -> None:
    if not constrained:
        without("constraint")
    monkeypatch.setattr(service, "decide", decide_with_a_place_too_many)
    session = driver.new_session(capacity=1)
    receipts = driver.reserve(session, "ana", "bo")
    failures = driver.drain_through_failures(session)
    assert (failures > 0) is constrained
    assert places_sold(driver, session) == (1 if constrained else 2)
    assert driver.outcomes(receipts) == ["confirmed", "quarantined" if constrained else "confirmed"]
    assert (driver.report().differences == []) is constrained


def decide_with_a_place_too_many(state: State, commands: list[Command]) -> Decision:
    roomier = {s.id: msgspec.structs.replace(s, capacity=s.capacity + 1) for s in state.sessions.values()}
    decision = decide(State(roomier, state.live), commands)
    sessions = {s.id: msgspec.structs.replace(s, capacity=s.capacity - 1) for s in decision.sessions.values()}
    return replace(decision, sessions=sessions)
