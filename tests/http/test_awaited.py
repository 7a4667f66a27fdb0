"""Who waits for an outcome ahead of Falcon: told as through it, one place for each, forgotten as soon as nobody is there."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from core import telemetry
from core.bootstrap import worker_services
from core.errors import Unavailable
from core.keys import new_token
from ops import keys
from tests.support.raw import Answer, post
from tests.support.serving import Connection, Serve, Serving, drain, grown, new_session, somebody, told, waiting, warm
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until_in_loop

FALCONS_WAY = ", return=minimal"  # makes a preference one of several, which is for Falcon to read
LONG = "wait=20"

# What is asked, by whom, how it is waited for, with which key, and what it comes to. One place, and two in the waitlist.
STORY: list[tuple[str, str, str, str | None, int, str | None]] = [
    ("reserve", "ana", LONG, None, 201, "confirmed"),
    ("reserve", "ana", LONG, None, 409, "duplicate"),
    ("reserve", "bo", 'wait="20"', None, 201, "waitlisted"),
    ("reserve", "dee", "wait=99999", "reserve-dee", 201, "waitlisted"),
    ("reserve", "cy", "WAIT = 20; x=y", None, 409, "sold_out"),
    ("reserve", "cy", LONG, "reserve-dee", 422, None),
    ("cancel", "cy", LONG, None, 404, "not_found"),
    ("cancel", "bo", LONG, "cancel-bo-1", 200, "cancelled"),
    ("cancel", "bo", LONG, "cancel-bo-1", 200, "cancelled"),
    ("cancel", "bo", "wait=0", "cancel-bo-1", 202, "cancelled"),
    ("reserve", "dee", LONG, "reserve-dee", 201, "waitlisted"),
    ("cancel", "ana", LONG, "cancel-ana-1", 200, "cancelled"),
    ("reserve", "dee", LONG, "reserve-dee", 201, "waitlisted"),  # and confirmed since
    ("reserve", "eve", "wait=0", None, 202, None),
    ("reserve", "eve", "wait=1234567890", None, 202, None),
    ("reserve", "eve", "wait", None, 202, None),
    ("reserve", "eve", "", None, 202, None),
    ("cancel-session", "", LONG, None, 200, "cancelled"),
    ("reserve", "fay", LONG, None, 409, "session_cancelled"),
    ("reserve", "dee", LONG, "reserve-dee", 201, "waitlisted"),  # and cancelled with its session
]
SESSION = re.compile(rb'("session(?:_id)?":)(\d+)')
FALCONS_ALONE = ("wait=1234567890", "wait", "")


@contextmanager
def drained(deployment: Deployment) -> Iterator[None]:
    """Whatever is accepted is applied at once, and nothing any more afterwards."""
    worker, over = worker_services(deployment.settings()), threading.Event()

    def drain() -> None:
        while not over.wait(0.002):
            for partition in range(deployment.partitions):
                worker.drain(partition)

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        worker.close()


def body_of(kind: str, who: str) -> bytes:
    if kind == "cancel-session":
        return b"{}"
    person = {"email": f"{who}@example.org"}
    return json.dumps(person if kind == "cancel" else {"name": who, **person}).encode()


# -- the same answers ------------------------------------------------------------------------------------------------------


async def lived(serving: Serving, line: Connection, way: str, spoken: str) -> list[tuple[Any, ...]]:
    """All that comes of the story, but for what differs from one session to the next."""
    session = await new_session(line, capacity=1, waitlist_capacity=2)
    assert (await line.ask(post(f"/api/sessions/{session}/cancel/", body_of("cancel", "nobody")))).status == 202
    rows = []
    for kind, who, prefer, key, status, outcome in STORY:
        before, noted, taken = serving.counts(), len(serving.notes), serving.taken
        headers = [f"Accept-Language: {spoken}", f"Prefer: {prefer}{way}"]
        if key is not None:
            headers.append(f"Idempotency-Key: {key}")
        answer = await line.ask(post(f"/api/sessions/{session}/{kind}/", body_of(kind, who), *headers))
        shown = answer.json()
        assert (answer.status, shown.get("job", shown).get("outcome")) == (status, outcome), (kind, who, prefer, answer.body)
        if kind != "cancel-session":
            assert serving.taken - taken == (not way and prefer not in FALCONS_ALONE)
        alike = Answer(answer.status, answer.headers, SESSION.sub(lambda found: found[1] + b"9" * len(found[2]), answer.body))
        notes = [(method, status, path.replace(str(session), ""), *more) for method, status, path, *more in serving.notes[noted:]]
        rows.append((told(alike, False), grown(before, serving.counts()), notes))
    return rows


@pytest.mark.parametrize("origins", ["", "https://shop.example.org"])
@pytest.mark.parametrize("spoken", ["en", "es"])
def test_who_waits_is_answered_counted_and_noted_as_through_falcon(
    serve: Serve, deployment: Deployment, spoken: str, origins: str
) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            with drained(deployment):
                through_falcon = await lived(serving, line, FALCONS_WAY, spoken)
                ahead_of_it = await lived(serving, line, "", spoken)
            for step, one, other in zip(STORY, through_falcon, ahead_of_it, strict=True):
                assert one == other, step
        assert (len(serving.services.followers), waiting(serving)) == (0, 0)

    serve(run, rate_per_address="1000000/s", cors_origins=origins)


@pytest.mark.parametrize("way", ["", FALCONS_WAY])
def test_who_waits_in_vain_is_answered_as_if_it_had_not_asked(serve: Serve, way: str) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            started = asyncio.get_running_loop().time()
            answer = await line.ask(post(path, somebody(), f"Prefer: wait=1{way}"))
            assert asyncio.get_running_loop().time() - started > 0.9
            at_once = await line.ask(post(path, somebody()))
            assert told(answer, False) == told(at_once, False)
            assert (answer.status, answer.json()["seq"]) == (202, 2)
        assert (len(serving.services.followers), waiting(serving)) == (0, 0)

    serve(run)


def test_news_that_come_before_the_receipt_are_not_missed(
    serve: Serve, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.follow.LOOK_AGAIN_SECONDS", 3600.0)

    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            door = serving.services.door
            accept = door._grouped._call

            async def accept_and_see_it_decided(knocks: Any) -> Any:
                receipts = await accept(knocks)
                await asyncio.to_thread(drain, deployment)
                (waiter,) = next(iter(serving.services.followers._waiters.values()))
                await until_in_loop(lambda: waiter._has_news)
                return receipts

            door._grouped._call = accept_and_see_it_decided
            answer = await line.ask(post(path, somebody(), f"Prefer: {LONG}"))
            assert (answer.status, answer.json()["outcome"]) == (201, "confirmed")

    serve(run)


def test_what_one_message_makes_known_is_read_together(
    serve: Serve, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.follow.LOOK_AGAIN_SECONDS", 3600.0)
    reads: list[int] = []

    async def run(serving: Serving) -> None:
        async with serving.connection() as first:
            path = await warm(first)
            outcome = serving.services.projections.outcome
            read = outcome._call

            async def count(asks: Any) -> Any:
                reads.append(len(asks))
                return await read(asks)

            outcome._call = count
            lines = [serving.connection() for _ in range(20)]
            entered = [await line.__aenter__() for line in lines]
            for line in entered:
                line.writer.write(post(path, somebody(), f"Prefer: {LONG}"))
            waiters = serving.services.followers._waiters
            await until_in_loop(lambda: sum(waiter._tell is not None for (waiter,) in waiters.values()) == 20)
            await asyncio.to_thread(drain, deployment)
            assert [(await line.answer()).status for line in entered] == [201] * 20
            for line in lines:
                await line.__aexit__(None, None, None)
        assert reads == [20]

    serve(run)


def test_what_redis_forgot_is_told_from_the_ledger(serve: Serve, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            monkeypatch.setattr(serving.services.followers, "_wake", lambda _job_ids: None)  # the message was lost
            line.writer.write(post(path, somebody(), f"Prefer: {LONG}"))
            await until_in_loop(lambda: waiting(serving) == 1 and serving.services.door._grouped.is_idle)
            with deployment.redis() as redis:
                await asyncio.to_thread(drain, deployment)
                redis.delete(*redis.keys("aforo:*:job:*"))
            assert (await line.answer()).json()["outcome"] == "confirmed"

    serve(run)


# -- who may wait, and until when -----------------------------------------------------------------------------------------------


def test_so_many_wait_and_no_more_whichever_way_they_came(serve: Serve, deployment: Deployment) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line, serving.connection() as here, serving.connection() as at_falcon:
            path = await warm(line)
            not_honoured = telemetry.WAITS_NOT_HONOURED._value.get()
            here.writer.write(post(path, somebody(), f"Prefer: {LONG}"))
            await until_in_loop(lambda: waiting(serving) == 1)
            at_falcon.writer.write(post(path, somebody(), f"Prefer: {LONG}{FALCONS_WAY}"))
            await until_in_loop(lambda: waiting(serving) == 2)
            answers = [await line.ask(post(path, somebody(), f"Prefer: {LONG}{way}")) for way in ("", FALCONS_WAY)]
            assert [answer.status for answer in answers] == [202] * 2
            assert told(answers[0], False) == told(answers[1], False)
            assert telemetry.WAITS_NOT_HONOURED._value.get() == not_honoured + 2
            await asyncio.to_thread(drain, deployment)
            assert [(await waits.answer()).status for waits in (here, at_falcon)] == [201] * 2
            assert waiting(serving) == 0

    serve(run, max_waits_per_key="2")


def test_each_address_has_its_own_places(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line, serving.connection() as one, serving.connection() as other:
            path = await warm(line)
            for number, waits in enumerate((one, other)):
                address = f"X-Forwarded-For: 198.51.100.{number}"
                waits.writer.write(post(path, somebody(), address, f"Prefer: {LONG}"))
                await until_in_loop(lambda there=number + 1: waiting(serving) == there)  # type: ignore[misc]
                assert (await line.ask(post(path, somebody(), address, f"Prefer: {LONG}"))).status == 202

    serve(run, max_waits_per_key="1", trusted_proxies="127.0.0.1")


def test_a_wait_that_falcon_has_to_begin_anew_is_one_wait(serve: Serve, deployment: Deployment) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            with drained(deployment), deployment.redis() as redis:
                await until_in_loop(lambda: sum(redis.xlen(name) for name in redis.keys("aforo:*:mailbox")) == 0)
                assert redis.delete(*redis.keys("aforo:*:s:*")) == 1  # so that its session has to be looked for
                assert (await line.ask(post(path, somebody(), f"Prefer: {LONG}"))).status == 201
            assert serving.taken == 2
        assert (len(serving.services.followers), waiting(serving)) == (0, 0)

    serve(run, max_waits_per_key="1")


def test_whoever_leaves_is_forgotten_and_served_all_the_same(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            async with serving.connection() as hasty:
                hasty.writer.write(post(path, somebody(), "Prefer: wait=30"))
                await until_in_loop(lambda: waiting(serving) == 1 and serving.services.door._grouped.is_idle)
            await until_in_loop(lambda: (len(serving.services.followers), waiting(serving)) == (0, 0))
            assert serving.notes[-1][:2] == ("POST", 202)
            assert (await line.ask(post(path, somebody()))).json()["seq"] == 3

    started = time.monotonic()
    serve(run)
    assert time.monotonic() - started < 25  # well before it would have been told anyway


def test_who_leaves_at_the_door_does_not_begin_to_wait(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            door = serving.hold_the_door()
            connections = serving.server.server_state.connections
            async with serving.connection() as hasty:
                hasty.writer.write(post(path, somebody(), "Prefer: wait=30"))
                await door.arrived.wait()
            await until_in_loop(lambda: len(connections) == 1)
            door.open()
            await until_in_loop(lambda: serving.services.door._grouped.is_idle)
            await until_in_loop(lambda: (len(serving.services.followers), waiting(serving)) == (0, 0))
            assert (await line.ask(post(path, somebody()))).json()["seq"] == 3

    serve(run)


def test_requests_behind_one_that_waits_are_answered_after_it(serve: Serve, deployment: Deployment) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            line.writer.write(post(path, somebody(), f"Prefer: {LONG}") + post(path, somebody()) + post(path, somebody()))
            await until_in_loop(lambda: waiting(serving) == 1 and serving.services.door._grouped.is_idle)
            await asyncio.to_thread(drain, deployment)
            answers = [await line.answer() for _ in range(3)]
            assert [(answer.status, answer.json()["seq"]) for answer in answers] == [(201, 2), (202, 3), (202, 4)]

    serve(run)


@pytest.mark.parametrize("is_decided", [True, False])
def test_a_server_that_stops_answers_who_waits(serve: Serve, deployment: Deployment, is_decided: bool) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            line.writer.write(post(path, somebody(), f"Prefer: wait={20 if is_decided else 1}"))
            await until_in_loop(lambda: waiting(serving) == 1 and serving.services.door._grouped.is_idle)
            serving.server.should_exit = True
            await until_in_loop(lambda: not (serving.server.servers and serving.server.servers[0].is_serving()))
            if is_decided:
                await asyncio.to_thread(drain, deployment)
            answer = await line.answer()
            assert (answer.status, answer.headers["connection"]) == (201 if is_decided else 202, "close")
            assert await line.is_closed()
        await asyncio.wait_for(asyncio.shield(serving._running), 20)

    serve(run)


def test_what_was_decided_is_told_though_the_door_is_full_by_then(
    serve: Serve, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line, capacity=1, waitlist_capacity=1)
            line.writer.write(post(path, somebody(), f"Prefer: {LONG}"))
            await until_in_loop(lambda: waiting(serving) == 1 and serving.services.door._grouped.is_idle)
            monkeypatch.setattr(type(serving.services.door), "is_full", True)
            await asyncio.to_thread(drain, deployment)
            answer = await line.answer()
            assert (answer.status, answer.json()["reservation"]["position"]) == (201, 1)

    serve(run)


@pytest.mark.parametrize("met", [None, Unavailable])
def test_who_was_let_in_is_answered_though_the_key_was_revoked_meanwhile(
    serve: Serve, servers: Servers, monkeypatch: pytest.MonkeyPatch, met: type[Exception] | None
) -> None:
    first = new_token()
    guarded = servers.deployment(first_key=first)

    async def run(serving: Serving) -> None:
        door, keyring = serving.services.door, serving.services.keyring
        token = f"Authorization: Bearer {first}"
        async with serving.connection() as line:
            path = f"/api/sessions/{await new_session(line, token, capacity=1, waitlist_capacity=1)}/reserve/"
            assert (await line.ask(post(path, somebody(), token))).status == 202
            await asyncio.to_thread(drain, guarded)
            accept = door._grouped._call

            async def accept_and_revoke(knocks: Any) -> Any:
                found = await accept(knocks)
                await asyncio.to_thread(keys.revoke, guarded.settings(owner_url=guarded.owner_url), first.split("_")[1])
                keyring._met.clear()
                if met is not None:
                    raise met
                return found

            door._grouped._call = accept_and_revoke
            line.writer.write(post(path, somebody(), token, f"Prefer: {LONG}"))
            if met is None:
                await until_in_loop(lambda: serving.taken == 2 and door._grouped.is_idle)
                await asyncio.to_thread(drain, guarded)
            answer = await line.answer()
            if met is None:
                assert answer.status == 201, answer.body
                assert answer.json()["reservation"]["position"] == 1
            else:
                assert (answer.status, answer.json()["code"]) == (503, "unavailable")
            assert (await line.ask(post(path, somebody(), token))).status == 401

    try:
        serve(run, guarded, auth="keys")
    finally:
        servers.drop(guarded)


def test_a_bug_in_the_answer_is_told_as_one(serve: Serve, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            monkeypatch.setattr("api.intake.decided_answer", lambda *_: 1 / 0)
            with drained(deployment):
                answer = await line.ask(post(path, somebody(), f"Prefer: {LONG}"))
            assert (answer.status, answer.json()["code"]) == (500, "internal_error")
        assert (len(serving.services.followers), waiting(serving)) == (0, 0)

    serve(run)
