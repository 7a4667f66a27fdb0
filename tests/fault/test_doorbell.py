"""Doorbells lost, doubled, or with nobody at the other end: speed suffers, nothing else."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest

from core import crashpoints, mailbox
from core.doorbell import QUEUE, TASK, Doorbell, celery_app
from core.errors import Unavailable
from core.mailbox import key
from core.model import partition_of_session
from core.telemetry import DOORBELL_FAILURES
from ops import verify
from ops.localstack import free_port
from tests.support.driving import Driver
from tests.support.http import Api
from tests.support.stack import Deployment, Stack
from tests.support.waiting import until
from worker import sweeper
from worker.sweeper import TOO_OLD_MS, sweep


def test_commands_nobody_rang_for_are_swept(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    swept = until(lambda: sweep(driver.worker), what="the sweeper deals with them")
    assert swept == 2
    assert driver.job(receipts[0].job.id).applied_at - receipts[0].job.accepted_at > TOO_OLD_MS  # type: ignore[union-attr]
    driver.check(receipts)


def test_the_sweeper_leaves_what_is_fresh_to_the_workers(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "TOO_OLD_MS", 60_000)  # fresh also on a machine that stands still meanwhile
    session = driver.new_session()
    receipts = driver.reserve(session, "ana")
    assert sweep(driver.worker) == 0
    assert driver.waiting(session) == 1
    driver.drain_all()
    driver.check(receipts)


def test_a_partition_that_cannot_be_drained_does_not_keep_the_sweeper_from_the_others(driver: Driver) -> None:
    sessions = sorted((driver.new_session() for _ in range(40)), key=driver.partition)
    blocked, other = sessions[0], sessions[-1]
    assert driver.partition(blocked) < driver.partition(other)
    driver.reserve(blocked, "ana")
    driver.reserve(other, "bo")

    def drain(partition: int) -> int:
        if partition == driver.partition(blocked):
            raise Unavailable
        return driver.drain(partition)

    services = SimpleNamespace(lanes=driver.lanes, mailbox=driver.worker.mailbox, drain=drain)

    def swept() -> bool:
        with suppress(Unavailable):
            sweep(services)  # type: ignore[arg-type]
        return driver.waiting(other) == 0

    until(swept, what="the sweeper gets to the other partition")
    assert driver.waiting(blocked) == 1


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
    until(lambda: sweep(driver.worker), what="the sweeper deals with it")
    assert driver.counts(session) == (1, 1)
    driver.check()


def test_each_bell_rung_ten_times_at_real_workers_applies_everything_once(live_api: Stack) -> None:
    celery = celery_app(live_api.redis_url)
    with Api(live_api.url) as api:
        session = api.new_session(capacity=3)
        jobs = []
        for _ in range(5):
            jobs.append(api.reserve(session, wait=None).json())
            for _ in range(10):
                celery.send_task(TASK, args=(partition_of_session(session, 16),), queue=QUEUE)
        outcomes = [api.job(job["id"], Prefer="wait=20")["outcome"] for job in jobs]
        assert outcomes == ["confirmed"] * 3 + ["sold_out"] * 2
        assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == 5
    celery.close()
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []


def test_a_drain_too_many_finds_nothing_to_do(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo", "cy")
    counts = [driver.drain(driver.partition(session)) for _ in range(10)]
    assert counts == [3] + [0] * 9
    driver.check(receipts)


@pytest.mark.usefixtures("lasting_bells")
def test_one_bell_is_rung_for_all_that_arrives_until_somebody_drains(driver: Driver) -> None:
    session = driver.new_session()
    for name in ("ana", "bo", "cy"):
        driver.reserve(session, name)
    assert driver.rung.partitions == [driver.partition(session)]
    assert driver.drain(driver.partition(session)) == 3  # and that it left nothing takes the bell away
    driver.reserve(session, "dee")
    assert driver.rung.partitions == [driver.partition(session)] * 2


def test_a_bell_that_was_lost_is_rung_again_after_a_while(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    bell = key(driver.partition(session), "bell")
    assert driver.redis.pttl(bell) <= mailbox.BELL_MS
    driver.redis.delete(bell)  # as its expiry does
    driver.reserve(session, "bo")
    assert driver.rung.partitions == [driver.partition(session)] * 2


def test_ringing_neither_waits_nor_fails_when_the_broker_is_gone_and_commands_are_accepted(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    celery = celery_app(f"redis://127.0.0.1:{free_port()}/0")
    send, accepted = celery.send_task, threading.Event()
    monkeypatch.setattr(celery, "send_task", lambda *task, **how: accepted.wait(60) and send(*task, **how))
    doorbell = Doorbell(celery)
    before = DOORBELL_FAILURES._value.get()
    for _ in range(100):
        doorbell.ring(3)
    with Driver(deployment, ring=doorbell.ring) as driver:
        session = driver.new_session()
        receipts = driver.reserve(session, "ana", "bo")
        assert [receipt.job.seq for receipt in receipts] == [1, 2]
        assert DOORBELL_FAILURES._value.get() == before  # nobody has waited for the first one to fail
        accepted.set()
        until(lambda: DOORBELL_FAILURES._value.get() > before, 20, "a failure is counted")
        until(lambda: sweep(driver.worker), what="the sweeper deals with them")
        assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
        driver.check(receipts)
    doorbell.close()
