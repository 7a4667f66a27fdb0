"""Redis emptied, or put back to an older state: noticed, recorded, and nothing accepted afterwards is lost or skipped."""

from __future__ import annotations

import pytest

from core import crashpoints
from tests.support.driving import Driver


def incidents(driver: Driver) -> list[str]:
    return [row[0] for row in driver.deployment.sql("SELECT kind FROM incidents ORDER BY id")]


def test_an_emptied_redis_is_rebuilt_and_old_jobs_are_still_answered(driver: Driver) -> None:
    session = driver.new_session(capacity=3)
    receipts = driver.reserve(session, "ana", "bo")
    driver.drain_all()
    driver.redis.flushdb()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    receipts += driver.reserve(session, "cy", "dee")
    assert [receipt.job.seq for receipt in receipts] == [1, 2, 3, 4]
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed", "confirmed", "sold_out"]
    assert driver.counts(session) == (3, 4)
    driver.check(receipts)


@pytest.mark.parametrize("point", ["after_read", "mid_transaction", "before_commit", "after_commit"])
def test_redis_emptied_while_a_drain_holds_a_batch(driver: Driver, point: str) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    crashpoints.arm(point, driver.redis.flushdb)
    driver.drain(driver.partition(session))
    receipts += driver.reserve(session, "cy")
    assert receipts[-1].job.seq == 3
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 3
    assert driver.counts(session) == (3, 3)
    driver.check(receipts)


def test_commands_that_redis_lost_leave_a_gap_that_is_named(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.drain_all()
    driver.redis.hset(f"aforo:{{{driver.partition(session)}}}:s:{session}", "q", 4)  # three more had been accepted
    receipts = driver.reserve(session, "eve")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"]
    assert "seq_gap" in incidents(driver)
    report = driver.report()
    assert report.gaps == 1
    assert "seq 2 to 4" in report.differences[0]


def snapshot(driver: Driver) -> dict[bytes, bytes]:
    return {name: driver.redis.dump(name) for name in driver.redis.keys("*")}


def put_back(driver: Driver, saved: dict[bytes, bytes]) -> None:
    driver.redis.flushdb()
    for name, value in saved.items():
        driver.redis.restore(name, 0, value)


def test_a_redis_put_back_to_an_older_state_neither_skips_nor_repeats(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana")
    driver.drain_all()
    saved = snapshot(driver)
    receipts += driver.reserve(session, "bo", "cy")
    driver.drain_all()
    put_back(driver, saved)
    receipts += driver.reserve(session, "dee", "eve")  # under seqs that bo and cy have had
    assert {receipt.job.seq for receipt in receipts[-2:]} == {2, 3}
    receipts += driver.reserve(session, "fay")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 6
    assert [driver.job(receipt.job.id).renumbered for receipt in receipts] == [False] * 3 + [True] * 3  # type: ignore[union-attr]
    assert incidents(driver).count("renumbered") == 3
    receipts += driver.reserve(session, "gus")
    assert receipts[-1].job.seq == 7  # numbering agrees again
    driver.drain_all()
    report = driver.check(receipts)
    assert (report.renumbered, report.gaps) == (3, 0)


def test_a_redis_put_back_to_when_commands_still_waited_does_not_apply_them_twice(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    saved = snapshot(driver)
    driver.drain_all()
    receipts += driver.reserve(session, "cy")
    driver.drain_all()
    put_back(driver, saved)
    receipts += driver.reserve(session, "dee")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 4
    assert driver.counts(session)[0] == 4
    driver.check(receipts)
