"""`aforo forget`: neither rows nor Redis nor files tell that the person was there, and the ledger replays at every moment."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core import crashpoints
from core.door import Receipt
from core.errors import StillLive
from core.forget import mentions
from core.mailbox import key
from core.model import (
    AMEND,
    CANCEL,
    CANCEL_SESSION,
    CONFIGURE,
    GROUP,
    RESERVE,
    AmendArguments,
    CancelArguments,
    ConfigureArguments,
    GroupArguments,
    NoArguments,
    ReserveArguments,
)
from tests.fault.test_histories import commands
from tests.support.driving import KILLED, Driver, person
from tests.support.erasing import end, forget, in_a_process, owner, rows_with, working
from tests.support.stack import Deployment
from tests.support.waiting import until

ANA = "ana@example.org"
# Where it dies, one run after the other, and in how many rows the address stands then.
POINTS = {"after_giving_back": 6, "mid_erasure": 8, "after_erasure": 4, "before_cleaning": 0}

pytestmark = pytest.mark.usefixtures("quiet")


def arguments_of(driver: Driver, session: int) -> list[Any]:
    """What the ledger says was asked of a session, in order."""
    rows = driver.deployment.sql("SELECT arguments FROM jobs WHERE session_id = %s AND seq > 0 ORDER BY seq", session)
    return [row[0] for row in rows]


def test_name_and_address_leave_every_row_and_the_ledger_replays(driver: Driver) -> None:
    small, large = driver.new_session(capacity=1, waitlist_capacity=2), driver.new_session(capacity=9)
    written = ReserveArguments("Ana Archer", "Ana@example.org", ANA, 2)  # as she typed it
    receipts = driver.reserve(small, "bo", "ana", "ana")
    receipts += driver.accept([(RESERVE, large, written), (CANCEL, large, CancelArguments("Ana@example.org", ANA, 1))])
    receipts += driver.accept([(GROUP, large, GroupArguments((person("cy"), person("ana"), person("dee"))))])
    receipts += driver.cancel(large, "ana", "ana")
    receipts += driver.cancel(small, "ana")
    driver.drain_all()
    outcomes = driver.outcomes(receipts)
    assert (rows_with(driver.deployment, ANA), rows_with(driver.deployment, "Archer")) == (10, 2)
    found = forget(driver.deployment, "ana")
    assert (found.sessions, found.reservations, found.jobs, found.cancelled) == (2, 2, 8, 0)
    assert (rows_with(driver.deployment, ANA), rows_with(driver.deployment, "Archer")) == (0, 0)
    assert driver.outcomes(receipts) == outcomes
    driver.check(receipts)
    assert forget(driver.deployment, "ana").jobs == 0


def test_one_hash_stands_for_the_person_in_a_session_another_in_the_next_and_none_for_the_others(driver: Driver) -> None:
    sessions = [driver.new_session(), driver.new_session()]
    for session in sessions:
        driver.accept([(GROUP, session, GroupArguments((person("cy"), person("ana"))))])
        driver.cancel(session, "ana")
    driver.drain_all()
    forget(driver.deployment, "ana")
    keys = []
    for session in sessions:
        group, cancel = arguments_of(driver, session)
        cy, ana = group["people"]
        assert cy == {"name": "Cy", "email": "cy@example.org", "email_key": "cy@example.org", "seats": 1}
        assert (ana["name"], ana["email"], cancel["email"]) == ("forgotten", ana["email_key"], cancel["email_key"])
        assert ana["email_key"] == cancel["email_key"]
        keys.append(ana["email_key"])
    assert len(set(keys)) == 2
    assert all(key.startswith("forgotten-") and len(key) == 42 for key in keys)
    driver.check()


def test_a_live_reservation_is_in_the_way_and_nothing_changes(driver: Driver) -> None:
    held, cancelled = driver.new_session(), driver.new_session()
    receipts = driver.reserve(held, "ana") + driver.reserve(cancelled, "ana") + driver.cancel(cancelled, "ana")
    driver.drain_all()
    with pytest.raises(StillLive, match=rf"not over: {held}\. Cancel them first"):
        forget(driver.deployment, "ana")
    assert rows_with(driver.deployment, ANA) == 5
    driver.check(receipts)


def test_what_is_held_is_given_back_first_if_that_is_asked_for_and_the_next_in_line_moves_up(driver: Driver) -> None:
    session, other = driver.new_session(capacity=1, waitlist_capacity=2), driver.new_session(capacity=1, waitlist_capacity=2)
    receipts = driver.reserve(session, "ana", "bo") + driver.reserve(other, "cy", "ana")
    driver.drain_all()
    found = forget(driver.deployment, "ana", cancel=True)
    assert (found.cancelled, found.jobs, rows_with(driver.deployment, ANA)) == (2, 4, 0)
    statuses = [driver.job(receipt.job.id).reservation.status for receipt in receipts]  # type: ignore[union-attr]
    assert statuses == ["cancelled", "confirmed", "confirmed", "cancelled"]
    assert driver.deployment.sql("SELECT DISTINCT client FROM jobs WHERE kind = 'cancel'") == [("operator",)]
    driver.check(receipts)


def test_a_place_in_a_session_that_has_begun_can_only_be_waited_for(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.drain_all()
    now = round(datetime.now(UTC).timestamp() * 1000)
    driver.accept([(CONFIGURE, session, ConfigureArguments(start_time=now - 60_000, end_time=now + 3_600_000))])
    for cancel in (False, True):
        with pytest.raises(StillLive, match=f"that have begun: {session}"):
            forget(driver.deployment, "ana", cancel)
    end(driver, session, ago=timedelta(seconds=1))
    assert forget(driver.deployment, "ana").reservations == 1
    assert driver.counts(session)[0] == 1  # the place stays taken
    driver.check()


def test_whoever_reserves_again_in_between_is_not_forgotten_there(driver: Driver) -> None:
    first, second = driver.new_session(), driver.new_session()
    for session in (first, second):
        driver.reserve(session, "ana")
        driver.cancel(session, "ana")
    driver.drain_all()

    def reserve_again() -> None:
        driver.reserve(second, "ana")
        driver.drain_all()

    crashpoints.arm("after_erasure", reserve_again)
    with pytest.raises(StillLive, match=f"not over: {second}"):
        forget(driver.deployment, "ana")
    assert rows_with(driver.deployment, ANA) == 5  # all in the second
    assert forget(driver.deployment, "ana", cancel=True).sessions == 1
    driver.check()


def test_a_reservation_that_was_cancelled_with_its_session_is_in_nobodys_way(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.accept([(CANCEL_SESSION, session, NoArguments())])
    driver.drain_all()
    assert forget(driver.deployment, "ana").reservations == 1
    driver.check()


def test_a_corrected_name_is_forgotten_too_and_when_they_came_replays(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana", "bo")
    driver.drain_all()
    (held,) = driver.deployment.sql(f"SELECT id FROM reservations WHERE email_key = '{ANA}'")[0]
    changes = ({"name": "Ana María"}, {"checked_in": True}, {"name": "Ana", "checked_in": False}, {"checked_in": True})
    receipts = driver.accept([(AMEND, session, AmendArguments(ANA, ANA, held, **change)) for change in changes])
    receipts += driver.accept([(AMEND, session, AmendArguments(ANA, ANA, 1, name="Nobody"))])
    driver.drain_all()
    assert driver.outcomes(receipts) == ["amended"] * 4 + ["not_found"]
    end(driver, session)
    assert forget(driver.deployment, "ana").jobs == 6
    assert [rows_with(driver.deployment, text) for text in (ANA, "María", "Nobody")] == [0, 0, 0]
    assert driver.deployment.sql("SELECT name, checked_in_at IS NOT NULL FROM reservations ORDER BY id") == [
        ("forgotten", True),
        ("Bo", False),
    ]
    driver.check(receipts)


def test_whoever_comes_back_after_being_forgotten_is_somebody_else(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.drain_all()
    end(driver, session)
    forget(driver.deployment, "ana")
    far = ConfigureArguments(end_time=1_935_432_000_000, start_time=1_935_424_800_000)
    driver.accept([(CONFIGURE, session, far)])  # it is put off after all, and the forgotten reservation is live again
    receipts = driver.reserve(session, "ana", "ana")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "duplicate"]
    assert forget(driver.deployment, "ana", cancel=True).reservations == 1
    assert driver.counts(session)[0] == 1
    assert rows_with(driver.deployment, ANA) == 0
    driver.check(receipts)


@pytest.mark.parametrize("crash_at", [None, "after_commit"])
def test_what_waits_in_the_mailbox_is_applied_first(driver: Driver, crash_at: str | None) -> None:
    session = driver.new_session(capacity=1)
    receipts = driver.reserve(session, "bo", "ana")
    if crash_at is not None:
        driver.drain_in_a_process(driver.partition(session), crash_at)  # applied, and still in the mailbox
    assert forget(driver.deployment, "ana").jobs == 1
    assert (driver.waiting(session), rows_with(driver.deployment, ANA)) == (0, 0)
    assert driver.outcomes(receipts) == ["confirmed", "sold_out"]
    driver.check(receipts)


def test_forgetting_is_completed_after_crash_upon_crash_and_the_ledger_replays_in_between(driver: Driver) -> None:
    sessions = [driver.new_session() for _ in range(2)]
    receipts = [receipt for session in sessions for receipt in driver.reserve(session, "ana", "bo", "ana")]
    driver.drain_all()
    for point, rows in POINTS.items():
        assert in_a_process(driver.deployment, "forget", "ana", crash_at=point) == KILLED
        assert rows_with(driver.deployment, ANA) == rows, point
        assert driver.report().differences == [], point
    assert forget(driver.deployment, "ana").sessions == 0
    assert driver.outcomes(receipts) == ["confirmed", "confirmed", "duplicate"] * 2
    assert driver.report().differences == []


def test_a_batch_under_way_is_applied_whole_before_anything_of_it_is_forgotten(driver: Driver) -> None:
    session = driver.new_session(capacity=1)
    driver.reserve(session, "bo", "ana")
    driver.drain_all()
    receipts = driver.reserve(session, "ana", "cy")
    erasing = threading.Thread(target=forget, args=(driver.deployment, "ana"))
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    seen: list[str] = []

    def begin_and_wait() -> None:
        crashpoints.disarm()
        driver.redis.delete(key(driver.partition(session), "mailbox"))  # so that it does not wait for the batch's entries
        erasing.start()
        until(lambda: driver.deployment.sql(waits), what="forget waits for the partition's lock")
        seen.append("waiting")

    crashpoints.arm("mid_transaction", begin_and_wait)
    driver.drain(driver.partition(session))
    erasing.join(30)
    assert (seen, erasing.is_alive()) == (["waiting"], False)
    assert driver.outcomes(receipts) == ["sold_out", "sold_out"]
    assert rows_with(driver.deployment, ANA) == 0
    assert driver.report().differences == []


def test_what_comes_while_the_lock_is_held_is_applied_when_it_is_let_go(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.cancel(session, "ana")
    receipts: list[Receipt] = []

    def come_and_find_it_taken() -> None:
        receipts.extend(driver.reserve(session, "bo"))
        assert driver.drain(driver.partition(session)) == 0

    crashpoints.arm("mid_erasure", come_and_find_it_taken)
    crashpoints.arm("before_cleaning", lambda: seen.extend(driver.outcomes(receipts)))
    seen: list[str | None] = []
    forget(driver.deployment, "ana")
    assert seen == ["confirmed"]


def test_a_worker_that_publishes_late_brings_nothing_back(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana") + driver.cancel(session, "ana")
    crashpoints.arm("after_commit", lambda: forget(driver.deployment, "ana"))
    driver.drain(driver.partition(session))
    jobs = driver._loop.run_until_complete(driver._cached([receipt.job.id for receipt in receipts]))
    assert [(job.outcome, job.body_hash) for job in jobs] == [("confirmed", ""), ("cancelled", "")]
    driver.check(receipts)


def test_a_retry_of_what_was_forgotten_is_still_the_same_job(driver: Driver) -> None:
    session = driver.new_session(capacity=1)
    (first,) = driver.reserve(session, "ana", key="anas-request")
    driver.drain_all()
    end(driver, session)
    forget(driver.deployment, "ana")
    for seq in (1, 3, 4):
        (again,) = driver.reserve(session, "ana", key="anas-request")
        driver.drain_all()
        assert (again.job.id, again.job.seq, driver.outcomes([again])) == (first.job.id, seq, ["confirmed"])
        driver.redis.delete(key(driver.partition(session), f"job:{first.job.id}"))  # as its expiry does
    fingerprints = "SELECT DISTINCT body_hash FROM jobs WHERE kind IN ('reserve', 'replay')"
    assert driver.deployment.sql(fingerprints) == [("",)]
    assert rows_with(driver.deployment, ANA) == 0
    driver.check([first])


def test_entries_that_were_set_aside_are_emptied_where_they_name_the_person(driver: Driver) -> None:
    mailbox = key(3, "mailbox")
    for name in ("ana", "bo"):
        driver.redis.xadd(mailbox, {"c": f"\x90{name}@Example.org", "s": f"{name}@example.org"})
    driver.drain_all()
    assert rows_with(driver.deployment, ANA) == 1
    assert forget(driver.deployment, "ana").unreadable == 1
    assert (rows_with(driver.deployment, ANA), rows_with(driver.deployment, "bo@example.org")) == (0, 1)
    assert len(driver.queries.unreadable(10)) == 2


@pytest.mark.parametrize(
    ("content", "email_key", "found"),
    [
        (b'{"email":"Ana@Example.ORG"}', ANA, True),
        (b"\xafana@example.org\xa1", ANA, True),
        (repr({b"c": "\xafJosé@example.org".encode()}).encode(), "jos\u00e9@example.org", True),
        (repr({b"c": "Jose\u0301@example.org".encode()}).encode(), "jos\u00e9@example.org", True),
        ("ana@m\u00fcller.example".encode(), "ana@xn--mller-kva.example", True),
        (b"{b'not python", ANA, False),
        (b"bo@example.org", ANA, False),
        (b"", ANA, False),
    ],
)
def test_an_address_is_found_however_it_is_written(content: bytes, email_key: str, found: bool) -> None:
    assert mentions(content, email_key) is found


# -- among everything else -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_a_history_replays_with_people_forgotten_along_the_way(deployment: Deployment, seed: int) -> None:
    chance = random.Random(seed)
    with Driver(deployment, batch_size=chance.choice([7, 40, 1000])) as driver, owner(deployment) as services:
        sessions = [driver.new_session(capacity=chance.randint(0, 20), waitlist_capacity=chance.randint(0, 15)) for _ in range(3)]
        receipts, gone = [], 0
        for _ in range(5):
            receipts += driver.accept(commands(chance, driver, sessions, chance.randint(20, 60)))
            if chance.random() < 0.5:
                driver.drain_all()
            name = f"guest{chance.randrange(40)}"
            gone += services.forget(f"{name}@example.org", True, False).jobs
            assert rows_with(deployment, f"{name}@example.org") == 0
            assert driver.report().differences == []
        driver.drain_all()
        driver.check(receipts)
        assert gone > 5


def test_forgetting_beside_drains_that_never_rest_leaves_no_difference(driver: Driver) -> None:
    session = driver.new_session(capacity=30, waitlist_capacity=30)
    receipts = driver.reserve(session, *(f"guest{n}" for n in range(20)))
    driver.drain_all()
    with working(driver) as differences:
        for number in range(4):
            receipts += driver.cancel(session, f"guest{number}") + driver.reserve(session, f"new{number}", "again")
            forget(driver.deployment, f"guest{number}", cancel=True)
    driver.drain_all()
    assert differences == []
    assert [rows_with(driver.deployment, f"guest{number}@example.org") for number in range(4)] == [0] * 4
    driver.check(receipts)
