"""Following a job: polling, waiting, and what a queued one is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.http import Api, person
from tests.support.stack import Stack
from tests.support.waiting import until


@pytest.fixture
def idle(stacks: Callable[..., Stack]) -> Stack:
    """A stack whose worker and sweeper are stopped: what is accepted stays queued."""
    stack = stacks()
    stack.sweeper.stop()
    stack.worker.stop()
    return stack


def test_a_queued_job_is_told_how_many_are_ahead(idle: Stack) -> None:
    with Api(idle.url) as api:
        session = api.new_session()
        jobs = [api.reserve(session, wait=None).json() for _ in range(3)]
        assert [job["ahead"] for job in jobs] == [0, 1, 2]
        answer = api.get(f"/api/jobs/{jobs[2]['id']}")
        assert (answer.json()["status"], answer.json()["ahead"]) == ("queued", 2)
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Cache-Control"] == "no-store"
        idle.worker.start()
        idle.sweeper.start()
        done = api.job(jobs[2]["id"], Prefer="wait=20")
        assert (done["outcome"], done["ahead"], done["eta_seconds"]) == ("confirmed", None, None)


def test_a_wait_that_is_too_short_ends_in_202(idle: Stack) -> None:
    with Api(idle.url) as api:
        session = api.new_session()
        started = time.monotonic()
        answer = api.reserve(session, wait=1)
        assert 0.9 < time.monotonic() - started < 5
        assert (answer.status_code, "Preference-Applied" in answer.headers) == (202, False)
        followed = api.get(answer.headers["Location"], headers={"Prefer": "wait=1"})
        assert (followed.status_code, followed.json()["status"]) == (200, "queued")
        assert "Preference-Applied" not in followed.headers


def test_a_queued_job_with_a_known_pace_is_told_when_to_expect_it(idle: Stack) -> None:
    with Api(idle.url) as api:
        session = api.new_session()
        job = api.reserve(session, wait=None).json()
        redis = idle.deployment.redis()
        partition = int(job["id"][:8], 16) % 16
        redis.set(f"aforo:{{{partition}}}:pace", "2.0")
        assert api.job(job["id"])["eta_seconds"] == 0.5


def test_a_waiter_is_woken_by_the_worker(api: Api) -> None:
    session = api.new_session()
    api.reserve(session)  # everything is warm
    times = []
    for _ in range(10):
        started = time.monotonic()
        assert api.reserve(session, wait=20).status_code in (201, 409)
        times.append(time.monotonic() - started)
    assert sorted(times)[len(times) // 2] < 0.8  # one after the other, each would take the second after which all look again


def test_a_waiter_whose_subscription_breaks_still_gets_its_outcome(stacks: Callable[..., Stack]) -> None:
    stack = stacks(api_processes="1")
    with Api(stack.url) as api:
        session = api.new_session()
        over = threading.Event()

        def cut() -> None:
            while not over.wait(0.02):
                stack.deployment.cut_connections("pubsub")

        cutting = threading.Thread(target=cut)
        cutting.start()
        try:
            for _ in range(3):
                started = time.monotonic()
                assert api.reserve(session).status_code in (201, 409)
                assert time.monotonic() - started < 10  # of the twenty that it would have waited
        finally:
            over.set()
            cutting.join()


@pytest.mark.parametrize("prefer", ["wait=20", 'wait="20"', "respond-async, wait=20", "WAIT = 20", "wait=20; x=y", "wait=99999"])
def test_a_wait_is_understood_however_it_is_written(api: Api, prefer: str) -> None:
    answer = api.post(f"/api/sessions/{api.new_session()}/reserve/", json=person(), headers={"Prefer": prefer})
    assert answer.status_code == 201
    assert answer.headers["Preference-Applied"] in ("wait=20", "wait=30")


@pytest.mark.parametrize("prefer", ["", "wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "return=minimal", "await=5", "wait=0"])
def test_a_malformed_wait_is_ignored(api: Api, prefer: str) -> None:
    answer = api.post(f"/api/sessions/{api.new_session()}/reserve/", json=person(), headers={"Prefer": prefer})
    assert (answer.status_code, answer.headers["Vary"]) == (202, "Prefer")


def test_a_job_is_answered_from_the_ledger_when_redis_forgot_it(api: Api, live_api: Stack) -> None:
    job = api.reserve(api.new_session()).json()
    redis = live_api.deployment.redis()
    assert redis.delete(f"aforo:{{{int(job['id'][:8], 16) % 16}}}:job:{job['id']}") == 1
    assert api.job(job["id"]) == job


def test_many_wait_at_once_and_each_gets_its_own_outcome(api: Api, live_api: Stack) -> None:
    session = api.new_session(capacity=20)
    answers: list[tuple[str, str]] = []

    def visit() -> None:
        with Api(live_api.url) as visitor:
            who = person()
            answer = visitor.reserve(session, who)
            answers.append((who["email"], answer.json().get("code", "confirmed")))

    threads = [threading.Thread(target=visit) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    held = {one["email"] for one in api.get(f"/api/sessions/{session}/").json()["reservations"]}
    assert {email for email, outcome in answers if outcome == "confirmed"} == held
    assert len(answers) == 40
    assert len(held) == 20


def test_an_unknown_job_is_404_even_if_one_would_wait(api: Api) -> None:
    started = time.monotonic()
    answer = api.get("/api/jobs/00000000-0000-8000-8000-000000000000", headers={"Prefer": "wait=20"})
    assert (answer.status_code, time.monotonic() - started < 10) == (404, True)


def test_polling_sees_the_outcome(api: Api) -> None:
    location = api.reserve(api.new_session(), wait=None).headers["Location"]
    assert until(lambda: api.get(location).json()["outcome"], 20) == "confirmed"
