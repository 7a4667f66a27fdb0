"""Live streams of jobs and sessions, as clients of a running stack see them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from core.keys import new_token
from ops import keys
from tests.support.events import Events
from tests.support.http import Api, person
from tests.support.raw import Raw, get, post
from tests.support.serving import Connection, Serve, Serving, new_session, somebody
from tests.support.stack import Servers, Stack
from tests.support.waiting import until

FIRST = new_token()


@pytest.fixture
def listen(live_api: Stack) -> Iterator[Callable[..., Events]]:
    """Opens streams of the shared stack."""
    with ExitStack() as opened:
        yield lambda path, **headers: opened.enter_context(Events(live_api.url, path, **headers))


@pytest.fixture(scope="module")
def guarded(module_stacks: Callable[..., Stack]) -> Stack:
    """A stack of one process that asks for keys and lets each of them have three streams."""
    return module_stacks(first_key=FIRST, auth="keys", api_processes="1", max_waits_per_key="3")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_session_tells_its_counts_at_once_and_whenever_they_change(api: Api, listen: Callable[..., Events]) -> None:
    session = api.new_session(capacity=3, waitlist_capacity=1)
    events = listen(f"/api/sessions/{session}/events")
    assert events.status == 200
    assert events.headers["Content-Type"].startswith("text/event-stream")
    assert (events.headers["Cache-Control"], events.headers["X-Accel-Buffering"]) == ("no-store", "no")
    first = events.until(available_slots=3)
    shown = {"id": session, "capacity": 3, "reserved": 0, "available_slots": 3, "waiting": 0, "waitlist_capacity": 1}
    assert first == {**shown, "state": "open", "as_of_seq": 0, "version": first["version"]}
    api.reserve(session)
    events.until(available_slots=2, reserved=1, as_of_seq=1)
    for _ in range(3):
        api.reserve(session)
    events.until(available_slots=0, waiting=1)
    api.turn(session, "close")
    events.until(state="closed")
    api.turn(session, "cancel-session")
    events.until(state="cancelled", available_slots=0)
    versions = [event.data["version"] for event in events.events]
    assert versions == sorted(set(versions))
    assert {event.name for event in events.events} == {"session"}


def test_who_comes_again_is_not_told_what_it_knows(api: Api, listen: Callable[..., Events]) -> None:
    session = api.new_session()
    first = listen(f"/api/sessions/{session}/events")
    first.until(reserved=0)
    again = listen(f"/api/sessions/{session}/events", **{"Last-Event-ID": first.events[0].id})
    api.reserve(session)
    again.until(reserved=1)
    assert len(again.events) == 1


def test_a_job_is_followed_to_its_outcome_and_its_stream_ends(api: Api, listen: Callable[..., Events]) -> None:
    job = api.reserve(api.new_session(), wait=None).json()["id"]
    events = listen(f"/api/jobs/{job}/events")
    last = events.until(outcome="confirmed")
    assert last == api.job(job)
    until(lambda: events.is_over)
    assert {event.name for event in events.events} == {"job"}
    done = listen(f"/api/jobs/{job}/events", **{"Last-Event-ID": events.events[-1].id})
    assert done.status == 204


def test_who_waits_is_told_of_moving_up_and_of_being_let_in(api: Api, listen: Callable[..., Events]) -> None:
    session = api.new_session(capacity=1, waitlist_capacity=5)
    people = [person() for _ in range(3)]
    jobs = [api.reserve(session, who).json() for who in people[:2]]
    third = api.reserve(session, people[2]).json()["id"]
    events = listen(f"/api/jobs/{third}/events", **{"Accept-Language": "es"})
    assert until(lambda: events.last and events.last["reservation"], 20)["position"] == 2
    assert jobs[1]["outcome"] == "waitlisted"
    api.cancel(session, people[0]["email"])
    until(lambda: events.last["reservation"]["position"] == 1, 20)
    api.cancel(session, people[1]["email"])
    until(lambda: events.last["reservation"]["status"] == "confirmed", 20)
    assert events.last["outcome"] == "waitlisted"  # which never changes
    assert events.last["detail"].startswith("Ahora no hay sitio")
    until(lambda: events.is_over)


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/api/sessions/999999999/events", "text/event-stream", 404),
        ("/api/sessions/x/events", "text/event-stream", 404),
        ("/api/jobs/00000000-0000-8000-8000-000000000000/events", "text/event-stream", 404),
        ("/api/sessions/{}/events", "application/json", 406),
        ("/api/sessions/{}/events", "text/event-stream;q=0", 406),
        ("/api/sessions/{}/events/", "*/*", 200),
        ("/api/sessions/{}/events", "text/*", 200),
    ],
)
def test_what_cannot_be_followed_is_said_at_once(
    api: Api, listen: Callable[..., Events], path: str, accept: str, status: int
) -> None:
    events = listen(path.format(api.new_session()), Accept=accept)
    assert events.status == status
    assert api.request("HEAD", path.format(1)).status_code == 405


def test_a_hot_session_tells_little_and_the_latest_in_the_end(api: Api, listen: Callable[..., Events], live_api: Stack) -> None:
    session = api.new_session(capacity=2000)
    events = listen(f"/api/sessions/{session}/events")
    events.until(reserved=0)
    started = time.monotonic()

    def visit() -> None:
        with Api(live_api.url) as visitor:
            for _ in range(100):
                visitor.reserve(session, wait=None)

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    events.until(30, reserved=400)
    assert len(events.events) <= 10 * (time.monotonic() - started) + 2


def test_hundreds_look_at_the_same_and_all_of_them_are_told(stacks: Callable[..., Stack]) -> None:
    stack = stacks(api_processes="1")
    with Api(stack.url) as api, ExitStack() as opened:
        session = api.new_session(capacity=50)
        streams = []
        for _ in range(300):
            raw = opened.enter_context(Raw(stack.url))
            raw.send(get(f"/api/sessions/{session}/events", "Accept: text/event-stream"))
            streams.append(raw)
        for _ in range(20):
            assert api.reserve(session).status_code == 201
        for raw in streams:
            raw.until(b'"reserved":20,')


def test_streams_are_for_those_who_may_see_what_they_show(guarded: Stack) -> None:
    operator = guarded.deployment.settings(owner_url=guarded.deployment.owner_url)
    shop, _ = keys.create(operator, "shop", ["reserve"], None)
    other, _ = keys.create(operator, "other", ["reserve"], None)
    reader, _ = keys.create(operator, "reader", ["read"], None)
    with Api(guarded.url) as api:
        api.headers["Authorization"] = f"Bearer {FIRST}"
        session = api.new_session()
        api.headers["Authorization"] = f"Bearer {shop}"
        held = api.reserve(session).json()
    paths = (f"/api/sessions/{session}/events", f"/api/jobs/{held['id']}/events")
    wanted = {shop: (403, 200), other: (403, 404), reader: (200, 403), FIRST: (200, 404), new_token(): (401, 401)}
    for token, statuses in wanted.items():
        for path, status in zip(paths, statuses, strict=True):
            with Events(guarded.url, path, **bearer(token)) as events:
                assert events.status == status, (token, path)


def test_a_stream_ends_when_its_key_is_revoked(guarded: Stack) -> None:
    operator = guarded.deployment.settings(owner_url=guarded.deployment.owner_url)
    token, _ = keys.create(operator, "leaving", ["read", "manage"], None)
    with Api(guarded.url) as api:
        api.headers["Authorization"] = f"Bearer {token}"
        session = api.new_session()
    with (
        Events(guarded.url, f"/api/sessions/{session}/events", **bearer(token)) as leaving,
        Events(guarded.url, f"/api/sessions/{session}/events", **bearer(FIRST)) as staying,
    ):
        leaving.until(reserved=0)
        keys.revoke(operator, token.split("_")[1])
        until(lambda: leaving.is_over, 10)
        assert not staying.is_over


def test_a_caller_may_have_so_many_and_each_that_ends_makes_room(guarded: Stack) -> None:
    with Api(guarded.url) as api:
        api.headers["Authorization"] = f"Bearer {FIRST}"
        path = f"/api/sessions/{api.new_session()}/events"

    def opened() -> int:
        with Events(guarded.url, path, **bearer(FIRST)) as one:
            return one.status

    until(lambda: opened() == 200, 10)  # those of other tests are gone
    with ExitStack() as held:
        streams = [until(lambda: _open(held, guarded, path), 10) for _ in range(3)]
        with Events(guarded.url, path, **bearer(FIRST)) as refused:
            assert (refused.status, int(refused.headers["Retry-After"]) >= 1) == (429, True)
        streams[0].close()
        until(lambda: opened() == 200, 10)


def _open(held: ExitStack, stack: Stack, path: str) -> Events | None:
    events = Events(stack.url, path, **bearer(FIRST))
    if events.status == 200:
        return held.enter_context(events)
    events.close()
    return None


def test_streams_survive_a_restart_of_redis_and_end_with_the_server(
    own_servers: Servers, stacks: Callable[..., Stack]
) -> None:
    stack = stacks(own_servers, api_processes="1")
    with Api(stack.url) as api:
        session = api.new_session()
        with Events(stack.url, f"/api/sessions/{session}/events") as events:
            events.until(reserved=0)
            own_servers.valkey.stop()
            own_servers.valkey.start()
            until(lambda: api.reserve(session).status_code == 201, 30)
            events.until(reserved=1)
            streams = [Events(stack.url, f"/api/sessions/{session}/events") for _ in range(20)]
            for one in streams:
                one.until(reserved=1)
            started = time.monotonic()
            stack.api.stop()
            assert time.monotonic() - started < 25  # it does not wait for their end, as it would for requests
            until(lambda: events.is_over and all(one.is_over for one in streams))


# -- with a request behind it ------------------------------------------------------------------------------------------------


async def followed(line: Connection) -> None:
    """A stream, and on its connection a request that came after it."""
    session = await new_session(line)
    line.writer.write(get(f"/api/sessions/{session}/events") + get("/healthz"))
    await asyncio.wait_for(line.read_until(b"event: session"), 20)


async def until_there_are_none(serving: Serving) -> None:
    async with asyncio.timeout(20):
        while serving.services.waits._inside or serving.server.server_state.tasks:
            await asyncio.sleep(0.01)


def test_who_leaves_a_stream_with_a_request_behind_it_is_forgotten(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.streams.SILENCE_SECONDS", 0.1)  # what a stream says shows it that nobody is there

    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            await followed(line)
            assert serving.services.waits._inside
        await until_there_are_none(serving)

    serve(run)


def test_a_server_that_stops_ends_a_stream_with_a_request_behind_it(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            await followed(line)
            serving.server.should_exit = True
            await asyncio.wait_for(line.read_until(b'{"status":"ok"}'), 20)
            assert await line.is_closed()
        await until_there_are_none(serving)

    serve(run)


def test_a_server_that_stops_ends_a_stream_that_is_behind_another_request(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            session = await new_session(line)
            assert (await line.ask(post(f"/api/sessions/{session}/reserve/", somebody()))).status == 202  # its head is in Redis
            waiting = post(f"/api/sessions/{session}/reserve/", somebody(), "Prefer: wait=2")
            line.writer.write(waiting + get(f"/api/sessions/{session}/events"))
            async with asyncio.timeout(20):
                while not len(serving.services.followers):
                    await asyncio.sleep(0.01)
            serving.server.should_exit = True
            assert (await line.answer()).status == 202
            await asyncio.wait_for(line.read_until(b"\r\n0\r\n\r\n"), 20)  # it began, and has come to its end
            assert await line.is_closed()

    serve(run)
