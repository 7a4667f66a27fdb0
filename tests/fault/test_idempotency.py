"""One key, many requests: one job, whatever Redis remembers."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from core.errors import IdempotencyKeyReused
from core.mailbox import key
from core.model import partition_of_session
from ops import verify
from tests.support.driving import Driver, together
from tests.support.heads import change_head
from tests.support.http import Api, person
from tests.support.stack import Stack


def test_a_key_raced_from_sixteen_threads_is_one_job(live_api: Stack) -> None:
    ana = person()
    with Api(live_api.url) as api:
        session = api.new_session(capacity=50)
        answers = together(*[lambda: api.reserve(session, ana, wait=None, Idempotency_Key="raced-0001")] * 16)
        jobs = [answer.json() for answer in answers]
        assert {answer.status_code for answer in answers} == {202}
        assert len({(job["id"], job["seq"], job["accepted_at"]) for job in jobs}) == 1
        assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
        assert api.job(jobs[0]["id"], Prefer="wait=20")["outcome"] == "confirmed"
        assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == 1


def test_a_key_raced_again_after_its_job_key_expired_is_still_that_job(live_api: Stack) -> None:
    ana = person()
    with Api(live_api.url) as api:
        session = api.new_session(capacity=50)
        first = api.reserve(session, ana, Idempotency_Key="raced-0002").json()
        name = key(partition_of_session(session, 16), f"job:{first['id']}")
        assert live_api.deployment.redis().delete(name) == 1  # as its expiry does
        answers = together(*[lambda: api.reserve(session, ana, Idempotency_Key="raced-0002")] * 16)
        assert {answer.status_code for answer in answers} == {201}
        for field in ("id", "seq", "accepted_at", "applied_at", "outcome", "reservation"):
            assert [answer.json()[field] for answer in answers] == [first[field]] * 16
        shown = api.get(f"/api/sessions/{session}/").json()
        assert (shown["reserved"], shown["last_seq"]) == (1, 2)  # one place in the order for all sixteen
    assert verify.run(live_api.database_url, live_api.redis_url).differences == []


def test_of_two_bodies_raced_under_one_key_one_is_refused(live_api: Stack) -> None:
    people = [person(), person()]
    with Api(live_api.url) as api:
        session = api.new_session(capacity=50)
        calls = [partial(api.reserve, session, who, wait=None, Idempotency_Key="raced-0003") for who in people * 8]
        answers = together(*calls)
        assert Counter(answer.status_code for answer in answers) == {202: 8, 422: 8}
        assert len({answer.status_code for answer in answers[::2]}) == 1  # all of one body
        assert {answer.json()["code"] for answer in answers if answer.status_code == 422} == {"idempotency_key_reused"}
        (job,) = {answer.json()["id"] for answer in answers if answer.status_code == 202}
        assert api.job(job, Prefer="wait=20")["outcome"] == "confirmed"
        assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == 1


def test_a_key_used_again_after_redis_was_emptied_is_answered_from_the_ledger(driver: Driver) -> None:
    session = driver.new_session(capacity=1)
    first = driver.reserve(session, "ana", key="once-and-again")
    driver.drain_all()
    driver.redis.flushdb()
    for _ in range(2):
        again = driver.reserve(session, "ana", key="once-and-again")
        assert (again[0].known, again[0].job) == (True, driver.job(first[0].job.id))
        assert (again[0].job.seq, again[0].job.accepted_at) == (first[0].job.seq, first[0].job.accepted_at)
    fresh = driver.reserve(session, "bo", key="never-before")
    assert (fresh[0].known, fresh[0].job.seq) == (False, 2)
    driver.drain_all()
    assert driver.outcomes([*first, *fresh]) == ["confirmed", "sold_out"]
    assert driver.check([*first, *fresh]).replays == 0


def test_another_body_under_a_key_that_only_the_ledger_knows_is_refused(driver: Driver) -> None:
    session = driver.new_session()
    driver.reserve(session, "ana", key="once-and-again")
    driver.drain_all()
    driver.redis.flushdb()
    with pytest.raises(IdempotencyKeyReused):
        driver.reserve(session, "bo", key="once-and-again")
    assert driver.waiting(session) == 0


def test_the_ledger_is_not_asked_for_commands_without_a_key_nor_of_sessions_younger_than_the_data_set(driver: Driver) -> None:
    old = driver.new_session()
    driver.reserve(old, "ana", key="once-and-again")
    driver.drain_all()
    driver.redis.flushdb()
    recalled: list[str] = []

    async def recall(job_id: str) -> None:
        recalled.append(job_id)

    driver.submit._recall = recall
    young = driver.new_session()
    driver.reserve(old, "bo")  # Redis knows this and the next ones, and that it does not know ana
    driver.reserve(young, "cy", key="young-and-new")
    driver.drain_all()
    driver.redis.delete(key(driver.partition(young), f"s:{young}"))  # as its expiry does
    driver.reserve(young, "dee", key="young-and-newer")
    assert recalled == []
    driver.reserve(old, "eve", key="old-and-new")
    assert len(recalled) == 1
    change_head(driver.redis, key(driver.partition(old), f"s:{old}"), f=1)  # as when the time is over
    driver.reserve(old, "fay", key="old-and-newer")
    assert len(recalled) == 1


def test_a_key_used_again_after_redis_forgot_it_is_a_replay(driver: Driver) -> None:
    session = driver.new_session(capacity=1)
    first = driver.reserve(session, "ana", key="once-and-again")
    driver.drain_all()
    driver.redis.delete(key(driver.partition(session), f"job:{first[0].job.id}"))  # as its expiry does
    again = driver.reserve(session, "ana", key="once-and-again")
    assert (again[0].known, again[0].job.id, again[0].job.seq) == (False, first[0].job.id, 2)
    driver.drain_all()
    assert driver.outcomes([*first, *again]) == ["confirmed", "confirmed"]
    assert driver.job(first[0].job.id).seq == 1  # type: ignore[union-attr]
    assert driver.counts(session) == (1, 2)
    assert driver.check([*first, *again]).replays == 1


def test_a_replay_whose_publication_was_lost_is_recognised_too(driver: Driver) -> None:
    session = driver.new_session()
    first = driver.reserve(session, "ana", key="again-and-again")
    driver.drain_all()
    driver.redis.delete(key(driver.partition(session), f"job:{first[0].job.id}"))
    driver.reserve(session, "ana", key="again-and-again")
    driver.drain_in_a_process(driver.partition(session), "after_commit")
    driver.drain_all()
    assert driver.outcomes(first) == ["confirmed"]
    assert driver.counts(session) == (1, 2)
    assert driver.check(first).replays == 1


def test_repeats_within_one_group_are_one_job(driver: Driver) -> None:
    session = driver.new_session()
    receipts = driver.reserve(session, "ana", "ana", "ana", key="all-at-once")
    assert len({receipt.job.id for receipt in receipts}) == 1
    assert [receipt.known for receipt in receipts] == [False, True, True]
    driver.drain_all()
    assert driver.counts(session) == (1, 1)
    driver.check(receipts)
