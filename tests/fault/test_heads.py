"""Sessions' heads that the release before left in Redis, and servers that cannot write many keys with an expiry in one call."""

from __future__ import annotations

import pytest

from core import mailbox
from core.mailbox import IDLE_HEAD_SECONDS, key
from core.scrub import Scrub
from tests.support.driving import Driver
from tests.support.heads import FIELDS, head_in
from tests.support.stack import Deployment


def as_before(driver: Driver, session: int) -> str:
    """Make of a session's head what the release before would have written, its expiry too; its key."""
    name = key(driver.partition(session), f"s:{session}")
    found, left_ms = head_in(driver.redis, name), driver.redis.pttl(name)
    driver.redis.delete(name)
    driver.redis.hset(name, mapping={field: found[field] for field in FIELDS if found[field] != "0" or field not in "fou"})
    if left_ms > 0:
        driver.redis.pexpire(name, left_ms)
    return name


def test_a_head_of_the_release_before_goes_on_numbering_where_it_was(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    name = as_before(driver, session)
    receipts += driver.reserve(session, "cy")
    assert receipts[-1].job.seq == 3
    assert driver.redis.ttl(name) == -1
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 3
    driver.check(receipts)


def test_what_is_published_over_a_head_of_the_release_before_is_in_it(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    name = as_before(driver, session)
    driver.drain_all()
    assert head_in(driver.redis, name)["a"] == "2"
    driver.check(receipts)


def test_an_idle_head_of_the_release_before_expires_when_it_would_have(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.drain_all()
    name = as_before(driver, session)
    driver.redis.expire(name, 60)
    put = driver.redis.register_script(mailbox.script("head"))
    lanes = str(driver.deployment.partitions)
    assert put([key(driver.partition(session), "mailbox")], [session, "1 0 10 0 0 0 open", 1, 0, 300, 0, 0, lanes]) == 0
    told = head_in(driver.redis, name)
    assert (told["q"], told["a"], told["r"]) == ("1", "1", "1")
    assert 0 < driver.redis.ttl(name) <= 60
    driver.check()


def test_a_head_of_the_release_before_is_not_retired_while_something_waits(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    name = as_before(driver, session)
    scrub = Scrub(driver.redis, driver.deployment.partitions, 1000)
    assert scrub.retire(driver.partition(session), {session: 0}) == []
    driver.drain_all()
    as_before(driver, session)
    assert scrub.retire(driver.partition(session), {session: 1}) == [session]
    assert not driver.redis.exists(name)


def test_a_server_that_sets_one_key_at_a_time_publishes_the_same(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    known = mailbox.script

    def of_an_older_server(name: str) -> str:
        return known(name).replace("0x090100", "0xffffff").replace("0x080400", "0xffffff")

    monkeypatch.setattr(mailbox, "script", of_an_older_server)
    assert "0xffffff" in mailbox.script("publish")
    with Driver(deployment) as driver:
        session = driver.new_session(capacity=1)
        receipts = driver.reserve(session, "ana", "bo")
        driver.drain_all()
        assert driver.outcomes(receipts) == ["confirmed", "sold_out"]
        for receipt in receipts:
            assert driver.redis.ttl(key(driver.partition(session), f"job:{receipt.job.id}")) > IDLE_HEAD_SECONDS
        driver.check(receipts)
