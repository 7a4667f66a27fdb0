"""The same entries seen again: known to the ledger, they are not applied again, and their status is published again."""

from __future__ import annotations

import pytest

from core import crashpoints
from core.mailbox import PUBLISH_LIMIT, key
from core.model import CONFIGURE, ConfigureArguments
from tests.support.driving import Driver


class Interruption(Exception):
    """Ends a drain at a point."""


def interrupt() -> None:
    raise Interruption


def test_a_batch_whose_publication_was_lost_is_published_by_the_next_drain(driver: Driver) -> None:
    session = driver.new_session(capacity=1)
    receipts = driver.reserve(session, "ana", "bo")
    crashpoints.arm("after_commit", interrupt)
    with pytest.raises(Interruption):
        driver.drain(driver.partition(session))
    assert driver.outcomes(receipts) == [None, None]
    receipts += driver.reserve(session, "cy")
    driver.drain_all()
    assert sorted(filter(None, driver.outcomes(receipts))) == ["confirmed", "sold_out", "sold_out"]
    driver.check(receipts)
    assert driver.counts(session) == (1, 3)


def test_who_was_let_in_is_told_though_the_head_expires_between_two_parts_of_the_publication(driver: Driver) -> None:
    session = driver.new_session(capacity=1, waitlist_capacity=PUBLISH_LIMIT + 20)
    receipts = driver.reserve(session, "ana", *(f"guest{n}" for n in range(PUBLISH_LIMIT + 20)))
    driver.drain_all()
    receipts += driver.accept([(CONFIGURE, session, ConfigureArguments(capacity=PUBLISH_LIMIT + 21))])
    head = key(driver.partition(session), f"s:{session}")

    def expire() -> None:
        assert driver.redis.ttl(head) > 0
        driver.redis.delete(head)

    crashpoints.arm("between_publishes", expire)
    driver.drain_all()
    assert not driver.redis.exists(head)
    shown = {job.reservation.status for job in driver.jobs([receipt.job.id for receipt in receipts[:-1]])}
    assert shown == {"confirmed"}
    driver.check(receipts)


def test_entries_that_are_put_back_after_they_were_applied_change_nothing(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana")
    mailbox = key(driver.partition(session), "mailbox")
    entries = driver.redis.xrange(mailbox)
    driver.drain_all()
    receipts += driver.cancel(session, "ana")
    driver.drain_all()
    driver.redis.delete(mailbox)  # which would take no older ones
    for entry, fields in entries:
        driver.redis.xadd(mailbox, fields, entry)
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "cancelled"]
    assert driver.counts(session) == (0, 2)
    driver.check(receipts)


def test_a_batch_that_was_rolled_back_is_applied_by_the_next_drain(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    crashpoints.arm("before_commit", interrupt)
    with pytest.raises(Interruption):
        driver.drain(driver.partition(session))
    assert driver.queries.job(receipts[0].job.id) is None
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    assert driver.check(receipts).quarantined == 0


def test_a_late_publication_does_not_bring_old_counts_back(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana")
    with Driver(driver.deployment) as other:

        def overtake() -> None:
            receipts.extend(driver.reserve(session, "bo"))
            other.drain_all()

        crashpoints.arm("after_commit", overtake)
        driver.drain(driver.partition(session))
    assert driver.counts(session) == (2, 2)
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    driver.check(receipts)
