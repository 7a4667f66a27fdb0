"""Doorbells lost, doubled, or with nobody at the other end: speed suffers, nothing else."""

from __future__ import annotations

import time

import pytest

from core import crashpoints
from core.doorbell import Doorbell, celery_app
from core.mailbox import key
from core.telemetry import DOORBELL_FAILURES
from ops.localstack import free_port
from tests.support.driving import Driver
from tests.support.waiting import until
from worker.sweeper import TOO_OLD_MS, sweep


def test_commands_nobody_rang_for_are_swept(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    swept = until(lambda: sweep(driver.worker), 5, "the sweeper deals with them")
    assert swept == 2
    assert driver.job(receipts[0].job.id).applied_at - receipts[0].job.accepted_at > TOO_OLD_MS  # type: ignore[union-attr]
    driver.check(receipts)


def test_the_sweeper_leaves_what_is_fresh_to_the_workers(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    oldest = driver.worker.mailbox.ages_ms(driver.settings.partitions)[driver.partition(session)]
    assert oldest is not None
    if oldest < TOO_OLD_MS:  # on a machine that stood still meanwhile there is nothing to see
        assert sweep(driver.worker) == 0
    driver.drain_all()
    driver.check()


def test_a_crash_between_acceptance_and_bell_loses_nothing(driver: Driver) -> None:
    session = driver.new_session()

    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    crashpoints.arm("accepted", crash)
    with pytest.raises(Crash):
        driver.reserve(session, "ana")
    assert driver.rung.partitions == []
    assert driver.waiting(session) == 1
    until(lambda: sweep(driver.worker), 5)
    assert driver.counts(session) == (1, 1)
    driver.check()


def test_each_bell_rung_ten_times_applies_everything_once(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo", "cy")
    counts = [driver.drain(driver.partition(session)) for _ in range(10)]
    assert counts == [3] + [0] * 9
    driver.check(receipts)


def test_one_bell_is_rung_for_all_that_arrives_until_somebody_drains(driver: Driver) -> None:
    session = driver.new_session()
    for name in ("ana", "bo", "cy"):
        driver.reserve(session, name)
    assert driver.rung.partitions == [driver.partition(session)]
    driver.drain_all()
    driver.reserve(session, "dee")
    assert driver.rung.partitions == [driver.partition(session)] * 2


def test_a_bell_that_was_lost_is_rung_again_after_a_while(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    bell = key(driver.partition(session), "bell")
    assert driver.redis.pttl(bell) <= 1000
    driver.redis.delete(bell)  # as its expiry does
    driver.reserve(session, "bo")
    assert driver.rung.partitions == [driver.partition(session)] * 2


def test_ringing_neither_waits_nor_fails_when_the_broker_is_gone() -> None:
    doorbell = Doorbell(celery_app(f"redis://127.0.0.1:{free_port()}/0"))
    before = DOORBELL_FAILURES._value.get()
    started = time.monotonic()
    for _ in range(100):
        doorbell.ring(3)
    assert time.monotonic() - started < 0.5
    until(lambda: DOORBELL_FAILURES._value.get() > before, 20, "a failure is counted")
    doorbell.close()
