"""Entries that are no commands, and commands that kill whoever decides them: set aside, and nobody else suffers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core import crashpoints
from core.entries import encode_command
from core.errors import Unavailable, UnknownSession
from core.mailbox import key
from core.model import RESERVE, new_job_id
from core.service import Drain
from core.store import Store, create_engine
from ops.localstack import free_port
from tests.support.driving import KILLED, Driver, person

GARBAGE: list[dict[bytes, bytes]] = [
    {b"x": b"y"},
    {b"s": b"1"},
    {b"c": b"\x90", b"s": b"1"},
    {b"s": b"one", b"c": msgspec.msgpack.encode([1, RESERVE, 1, "id", "open", "h", {}])},
    {b"s": b"1", b"c": b"\xff\xfe\x00"},
    {b"s": b"1", b"c": msgspec.msgpack.encode([99, RESERVE, 1, new_job_id(1), "open", "h", {}])},
    {b"s": b"1", b"c": msgspec.msgpack.encode([1, "dance", 1, new_job_id(1), "open", "h", {}])},
    {b"s": b"1", b"c": msgspec.msgpack.encode([1, RESERVE, 1, "not-a-job-id", "open", "h", {"name": "A"}])},
    {b"": b""},
]


def test_garbage_among_commands_is_set_aside_and_the_commands_are_applied(driver: Driver) -> None:
    session = driver.new_session(capacity=100)
    mailbox = key(driver.partition(session), "mailbox")
    receipts = []
    for number in range(100):
        driver.redis.xadd(mailbox, GARBAGE[number % len(GARBAGE)])
        if number % 10 == 0:
            receipts += driver.reserve(session, f"guest{number}")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 10
    assert len(driver.queries.unreadable(1000)) == 100
    assert driver.check(receipts).quarantined == 0


# Well formed, but with a value that no table can hold: one each, in an entry that is otherwise right.
UNSTORABLE: dict[str, Any] = {
    "job_id": "00000000-0000-0000-0000-000000000000",
    "seq": 10**30,
    "session_id": 2**63,
    "client": "o\0pen",
    "body_hash": "a\tb",
    "name": "A\0na",
}


@pytest.mark.parametrize("field", UNSTORABLE)
def test_an_entry_that_no_table_can_hold_is_set_aside_and_blocks_nobody(driver: Driver, field: str) -> None:
    session = driver.new_session()
    entry = {"job_id": new_job_id(session), "seq": 1, "session_id": session, "client": "open", "body_hash": "h", "name": "Ana"}
    entry |= {field: UNSTORABLE[field]}
    arguments = msgspec.structs.replace(person("ana"), name=entry["name"])
    command = encode_command(RESERVE, entry["session_id"], entry["job_id"], entry["client"], entry["body_hash"], arguments)
    driver.redis.xadd(key(driver.partition(session), "mailbox"), {"s": entry["seq"], "c": command})
    receipts = driver.reserve(session, "bo")
    driver.drain_through_failures(session)
    assert driver.outcomes(receipts) == ["confirmed"]
    assert len(driver.queries.unreadable(10)) == 1
    driver.check(receipts)


def test_a_command_for_a_session_that_is_not_there_is_set_aside(driver: Driver) -> None:
    session = driver.new_session()
    stray = encode_command(RESERVE, 10**9, new_job_id(10**9), "open", "h", person("ana"))
    driver.redis.xadd(key(driver.partition(session), "mailbox"), {"s": 1, "c": stray})
    receipts = driver.reserve(session, "bo")
    driver.drain_all()
    (found,) = driver.queries.unreadable(10)
    assert "1000000000" in found.reason
    driver.check(receipts)


def test_a_command_accepted_for_a_session_that_is_gone_has_an_outcome_all_the_same(driver: Driver) -> None:
    session, other = driver.new_session(), driver.new_session()
    receipts = driver.reserve(session, "ana")
    receipts += driver.reserve(other, "bo")
    driver.deployment.sql("DELETE FROM jobs WHERE session_id = %s", session)
    driver.deployment.sql("DELETE FROM sessions WHERE id = %s", session)
    driver.drain_all()
    assert driver.outcomes(receipts) == ["quarantined", "confirmed"]
    (found,) = driver.queries.unreadable(10)
    assert f"there is no session {session}" in found.reason
    assert driver.redis.ttl(key(driver.partition(session), f"job:{receipts[0].job.id}")) > 0
    with pytest.raises(UnknownSession):
        driver.reserve(session, "cy")


def test_a_command_that_kills_its_worker_is_quarantined_after_three_deaths(driver: Driver) -> None:
    session = driver.new_session(capacity=3)
    receipts = driver.reserve(session, "ana", "bad", "bo", "cy", "dee")
    partition, point = driver.partition(session), "deciding=bad@example.org"
    deaths = 0
    while driver.drain_in_a_process(partition, point) == KILLED:
        deaths += 1
        assert deaths < 10
    assert deaths == 4  # once in its batch, then three times by itself
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "quarantined", "confirmed", "confirmed", "sold_out"]
    report = driver.check(receipts)
    assert report.quarantined == 1
    (found,) = driver.queries.quarantined(10)
    assert found.job_id == receipts[1].job.id
    assert driver.job(found.job_id).status == "failed"  # type: ignore[union-attr]


def test_a_killer_in_a_large_batch_is_found_without_trying_each_command_by_itself(driver: Driver) -> None:
    session = driver.new_session(capacity=300)
    names = [f"guest{number}" for number in range(200)]
    receipts = driver.reserve(session, *names[:99], "bad", *names[99:])
    partition, point = driver.partition(session), "deciding=bad@example.org"
    deaths = 0
    while driver.drain_in_a_process(partition, point) == KILLED:
        deaths += 1
        assert deaths < 10
    assert deaths == 5  # in its batch, in its portion, then three times by itself
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 99 + ["quarantined"] + ["confirmed"] * 101
    batches = driver.deployment.sql("SELECT count(DISTINCT batch) FROM jobs WHERE session_id = %s AND seq > 0", session)
    assert batches[0][0] < 50  # three portions, the fourth one by one, then three more
    assert driver.check(receipts).quarantined == 1


def test_a_crash_that_no_command_caused_costs_a_large_batch_a_few_transactions(driver: Driver) -> None:
    session = driver.new_session(capacity=300)
    receipts = driver.reserve(session, *(f"guest{number}" for number in range(250)))
    assert driver.drain_in_a_process(driver.partition(session), "before_commit") == KILLED
    driver.drain_all()
    batches = driver.deployment.sql("SELECT count(DISTINCT batch) FROM jobs WHERE session_id = %s AND seq > 0", session)
    assert batches[0][0] == -(-250 // 32) - 1 + 250 % 32  # the last few go one by one
    assert driver.check(receipts).quarantined == 0


def test_a_portion_that_could_not_be_tried_for_want_of_postgres_is_not_held_against_it(driver: Driver) -> None:
    session = driver.new_session(capacity=300)
    receipts = driver.reserve(session, *(f"guest{number}" for number in range(100)))
    partition = driver.partition(session)
    assert driver.drain_in_a_process(partition, "before_commit") == KILLED

    def unavailable() -> None:
        raise Unavailable

    crashpoints.arm("before_commit", unavailable)
    with pytest.raises(Unavailable):
        driver.drain(partition)
    assert driver.redis.hkeys(key(partition, "trial")) == [b"until"]
    driver.drain_all()
    assert driver.check(receipts).quarantined == 0


def test_a_crash_that_no_command_caused_quarantines_nobody(driver: Driver) -> None:
    session = driver.new_session()
    receipts = []
    for number in range(4):
        receipts += driver.reserve(session, f"guest{number}", f"friend{number}")
        assert driver.drain_in_a_process(driver.partition(session), "after_read") == KILLED
        driver.drain_all()
    assert driver.check(receipts).quarantined == 0


def test_a_command_that_kills_twice_and_then_works_is_applied(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    for _ in range(2):
        assert driver.drain_in_a_process(driver.partition(session), "deciding=ana@example.org") == KILLED
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    assert driver.check(receipts).quarantined == 0


def test_a_command_that_fails_without_killing_is_quarantined_too(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bad", "bo")
    crashpoints.arm("deciding=bad@example.org", fail)
    failures = driver.drain_through_failures(session)
    assert failures == 4  # once in its batch, then three times by itself
    assert driver.outcomes(receipts) == ["confirmed", "quarantined", "confirmed"]
    driver.check(receipts)


def test_deaths_are_remembered_while_another_worker_cannot_reach_postgres(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bad", "bo")
    partition, point = driver.partition(session), "deciding=bad@example.org"
    nowhere = create_engine(f"postgresql://aforo@127.0.0.1:{free_port()}/aforo", 1)
    cut_off = Drain(Store(nowhere), driver.worker.mailbox, 1000, driver.rung)
    deaths = 0
    while driver.drain_in_a_process(partition, point) == KILLED:
        deaths += 1
        assert deaths <= 4, "deaths were forgotten"
        with pytest.raises(Unavailable):
            cut_off(partition)
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "quarantined", "confirmed"]
    driver.check(receipts)


class Failure(Exception):
    """Something that is nobody's fault but the command's."""


def fail() -> None:
    raise Failure
