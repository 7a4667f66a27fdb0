"""A mailbox is marked by a script and read behind it, in one round trip: what is taken is what the mark is for."""

from __future__ import annotations

import pytest

from core.mailbox import Mailbox, key
from tests.support.driving import Driver
from tests.support.stack import Deployment


@pytest.fixture
def session(driver: Driver) -> int:
    """One with some commands that wait."""
    session = driver.new_session()
    driver.reserve(session, "ana", "bo", "cy")
    return session


@pytest.fixture
def mailbox(driver: Driver) -> Mailbox:
    """A worker's."""
    return Mailbox(driver.redis, 1000)


def taken(driver: Driver, mailbox: Mailbox, session: int, limit: int) -> list[int]:
    """The seqs that a worker takes there; the mark is on the last of them."""
    partition = driver.partition(session)
    found = mailbox.take([partition], limit, only_free=True)[partition]
    mark = driver.redis.hget(key(partition, "trial"), "until")
    assert (mark or b"").decode() == found.mark == (found.entries[-1].stream_id if found.entries else "")
    return [entry.command.seq for entry in found.entries]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 1000])
def test_the_mark_is_on_the_last_that_is_taken(driver: Driver, mailbox: Mailbox, session: int, limit: int) -> None:
    assert taken(driver, mailbox, session, limit) == [1, 2, 3][:limit]


def test_a_server_that_has_forgotten_the_script_is_read_again_behind_the_mark(
    driver: Driver, mailbox: Mailbox, session: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = driver.partition(session)
    taken(driver, mailbox, session, 1000)
    mailbox.forgive(partition, "batch")
    driver.redis.script_flush()
    exchange = mailbox._take._exchange
    sent = type(exchange).__call__

    def late(self: object, commands: list[tuple]) -> list[object]:
        replies = sent(self, commands)  # type: ignore[arg-type]
        if len(commands) == 2:  # it was read, but the script is not known
            driver.reserve(session, "dee")
        return replies

    monkeypatch.setattr(type(exchange), "__call__", late)
    assert taken(driver, mailbox, session, 1000) == [1, 2, 3, 4]


def test_what_comes_behind_the_mark_is_left(driver: Driver, mailbox: Mailbox, session: int) -> None:
    name = key(driver.partition(session), "mailbox")
    rows = [(entry, [b"s", b"1"]) for entry, _ in driver.redis.xrange(name)]
    assert mailbox._up_to(driver.partition(session), rows[1][0], list(rows), 1000) == rows[:2]


def test_where_others_have_told_all_of_it_no_mark_stays(
    driver: Driver, mailbox: Mailbox, session: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "_up_to", lambda *_: [])
    partition = driver.partition(session)
    assert mailbox.take([partition], 1000, only_free=True)[partition].is_empty
    assert not driver.redis.exists(key(partition, "trial"))


@pytest.mark.parametrize("batch_size", [2, 3, 1000])
def test_a_backlog_is_applied_in_order_however_it_is_read(deployment: Deployment, batch_size: int) -> None:
    with Driver(deployment, batch_size=batch_size) as driver:
        session = driver.new_session(capacity=20)
        receipts = driver.reserve(session, *(f"guest{n}" for n in range(11)))
        partition = driver.partition(session)
        while driver.waiting(session):
            driver.drain.round([[partition]] * 2, [partition])
        assert [job.seq for job in driver.jobs([receipt.job.id for receipt in receipts]) if job] == list(range(1, 12))
        assert driver.outcomes(receipts) == ["confirmed"] * 11
        driver.drain_all()
        driver.check(receipts)
