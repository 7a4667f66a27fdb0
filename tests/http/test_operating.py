"""Health, readiness, metrics, logs, limits, and ending in order."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ops import verify
from tests.support.http import Api, person
from tests.support.processes import children_of
from tests.support.stack import Servers, Stack
from tests.support.waiting import until

SAMPLE = re.compile(r"^(aforo_\w+)(\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


def metrics(api: Api) -> dict[str, float]:
    """Every sample by name and labels."""
    return {name + labels: float(value) for name, labels, value in SAMPLE.findall(api.get("/metrics").text)}


def total(samples: dict[str, float], name: str, label: str = "") -> float:
    return sum(value for key, value in samples.items() if key.startswith(name) and label in key)


def failing(api: Api) -> dict[str, str]:
    """The checks of /readyz that fail, and why."""
    answer = api.get("/readyz")
    assert (answer.status_code == 200) == (answer.json()["status"] == "ready")
    return {name: check["detail"] for name, check in answer.json()["checks"].items() if not check["ok"]}


def test_alive_and_ready(api: Api) -> None:
    assert api.get("/healthz").json() == {"status": "ok"}
    assert failing(api) == {}


@pytest.fixture
def fragile(own_servers: Servers, stacks: Callable[..., Stack]) -> Iterator[tuple[Servers, Stack, Api]]:
    """A stack on servers of its own."""
    stack = stacks(on=own_servers, rate_per_address="1000/s")
    with Api(stack.url) as api:
        yield own_servers, stack, api


def test_readiness_names_what_is_wrong_and_recovers(fragile: tuple[Servers, Stack, Api]) -> None:
    _, stack, api = fragile
    redis = stack.deployment.redis()
    for name, wrong, right in (
        ("appendfsync", "everysec", "always"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
    ):
        redis.config_set(name, wrong)
        assert name in failing(api)["redis_durability"]
        redis.config_set(name, right)
    assert failing(api) == {}
    stack.deployment.sql("UPDATE alembic_version SET version_num = '0001'")
    assert "needs" in failing(api)["migrations"]
    stack.deployment.sql("UPDATE alembic_version SET version_num = '9999'")  # as a later release does, before this one ends
    assert failing(api) == {}


def test_postgres_down_is_told_and_accepting_goes_on(fragile: tuple[Servers, Stack, Api]) -> None:
    servers, stack, api = fragile
    session = api.new_session()
    api.reserve(session)
    servers.postgres.kill()
    assert set(failing(api)) == {"postgres", "migrations"}
    answer = api.get(f"/api/sessions/{session}/")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    accepted = api.reserve(session, wait=None)
    assert accepted.status_code == 202
    servers.postgres.start()
    until(lambda: failing(api) == {}, 15, "ready again")
    assert api.job(accepted.json()["id"], Prefer="wait=20")["outcome"] == "confirmed"
    assert verify.run(stack.database_url, stack.redis_url).differences == []


def test_valkey_down_is_told_and_what_was_accepted_survives(fragile: tuple[Servers, Stack, Api]) -> None:
    servers, stack, api = fragile
    session = api.new_session()
    accepted = api.reserve(session, wait=None).json()
    servers.valkey.kill()
    assert "redis" in failing(api)
    answer = api.reserve(session, wait=None)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    read = api.get(f"/api/sessions/{session}/reservations/")
    assert (read.status_code, "RateLimit" in read.headers) == (200, False)  # it needs no Redis, and nobody is counted
    servers.valkey.start()
    until(lambda: failing(api) == {}, 15, "ready again")
    assert "RateLimit" in api.get(f"/api/sessions/{session}/").headers
    assert api.job(accepted["id"], Prefer="wait=20")["outcome"] == "confirmed"
    assert api.reserve(session).status_code == 201
    assert verify.run(stack.database_url, stack.redis_url).differences == []


def test_an_emptied_redis_is_an_incident_that_metrics_show(fragile: tuple[Servers, Stack, Api]) -> None:
    _, stack, api = fragile
    session = api.new_session()
    api.reserve(session)
    stack.deployment.redis().flushdb()
    assert api.reserve(session).json()["seq"] == 2
    assert total(metrics(api), "aforo_incidents_total", "redis_emptied") == 1
    kinds = [kind for (kind,) in stack.deployment.sql("SELECT kind FROM incidents")]
    assert kinds.count("redis_emptied") == 1  # the process that had accepted before may add redis_went_back


def test_metrics_count_what_was_done_in_all_processes(stacks: Callable[..., Stack]) -> None:
    stack = stacks()
    with Api(stack.url) as api, ThreadPoolExecutor(8) as threads:
        session = api.new_session(capacity=30)

        def visit(_: int) -> int:
            with Api(stack.url) as visitor:
                return visitor.reserve(session).status_code

        assert sorted(threads.map(visit, range(40))) == [201] * 30 + [409] * 10
        api.reserve(999_999_999)
        counts = {
            ("aforo_accepted_total", 'kind="reserve"'): 40,
            ("aforo_applied_total", 'outcome="confirmed"'): 30,
            ("aforo_applied_total", 'outcome="sold_out"'): 10,
            ("aforo_accept_seconds_count", ""): 40,
            ("aforo_accept_to_outcome_seconds_count", ""): 40,
            ("aforo_batch_size_sum", ""): 40,
            ("aforo_not_accepted_total", "UnknownSession"): 1,
        }

        def with_all(found: dict[str, float]) -> dict[str, float] | None:
            return found if all(total(found, *what) == count for what, count in counts.items()) else None

        # A process counts one thing after the other, and hands its counts on at its own times.
        found = until(lambda: with_all(metrics(api)), 20, "all is counted")
    assert len([name for name in found if name.startswith("aforo_mailbox_depth")]) == 16
    assert total(found, "aforo_mailbox_depth") == 0


def test_what_waits_shows_in_the_metrics(stacks: Callable[..., Stack]) -> None:
    stack = stacks()
    stack.sweeper.stop()
    stack.worker.stop()
    with Api(stack.url) as api:
        session = api.new_session()
        for _ in range(3):
            api.reserve(session, wait=None)
        assert total(metrics(api), "aforo_mailbox_depth") == 3
        assert until(lambda: total(metrics(api), "aforo_mailbox_oldest_seconds") > 0.2, 5)


def test_a_full_queue_refuses_and_still_answers_known_keys(stacks: Callable[..., Stack]) -> None:
    stack = stacks(max_queued="5")
    stack.sweeper.stop()
    stack.worker.stop()
    with Api(stack.url) as api:
        session = api.new_session()
        ana = person()
        assert api.reserve(session, ana, wait=None, Idempotency_Key="in-the-queue").status_code == 202
        assert [api.reserve(session, wait=None).status_code for _ in range(4)] == [202] * 4
        full = api.reserve(session, wait=None)
        assert (full.status_code, full.json()["code"]) == (503, "queue_full")
        assert int(full.headers["Retry-After"]) >= 1
        assert api.reserve(session, ana, wait=None, Idempotency_Key="in-the-queue").status_code == 202
        stack.worker.start()
        stack.sweeper.start()
        assert until(lambda: api.reserve(session).status_code == 409, 20)  # three places, all long taken


def test_logs_are_json_lines_that_name_requests_and_jobs(stacks: Callable[..., Stack]) -> None:
    """And never people: test_canary.py."""
    stack = stacks(log_level="debug")
    with Api(stack.url) as api:
        session = api.new_session()
        named = api.reserve(session, X_Request_Id="asked.by-me_1")
        assert named.headers["X-Request-Id"] == "asked.by-me_1"
        assert len(api.get("/healthz").headers["X-Request-Id"]) >= 8
        api.get("/nobody@example.org")
    stack.close()
    lines = [json.loads(line) for line in stack.api.output().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "asked.by-me_1" and line["event"] == "request"]
    assert (line["job_id"], line["method"], line["status"]) == (named.json()["id"], "POST", 201)
    paths = [line["path"] for line in lines if line.get("path", "/readyz") != "/readyz"]
    assert paths == ["/api/sessions", f"/api/sessions/{session}/reserve", "/healthz", None]


def test_the_api_finishes_what_it_holds(stacks: Callable[..., Stack]) -> None:
    stack = stacks()
    stack.sweeper.stop()
    stack.worker.stop()
    answers: list[httpx.Response] = []
    with Api(stack.url) as api:
        session = api.new_session()
        waiting = threading.Thread(target=lambda: answers.append(api.reserve(session, wait=3)))
        waiting.start()
        redis = stack.deployment.redis()
        until(lambda: sum(redis.xlen(name) for name in redis.keys("aforo:*:mailbox")) == 1, 10, "it is accepted")
        started = time.monotonic()
        assert stack.api.stop() == 0
        assert time.monotonic() - started < 30
        waiting.join(10)
    assert [answer.status_code for answer in answers] == [202]


def test_a_worker_that_is_told_to_stop_finishes_its_batch_and_loses_nothing(stacks: Callable[..., Stack]) -> None:
    stack = stacks()
    with Api(stack.url) as api:
        session = api.new_session(capacity=10**6)
        over = threading.Event()
        accepted: list[str] = []

        def come() -> None:
            with Api(stack.url) as visitor:
                while not over.is_set():
                    accepted.append(visitor.reserve(session, wait=None).json()["id"])

        threads = [threading.Thread(target=come) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            until(lambda: children_of(stack.worker.pid), 20, "the worker has forked, so it knows its signals")
            assert stack.worker.stop() == 0
            stack.worker.start()
        over.set()
        for thread in threads:
            thread.join(30)
        until(lambda: api.get(f"/api/sessions/{session}/").json()["last_seq"] == len(accepted), 40, "all are applied")
        outcomes = dict(stack.deployment.sql("SELECT id::text, outcome FROM jobs"))
        assert {outcomes[job] for job in accepted} == {"confirmed"}
        assert {api.job(job)["outcome"] for job in accepted[-100:]} == {"confirmed"}
    assert verify.run(stack.database_url, stack.redis_url).differences == []
