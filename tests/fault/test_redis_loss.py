"""Redis emptied, or put back to an older state: noticed, recorded, and nothing accepted afterwards is lost or skipped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from core import crashpoints
from core.bootstrap import ApiServices
from core.door import Receipt
from core.mailbox import key
from core.model import RESERVE
from tests.support.driving import KILLED, Driver, person
from tests.support.heads import change_head, head_in
from tests.support.stack import Deployment

HOLDING = ["after_read", "mid_transaction", "before_commit", "after_commit"]


def incidents(driver: Driver) -> list[str]:
    return [row[0] for row in driver.deployment.sql("SELECT kind FROM incidents ORDER BY id")]


def renumbered(driver: Driver, receipts: list[Receipt]) -> list[bool]:
    """Of each command, whether it was applied under another seq than its 202 carried."""
    jobs = driver.jobs([receipt.job.id for receipt in receipts])
    assert None not in jobs
    moved = [job.seq != receipt.job.seq for job, receipt in zip(jobs, receipts, strict=True)]  # type: ignore[union-attr]
    assert moved == [job.renumbered for job in jobs]  # type: ignore[union-attr]
    return moved


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
    assert head_in(driver.redis, head(driver, session))["r"] == "3"
    driver.check(receipts)


def test_an_emptied_redis_is_recorded_once_when_the_api_rebuilds_a_head(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.drain_all()
    driver.redis.flushdb()
    for _ in range(2):
        driver.redis.delete(head(driver, session))  # as its expiry does
        asyncio.run(load_head(driver, session))
    assert incidents(driver) == ["redis_emptied"]
    assert driver.counts(session) == (1, 1)
    driver.check()


async def load_head(driver: Driver, session: int) -> None:
    services = ApiServices(driver.settings)
    await services.start()
    try:
        assert await services.heads.load(session)
    finally:
        await services.stop()


def test_a_new_partition_is_no_incident(driver: Driver) -> None:
    asyncio.run(load_head(driver, driver.new_session()))
    assert incidents(driver) == []


@pytest.mark.parametrize("point", HOLDING)
def test_redis_emptied_while_a_drain_holds_a_batch(driver: Driver, point: str) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    crashpoints.arm(point, driver.redis.flushdb)
    driver.drain(driver.partition(session))
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    receipts += driver.reserve(session, "cy")
    assert receipts[-1].job.seq == 3
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 3
    assert driver.counts(session) == (3, 3)
    driver.check(receipts)


@pytest.mark.parametrize("point", HOLDING)
def test_commands_accepted_by_an_emptied_redis_while_a_drain_holds_a_batch(driver: Driver, point: str) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")

    def empty_and_accept() -> None:
        driver.redis.flushdb()
        receipts.extend(driver.reserve(session, "cy"))

    crashpoints.arm(point, empty_and_accept)
    driver.drain(driver.partition(session))
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 3
    # Before the commit the head is rebuilt without the batch, so cy's 202 carries a seq that has passed.
    assert renumbered(driver, receipts) == [False, False, point != "after_commit"]
    assert driver.counts(session) == (3, 3)
    receipts += driver.reserve(session, "dee")
    assert receipts[-1].job.seq == 4
    driver.drain_all()
    assert driver.check(receipts).gaps == 0


def test_a_worker_killed_over_a_batch_that_redis_then_lost(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "bo")
    assert driver.drain_in_a_process(driver.partition(session), "after_commit") == KILLED
    driver.redis.flushdb()
    assert driver.outcomes(receipts) == ["confirmed", "confirmed"]
    receipts += driver.reserve(session, "cy")
    driver.drain_all()
    assert driver.counts(session) == (3, 3)
    driver.check(receipts)


def test_commands_that_redis_lost_leave_a_gap_that_is_named(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana")
    driver.drain_all()
    driver.reserve(session, "bo", "cy", "dee")
    mailbox = key(driver.partition(session), "mailbox")
    driver.redis.xdel(mailbox, *(entry for entry, _ in driver.redis.xrange(mailbox)))
    receipts = driver.reserve(session, "eve")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"]
    assert driver.counts(session) == (2, 5)
    assert incidents(driver) == ["seq_gap"]
    report = driver.report()
    assert (report.gaps, report.difference_count) == (1, 1)
    assert "accepted commands are missing, seq 2 to 4" in report.differences[0]


def test_commands_lost_before_they_were_applied_are_noticed_though_their_numbers_are_given_out_again(driver: Driver) -> None:
    session = driver.new_session()
    saved = after_first(driver, session, "ana")
    driver.reserve(session, "bo", "cy")
    put_back(driver, saved)
    receipts = driver.reserve(session, "dee")
    assert driver.went_back == [(driver.partition(session), 3, 1)]
    driver.reserve(session, "eve")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"]
    assert len(driver.went_back) == 1  # told once
    driver.check(receipts)


def test_what_one_process_lost_is_not_hidden_by_what_another_accepts(driver: Driver) -> None:
    session = driver.new_session()
    saved = after_first(driver, session, "ana")
    driver.reserve(session, "bo")
    put_back(driver, saved)
    with Driver(driver.deployment) as other:
        other.reserve(session, "cy", "dee", "eve")
        assert other.went_back == []
    driver.reserve(session, "fay")
    assert driver.went_back == [(driver.partition(session), 2, 1)]


def lose_the_next_reply(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next accept is made, and its answer does not arrive."""
    door: Any = driver.submit._door
    call = door._call

    async def lose_the_reply(*given: Any) -> Any:
        monkeypatch.undo()
        await call(*given)
        raise redis.ConnectionError

    monkeypatch.setattr(door, "_call", lose_the_reply)


def test_a_loss_is_noticed_though_the_reply_to_what_was_lost_was_lost_too(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = driver.new_session()
    saved = after_first(driver, session, "ana")
    lose_the_next_reply(driver, monkeypatch)
    (bo,) = driver.reserve(session, "bo")
    assert bo.known  # by the second call
    put_back(driver, saved)
    driver.reserve(session, "cy")
    assert driver.went_back == [(driver.partition(session), 2, 1)]


def test_a_loss_is_noticed_though_the_first_reply_after_it_was_lost(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    session = driver.new_session()
    saved = after_first(driver, session, "ana")
    driver.reserve(session, "bo")
    put_back(driver, saved)
    lose_the_next_reply(driver, monkeypatch)
    (cy,) = driver.reserve(session, "cy")
    assert cy.known  # by the second call
    driver.reserve(session, "dee")
    assert driver.went_back == [(driver.partition(session), 2, 1)]  # told once


def test_a_redis_that_went_back_is_an_incident(driver: Driver) -> None:
    session = driver.new_session()
    asyncio.run(lose_a_command(driver, session))
    assert driver.deployment.sql("SELECT kind, partition, session_id, detail FROM incidents") == [
        ("redis_went_back", driver.partition(session), None, {"accepted": 2, "found": 1})
    ]


async def lose_a_command(driver: Driver, session: int) -> None:
    services = ApiServices(driver.settings)
    await services.start()
    try:
        for name in ("ana", "bo", "cy"):
            draft = services.submit.draft(RESERVE, session, person(name), "open", None)
            await services.submit(draft, person(name))
            if name == "bo":
                total = next(iter(driver.redis.scan_iter("aforo:*:total:*")))
                driver.redis.decr(total)  # as if bo had never been accepted
        while not incidents(driver):
            await asyncio.sleep(0.01)
    finally:
        await services.stop()


Saved = list[tuple[bytes, bytes, int]]


def snapshot(driver: Driver) -> Saved:
    """Every key with its value and the milliseconds it has left, 0 for ever: what an older AOF would hold."""
    return [(name, driver.redis.dump(name), max(driver.redis.pttl(name), 0)) for name in driver.redis.scan_iter("*")]


def put_back(driver: Driver, saved: Saved) -> None:
    driver.redis.flushdb()
    for name, value, left_ms in saved:
        driver.redis.restore(name, left_ms, value)


def head(driver: Driver, session: int) -> str:
    return key(driver.partition(session), f"s:{session}")


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_a_redis_put_back_to_an_older_state_neither_skips_nor_repeats(deployment: Deployment, batch_size: int) -> None:
    with Driver(deployment, batch_size=batch_size) as driver:
        session = driver.new_session()
        receipts = driver.reserve(session, "ana")
        driver.drain_all()
        saved = snapshot(driver)
        receipts += driver.reserve(session, "bo", "cy")
        driver.drain_all()
        put_back(driver, saved)
        receipts += driver.reserve(session, "dee", "eve", "fay")  # under seqs of which bo and cy have had two
        assert [receipt.job.seq for receipt in receipts[-3:]] == [2, 3, 4]
        driver.drain_all()
        assert driver.outcomes(receipts) == ["confirmed"] * 6
        assert renumbered(driver, receipts) == [False] * 3 + [True] * 3
        assert incidents(driver) == ["renumbered"] * 3
        receipts += driver.reserve(session, "gus")
        assert receipts[-1].job.seq == 7  # numbering agrees again
        driver.drain_all()
        report = driver.check(receipts)
        assert (report.renumbered, report.gaps) == (3, 0)
        assert [note.partition(" (job ")[0] for note in report.notes] == [f"session {session}: seq {seq}" for seq in (4, 5, 6)]
        assert "was accepted as seq 2, which another command had" in report.notes[0]


def test_numbering_agrees_again_though_commands_arrive_between_renumbered_batches(deployment: Deployment) -> None:
    with Driver(deployment, batch_size=2) as driver:
        session = driver.new_session(capacity=50)
        saved = after_first(driver, session, "ana")
        receipts = driver.reserve(session, "bo", "cy")
        driver.drain_all()
        put_back(driver, saved)
        receipts += driver.reserve(session, *(f"guest{n}" for n in range(5)))
        late = iter(["dee", "eve", "fay"])

        def accept_one_more() -> None:
            if name := next(late, None):
                crashpoints.arm("after_publish", accept_one_more)
                receipts.extend(driver.reserve(session, name))

        crashpoints.arm("after_publish", accept_one_more)
        driver.drain_all()
        assert driver.outcomes(receipts) == ["confirmed"] * 10
        assert [job.seq for job in driver.jobs([r.job.id for r in receipts]) if job] == list(range(2, 12))
        assert renumbered(driver, receipts) == [False] * 2 + [True] * 5 + [False] * 3
        assert driver.check(receipts).gaps == 0


def test_a_head_that_is_raised_does_not_expire_while_commands_wait(deployment: Deployment) -> None:
    with Driver(deployment, batch_size=1) as driver:
        session = driver.new_session()
        receipts = driver.reserve(session, "ana", "bo")
        driver.drain_all()
        change_head(driver.redis, head(driver, session), q=1)
        receipts += driver.reserve(session, "cy", "dee")
        driver.redis.expire(head(driver, session), 60)  # as a part without entries leaves it, where numbers agree by chance
        assert driver.drain.batch(driver.partition(session)) == (1, 1)
        told = head_in(driver.redis, head(driver, session))
        assert (told["q"], told["a"]) == ("4", "3")
        assert driver.redis.ttl(head(driver, session)) == -1
        driver.drain_all()
        driver.check(receipts)


def test_a_redis_put_back_twice_is_renumbered_twice(driver: Driver) -> None:
    session = driver.new_session(capacity=50)
    saved = after_first(driver, session, "ana")
    receipts = []
    for round_ in range(3):
        receipts += driver.reserve(session, f"guest{round_}", f"friend{round_}")
        driver.drain_all()
        if round_ == 1:
            driver.check(receipts)
        put_back(driver, saved)
        saved = saved if round_ else after_first(driver, session, "bo")
    receipts += driver.reserve(session, "late")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 7
    assert driver.check(receipts).gaps == 0


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
    assert driver.counts(session) == (4, 4)
    driver.check(receipts)


@pytest.mark.parametrize("point", HOLDING)
def test_a_redis_put_back_while_a_drain_holds_a_batch(driver: Driver, point: str) -> None:
    session = driver.new_session()
    saved = after_first(driver, session, "ana")
    receipts = driver.reserve(session, "bo", "cy")

    def put_back_and_accept() -> None:
        put_back(driver, saved)
        receipts.extend(driver.reserve(session, "dee"))

    crashpoints.arm(point, put_back_and_accept)
    driver.drain(driver.partition(session))
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 3
    assert renumbered(driver, receipts) == [False, False, True]
    assert incidents(driver) == ["renumbered"]
    receipts += driver.reserve(session, "eve")
    assert receipts[-1].job.seq == 5
    driver.drain_all()
    assert driver.check(receipts).gaps == 0


@pytest.mark.parametrize("point", ["mid_transaction", "before_commit", "after_commit", "after_publish"])
def test_a_worker_killed_over_renumbered_commands_neither_skips_nor_repeats(driver: Driver, point: str) -> None:
    session = driver.new_session()
    saved = after_first(driver, session, "ana")
    receipts = driver.reserve(session, "bo", "cy")
    driver.drain_all()
    put_back(driver, saved)
    receipts += driver.reserve(session, "dee", "eve")
    assert driver.drain_in_a_process(driver.partition(session), point) == KILLED
    driver.drain_all()
    receipts += driver.reserve(session, "fay")
    driver.drain_all()
    assert driver.outcomes(receipts) == ["confirmed"] * 5
    assert driver.counts(session) == (6, 6)
    assert driver.check(receipts).gaps == 0


def test_a_redis_put_back_to_when_it_was_renumbering_is_renumbered_anew(deployment: Deployment) -> None:
    with Driver(deployment, batch_size=2) as driver:
        session = driver.new_session(capacity=50)
        saved = after_first(driver, session, "ana")
        receipts = driver.reserve(session, "bo", "cy")
        driver.drain_all()
        put_back(driver, saved)
        receipts += driver.reserve(session, "dee", "eve", "fay")
        crashpoints.arm("after_publish", interrupt)
        with pytest.raises(Interruption):
            driver.drain_all()  # dee and eve; fay waits, and the head remembers by how much it was raised
        saved = snapshot(driver)
        receipts += driver.reserve(session, "gus")
        driver.drain_all()
        put_back(driver, saved)
        receipts += driver.reserve(session, "hal")  # lags behind by less than was raised then
        driver.drain_all()
        receipts += driver.reserve(session, "late")
        driver.drain_all()
        assert renumbered(driver, receipts) == [False] * 2 + [True] * 3 + [False, True, False]
        assert driver.check(receipts).gaps == 0


def test_commands_sent_again_under_the_numbers_they_had_leave_no_gap(deployment: Deployment) -> None:
    with Driver(deployment, batch_size=1) as driver:
        session = driver.new_session(capacity=50)
        saved = after_first(driver, session, "ana")
        receipts = driver.reserve(session, "bo")
        receipts += driver.reserve(session, "cy", key="cy-reserves")
        driver.drain_all()
        put_back(driver, saved)
        receipts += driver.reserve(session, "dee")
        receipts += driver.reserve(session, "cy", key="cy-reserves")  # by chance again as number 3
        receipts += driver.reserve(session, "eve")
        assert [receipt.job.seq for receipt in receipts] == [2, 3, 2, 3, 4]
        late = iter(["fay", "gus"])

        def accept_one_more() -> None:
            if name := next(late, None):
                crashpoints.arm("after_publish", accept_one_more)
                receipts.extend(driver.reserve(session, name))

        crashpoints.arm("after_publish", accept_one_more)
        driver.drain_all()
        receipts += driver.reserve(session, "late")
        driver.drain_all()
        assert driver.check(receipts).gaps == 0


@pytest.mark.parametrize("batch_size", [300, 1000])
def test_a_renumbered_backlog_that_is_published_in_parts_is_counted_once(deployment: Deployment, batch_size: int) -> None:
    with Driver(deployment, batch_size=batch_size) as driver:
        session = driver.new_session(capacity=1000)
        saved = after_first(driver, session, "ana")
        receipts = driver.reserve(session, "bo", "cy")
        driver.drain_all()
        put_back(driver, saved)
        receipts += driver.reserve(session, *(f"guest{n}" for n in range(650)))
        driver.drain_all()
        receipts += driver.reserve(session, "late")
        assert receipts[-1].job.seq == 654
        driver.drain_all()
        assert driver.check(receipts).gaps == 0


@pytest.mark.parametrize("point", ["after_commit#2", "mid_transaction#2"])
def test_a_worker_killed_within_a_renumbered_backlog_leaves_no_gap(deployment: Deployment, point: str) -> None:
    with Driver(deployment, batch_size=2) as driver:
        session = driver.new_session(capacity=50)
        saved = after_first(driver, session, "ana")
        receipts = driver.reserve(session, "bo", "cy")
        driver.drain_all()
        put_back(driver, saved)
        receipts += driver.reserve(session, *(f"guest{n}" for n in range(6)))
        crashpoints.arm(point, interrupt)
        with pytest.raises(Interruption):
            driver.drain_all()
        driver.drain_all()
        receipts += driver.reserve(session, "late")
        assert receipts[-1].job.seq == 10
        driver.drain_all()
        assert driver.check(receipts).gaps == 0


class Interruption(Exception):
    """Ends a drain at a point, as a crash would."""


def interrupt() -> None:
    raise Interruption


def after_first(driver: Driver, session: int, name: str) -> Saved:
    """Redis as it is after one more command was accepted and applied."""
    driver.reserve(session, name)
    driver.drain_all()
    return snapshot(driver)
