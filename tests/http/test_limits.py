"""Rate limits and bounds on waiting, over HTTP: who is counted, what a refusal says, and what is never refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from core.keys import new_token
from ops import keys
from tests.support.http import Api, person
from tests.support.raw import Raw, get
from tests.support.stack import Stack
from tests.support.waiting import until

FIRST = new_token()
PER_ADDRESS, PER_KEY, WAITS = 12, 6, 2
_addresses = itertools.count(1)


@pytest.fixture(scope="module")
def guarded(module_stacks: Callable[..., Stack]) -> Stack:
    """A stack with keys and low limits, behind a proxy on this machine: tests choose their addresses."""
    limits = {"rate_per_address": f"{PER_ADDRESS}/h", "rate_per_key": f"{PER_KEY}/h", "trusted_proxies": "127.0.0.1"}
    return module_stacks(first_key=FIRST, auth="keys", **limits)


@pytest.fixture(scope="module")
def idle(module_stacks: Callable[..., Stack]) -> Stack:
    """An open stack that nobody drains, one process, with a proxy elsewhere, where few may wait."""
    limits = {"rate_per_address": "1000/h", "trusted_proxies": "192.0.2.1", "max_waits_per_key": str(WAITS)}
    stack = module_stacks(api_processes="1", **limits)
    stack.sweeper.stop()
    stack.worker.stop()
    return stack


def visitor(stack: Stack, token: str | None = None, address: str | None = None) -> Api:
    """Somebody with a key, at an address nobody else has."""
    api = Api(stack.url)
    number = next(_addresses)
    api.headers["X-Forwarded-For"] = address or f"198.51.{number // 250}.{number % 250 + 1}"
    if token is not None:
        api.headers["Authorization"] = f"Bearer {token}"
    return api


def fresh_key(stack: Stack, *scopes: str) -> str:
    operator = stack.deployment.settings(owner_url=stack.deployment.owner_url)
    return keys.create(operator, "shop", list(scopes or ("reserve", "manage", "read")), None)[0]


def new_session(stack: Stack) -> int:
    return visitor(stack, fresh_key(stack)).new_session(capacity=50)


def spend(api: Api) -> int:
    """Ask until it is too much. How often it was not."""
    for count in range(100):
        if api.get("/api/jobs/00000000-0000-8000-8000-000000000000").status_code == 429:
            return count
    raise AssertionError("it never was too much")


def left(answer: httpx.Response) -> dict[str, int]:
    """What remains of each limit, by its name."""
    parts = [part.split(";") for part in answer.headers["RateLimit"].split(", ")]
    return {name.strip('"'): int(remaining.removeprefix("r=")) for name, remaining, _ in parts}


def test_what_is_left_is_told_until_nothing_is(guarded: Stack) -> None:
    api = visitor(guarded, fresh_key(guarded))
    first = api.get("/api/sessions/")
    assert first.status_code == 200
    assert first.headers["RateLimit-Policy"] in ('"key";q=6;w=3600', '"address";q=12;w=3600, "key";q=6;w=3600')
    assert left(api.get("/api/sessions/")) == {"address": PER_ADDRESS - 2, "key": PER_KEY - 2}
    assert spend(api) == PER_KEY - 2
    answer = api.get("/api/sessions/", headers={"Accept-Language": "es"})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (429, "rate_limited")
    assert problem["detail"].startswith("Demasiadas peticiones")
    assert 0 < int(answer.headers["Retry-After"]) <= 3600 / PER_KEY
    assert left(answer)["key"] == 0


def test_who_is_refused_by_its_key_has_used_nothing_of_its_address(guarded: Stack) -> None:
    token = fresh_key(guarded)
    spend(visitor(guarded, token))
    api = visitor(guarded, token)
    refused = [api.get("/api/sessions/") for _ in range(PER_ADDRESS + 3)]
    assert {answer.status_code for answer in refused} == {429}
    assert left(refused[-1]) == {"address": PER_ADDRESS, "key": 0}


def test_so_it_is_when_the_key_had_to_be_looked_up(guarded: Stack) -> None:
    token = fresh_key(guarded)
    redis = guarded.deployment.redis()
    seconds, _ = redis.time()
    redis.set(f"aforo:{{limits}}:k:{token.split('_')[1]}", (seconds + 3600) * 1_000_000)
    api = visitor(guarded, token)
    assert [api.get("/api/sessions/").status_code for _ in range(3)] == [429] * 3
    api.headers["Authorization"] = f"Bearer {fresh_key(guarded)}"
    api.get("/api/sessions/")
    assert left(api.get("/api/sessions/"))["address"] >= PER_ADDRESS - 2


def test_an_address_is_limited_whatever_keys_come_from_it(guarded: Stack) -> None:
    apis = [visitor(guarded, fresh_key(guarded), "203.0.113.5") for _ in range(4)]
    statuses = [api.get("/api/sessions/").status_code for _ in range(4) for api in apis]
    assert statuses == [200] * PER_ADDRESS + [429] * 4
    assert visitor(guarded, fresh_key(guarded)).get("/api/sessions/").status_code == 200


def test_guessing_keys_is_limited(guarded: Stack) -> None:
    token = fresh_key(guarded)
    assert visitor(guarded, token).get("/api/sessions/").status_code == 200
    for guess in (lambda: new_token(), lambda: token[:-64] + new_token()[-64:], lambda: "nonsense"):
        api = visitor(guarded)
        answers = [api.get("/api/sessions/", headers={"Authorization": f"Bearer {guess()}"}) for _ in range(PER_ADDRESS + 2)]
        assert [answer.status_code for answer in answers] == [401] * PER_ADDRESS + [429] * 2
        retried = api.post(
            "/api/sessions/1/reserve/",
            json=person(),
            headers={"Authorization": f"Bearer {guess()}", "Idempotency-Key": "guess-with-a-key"},
        )
        assert retried.status_code == 429


def test_manage_tokens_are_limited_by_address(guarded: Stack) -> None:
    api = visitor(guarded)
    statuses = [
        api.get("/api/reservations/12345", headers={"Authorization": f"Bearer {'x' * 22}"}).status_code
        for _ in range(PER_ADDRESS + 1)
    ]
    assert statuses == [404] * PER_ADDRESS + [429]


def test_what_operators_and_browsers_look_at_is_not_limited(guarded: Stack) -> None:
    api = visitor(guarded)
    for path in ("/healthz", "/readyz", "/api/docs/", "/api/schema/"):
        answers = [api.get(path) for _ in range(PER_ADDRESS + 2)]
        assert {answer.status_code for answer in answers} == {200}, path
        assert "RateLimit" not in answers[0].headers


def replays(api: Api, session: int) -> dict[str, Callable[[], httpx.Response]]:
    """Requests under keys of their own, of every kind that can be repeated."""
    ana = person()
    key = {"Idempotency-Key": f"known-{ana['name']}"}
    path = f"/api/sessions/{session}/"
    commands = [{"session": session, "kind": "reserve", **person()} for _ in range(2)]
    return {
        "reserve": lambda: api.post(f"{path}reserve/", json=ana, headers=key),
        "cancel": lambda: api.post(f"{path}cancel/", json={"email": ana["email"]}, headers=key),
        "configure": lambda: api.patch(path, json={"capacity": 60}, headers=key),
        "batch": lambda: api.post("/api/batches/", json={"commands": commands}, headers=key),
    }


@pytest.mark.parametrize("kind", ["reserve", "cancel", "configure", "batch"])
@pytest.mark.parametrize("forgotten", [False, True], ids=["in Redis", "in the ledger"])
def test_a_replay_of_a_known_job_is_never_limited_away(guarded: Stack, kind: str, forgotten: bool) -> None:
    session = new_session(guarded)
    api = visitor(guarded, fresh_key(guarded))
    send = replays(api, session)[kind]
    first = send()
    assert first.status_code == 202
    jobs = first.json().get("jobs", [first.json()])
    spend(api)
    if forgotten:
        redis = guarded.deployment.redis()
        for job in jobs:
            name = f"aforo:{{{int(job['id'][:8], 16) % 16}}}:job:{job['id']}"
            until(lambda name=name: (redis.get(name) or b"")[:1] == b"d")  # type: ignore[misc]
            assert redis.delete(name) == 1
    again = send()
    assert again.status_code == 202, again.text
    assert [job["id"] for job in again.json().get("jobs", [again.json()])] == [job["id"] for job in jobs]
    other = replays(api, session)[kind]()
    assert (other.status_code, other.json()["code"]) == (429, "rate_limited")


def test_a_known_key_with_another_body_is_refused_as_ever(guarded: Stack) -> None:
    session = new_session(guarded)
    api = visitor(guarded, fresh_key(guarded))
    assert api.reserve(session, wait=None, Idempotency_Key="known-key").status_code == 202
    spend(api)
    answer = api.reserve(session, wait=None, Idempotency_Key="known-key")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert api.reserve(session, wait=None, Idempotency_Key="bad key").status_code == 429
    assert api.post("/api/sessions/", json={}, headers={"Idempotency-Key": "known-key"}).status_code == 429


def test_a_holder_can_repeat_giving_a_reservation_back(guarded: Stack) -> None:
    session = new_session(guarded)
    job = visitor(guarded, fresh_key(guarded)).reserve(session).json()
    api = visitor(guarded, job["reservation"]["manage_token"])

    def give_back(key: str) -> httpx.Response:
        return api.delete(f"/api/reservations/{job['reservation']['id']}", headers={"Idempotency-Key": key})

    first = give_back("give-it-back")
    spend(api)
    again = give_back("give-it-back")
    assert (first.status_code, again.status_code, again.json()["id"]) == (202, 202, first.json()["id"])
    assert give_back("give-it-back-2").status_code == 429


def test_a_batch_costs_as_many_as_it_has_commands(guarded: Stack) -> None:
    session = new_session(guarded)
    api = visitor(guarded, fresh_key(guarded))

    def send(count: int, key: str) -> httpx.Response:
        commands: list[dict[str, Any]] = [{"session": session, "kind": "reserve", **person()} for _ in range(count)]
        return api.post("/api/batches/", json={"commands": commands}, headers={"Idempotency-Key": key})

    assert left(send(4, "a-batch-of-four")) == {"address": PER_ADDRESS - 4, "key": PER_KEY - 4}
    refused = send(3, "a-batch-of-three")
    assert (refused.status_code, left(refused)["key"]) == (429, 1)
    fits = send(2, "a-batch-of-two")  # the refused one cost nothing
    assert (fits.status_code, left(fits)) == (202, {"address": PER_ADDRESS - 6, "key": 0})


def test_only_a_trusted_proxy_is_believed(guarded: Stack, idle: Stack) -> None:
    api = visitor(guarded, address="203.0.113.77, 203.0.113.78")  # the last is what the proxy saw
    api.headers["Authorization"] = f"Bearer {new_token()}"
    api.get("/api/sessions/")
    redis = guarded.deployment.redis()
    assert redis.exists("aforo:{limits}:a:203.0.113.78")
    assert not redis.exists("aforo:{limits}:a:203.0.113.77")
    for _ in range(3):
        visitor(idle).get("/api/sessions/", headers={"Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"})
    assert idle.deployment.redis().keys("aforo:{limits}:*") == [b"aforo:{limits}:a:127.0.0.1"]


def test_who_has_too_many_waiting_is_answered_at_once(idle: Stack) -> None:
    with Api(idle.url) as api, ExitStack() as holding:
        session = api.new_session(capacity=50)
        queued = api.reserve(session, wait=None).json()
        waiting = []

        def is_crowded() -> bool:
            waiting.append(holding.enter_context(Raw(idle.url)))
            waiting[-1].send(get(f"/api/jobs/{queued['id']}", "Prefer: wait=30"))
            return api.reserve(session, wait=1).elapsed.total_seconds() < 0.9

        until(is_crowded, 20, "others wait")
        answer = api.reserve(session, wait=30)
        assert (answer.status_code, "Preference-Applied" in answer.headers) == (202, False)
        followed = api.get(f"/api/jobs/{queued['id']}", headers={"Prefer": "wait=30"})
        assert (followed.json()["status"], "Preference-Applied" in followed.headers) == ("queued", False)
        early = api.get(f"/api/sessions/{session}/", params={"min_seq": 1})
        assert early.json()["code"] == "not_yet_applied"
        assert [one.elapsed.total_seconds() < 15 for one in (answer, followed, early)] == [True] * 3
        idle.worker.start()
        idle.sweeper.start()
        assert [one.answer().headers.get("preference-applied") for one in waiting].count("wait=30") == WAITS
        assert api.reserve(session).headers["Preference-Applied"] == "wait=20"
