"""Random histories of every kind of command through the real drain, in batches of several sizes, with crashes in between.

What the drain decided on the few rows it loaded must be what the replay decides on all there is: `verify` compares.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import event

from core.model import (
    AMEND,
    CANCEL,
    CANCEL_SESSION,
    CLOSE,
    CONFIGURE,
    GROUP,
    REOPEN,
    RESERVE,
    AmendArguments,
    Arguments,
    CancelArguments,
    ConfigureArguments,
    GroupArguments,
    NoArguments,
)
from tests.support.driving import KILLED, Driver, person
from tests.support.stack import Deployment
from worker.sweeper import tidy

POINTS = ["mid_transaction", "before_commit", "after_commit", "after_publish"]


def commands(chance: random.Random, driver: Driver, sessions: list[int], count: int) -> list[tuple[str, int, Arguments]]:
    """So many commands for these sessions."""
    rows = driver.deployment.sql("SELECT session_id, id, email_key FROM reservations ORDER BY id")
    held = {session: [(row[1], row[2]) for row in rows if row[0] == session] for session in sessions}
    chosen = [chance.choice(sessions) for _ in range(count)]
    return [command(chance, session, held[session]) for session in chosen]


def command(chance: random.Random, session: int, held: list[tuple[int, str]]) -> tuple[str, int, Arguments]:
    """Any command for the session; `held`: ids of its reservations, and whose they are."""
    name, seats = f"guest{chance.randrange(40)}", chance.choice([1, 1, 1, 2, 3, 5])
    kinds = [RESERVE, CANCEL, GROUP, AMEND, CONFIGURE, CLOSE, REOPEN, CANCEL_SESSION]
    kind = chance.choices(kinds, weights=[50, 30, 5, 12 if held else 0, 8, 1, 6, 0.1])[0]
    if kind == RESERVE:
        return kind, session, person(name, seats)
    if kind == CANCEL:
        email = f"{name}@example.org"
        return kind, session, CancelArguments(email, email, chance.choice([None, None, 1, 2]))
    if kind == AMEND:
        reservation, email = chance.choice(held)
        changes: dict[str, Any] = {"name": chance.choice(["Ana", "Bo"]), "checked_in": chance.random() < 0.7}
        chosen = {name: value for name, value in changes.items() if chance.random() < 0.7}
        return kind, session, AmendArguments(email, email, reservation, **chosen)
    if kind == GROUP:
        return kind, session, GroupArguments(tuple(person(f"guest{chance.randrange(40)}") for _ in range(chance.randint(1, 4))))
    if kind == CONFIGURE:
        return kind, session, settings(chance)
    return kind, session, NoArguments()


def settings(chance: random.Random) -> ConfigureArguments:
    wanted: dict[str, Any] = {
        "capacity": chance.randint(0, 30),
        "waitlist_capacity": chance.randint(0, 20),
        "waitlist_policy": chance.choice(["strict", "fill"]),
    }
    chosen = {name: value for name, value in wanted.items() if chance.random() < 0.6}
    return ConfigureArguments(**chosen, on_shrink=chance.choice(["refuse", "waitlist"]))


@pytest.mark.parametrize("seed", range(6))
def test_a_history_replays(deployment: Deployment, seed: int) -> None:
    chance = random.Random(seed)
    with Driver(deployment, batch_size=chance.choice([1, 7, 40, 1000])) as driver:
        sessions = [driver.new_session(capacity=chance.randint(0, 20), waitlist_capacity=chance.randint(0, 15)) for _ in range(3)]
        receipts = []
        for _ in range(12):
            receipts += driver.accept(commands(chance, driver, sessions, chance.randint(1, 60)))
            driver.drain_all()
        report = driver.check(receipts)
        while tidy(driver.worker):
            pass
        assert driver.report().differences == []
        kinds = {row[0] for row in deployment.sql("SELECT DISTINCT jsonb_path_query(effects, '$[*][0]')::text FROM jobs")}
    assert report.jobs == len(receipts) + 3
    assert {'"promoted"', '"waitlisted"', '"confirmed"', '"cancelled"'} <= kinds
    assert {'"renamed"', '"checked_in"', '"checked_out"'} & kinds


@pytest.mark.parametrize("point", POINTS)
def test_promotions_survive_the_worker_that_made_them(driver: Driver, point: str) -> None:
    session = driver.new_session(capacity=2, waitlist_capacity=9)
    receipts = driver.reserve(session, "ana", "bo", "cy", "dee", "eve")
    driver.drain_all()
    receipts += driver.cancel(session, "ana", "cy")
    assert driver.drain_in_a_process(driver.partition(session), point) == KILLED
    driver.drain_all()
    statuses = [driver.job(receipt.job.id).reservation.status for receipt in receipts[:5]]  # type: ignore[union-attr]
    assert statuses == ["cancelled", "confirmed", "cancelled", "confirmed", "waitlisted"]
    assert driver.outcomes(receipts[:5]) == ["confirmed", "confirmed", "waitlisted", "waitlisted", "waitlisted"]
    driver.check(receipts)


def test_a_resize_that_promotes_thousands_is_a_handful_of_statements(driver: Driver) -> None:
    session = driver.new_session(capacity=1, waitlist_capacity=5000)
    receipts = driver.reserve(session, *(f"guest{n}" for n in range(3000)))
    driver.drain_all()
    statements: list[str] = []
    event.listen(driver.worker.store._engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    receipts += driver.accept([(CONFIGURE, session, ConfigureArguments(capacity=2500))])
    driver.drain_all()
    assert len([text for text in statements if "pg_try_advisory" not in text]) <= 10
    assert driver.counts(session) == (2500, 3001)
    assert driver.job(receipts[2499].job.id).reservation.status == "confirmed"  # type: ignore[union-attr]
    assert driver.job(receipts[2500].job.id).reservation.status == "waitlisted"  # type: ignore[union-attr]
    driver.check(receipts)


def test_cancelling_a_large_session_costs_what_a_small_one_costs_and_its_rows_follow_in_parts(driver: Driver) -> None:
    session = driver.new_session(capacity=5000)
    receipts = driver.reserve(session, *(f"guest{n}" for n in range(4500)))
    driver.drain_all()
    receipts += driver.accept([(CANCEL_SESSION, session, NoArguments())])
    driver.drain_all()
    assert driver.counts(session) == (0, 4501)
    assert driver.report().differences == []
    live = "SELECT count(*) FROM reservations WHERE status <> 'cancelled'"
    assert driver.deployment.sql(live) == [(4500,)]
    parts = 0
    while tidy(driver.worker):
        parts += 1
        assert driver.report().differences == []
    assert (parts, driver.deployment.sql(live)) == (3, [(0,)])
