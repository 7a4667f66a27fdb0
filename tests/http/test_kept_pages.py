"""Answers that are kept and sent again: never once anything of them has changed, whichever process is asked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from api import shelf as shelf_module
from api.shelf import OVERHEAD_BYTES, Page, Shelf
from core.bootstrap import repartition_services, worker_services
from core.freshness import Reading
from core.keys import new_token
from core.model import partition_of_session
from ops import keys
from tests.support.erasing import forget, owner
from tests.support.http import Api, person
from tests.support.inside import Process, with_two
from tests.support.stack import Deployment, Servers, Stack

ALL = "/api/sessions/?available=all&page_size=100"
WRITERS, SESSIONS, ROUNDS = 16, 3, 12
BOUND_SECONDS = 20.0
Run = Callable[[Process, Process], Awaitable[None]]


@pytest.fixture
def processes(deployment: Deployment) -> Callable[..., None]:
    """Runs something with two processes of one deployment."""
    return partial(with_two, deployment)


@contextmanager
def applying(deployment: Deployment, *sessions: int, partitions: int = 16) -> Iterator[None]:
    """Somebody applies what is accepted for these sessions."""
    worker, over = worker_services(deployment.settings()), False
    lanes = {partition_of_session(session, partitions) for session in sessions}

    def work() -> None:
        while not over:
            if not sum([worker.drain(lane) for lane in lanes]):
                time.sleep(0.001)

    working = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        yield
    finally:
        over = True

        def close(_: Any) -> None:
            worker.close()

        working.add_done_callback(close)


async def reserved(process: Process, session: int, who: dict[str, str]) -> int:
    """Reserve and wait for the outcome. Its seq."""
    status, _, job = await process.ask("POST", f"/api/sessions/{session}/reserve/", who, prefer="wait=20")
    assert status == 201, job
    return job["seq"]


async def kept(process: Process, path: str) -> Any:
    """What a process shows of it without asking Postgres: asked until it does not."""
    until = time.monotonic() + BOUND_SECONDS
    while True:
        before = len(process.statements)
        found = await process.get(path)
        if len(process.statements) == before:
            return found
        assert time.monotonic() < until, f"{path} is always read anew"


def test_who_was_told_of_an_outcome_reads_its_effect_in_every_process(
    processes: Callable[..., None], deployment: Deployment
) -> None:
    async def run(one: Process, other: Process) -> None:
        sessions = [await one.new_session(capacity=10_000) for _ in range(SESSIONS)]
        reads = itertools.count()
        newest: dict[int, int] = dict.fromkeys(sessions, 0)
        over = False

        async def look(process: Process, session: int, least: int) -> None:
            next(reads)
            shown = await process.get(f"/api/sessions/{session}/")
            assert shown["last_seq"] >= least
            newest[session] = max(newest[session], shown["last_seq"])

        async def look_at_the_list(process: Process, session: int, least: int) -> None:
            next(reads)
            listed = await process.get(ALL)
            (shown,) = [found for found in listed["results"] if found["id"] == session]
            assert shown["as_of_seq"] >= least
            newest[session] = max(newest[session], shown["as_of_seq"])

        async def write(writer: int) -> None:
            for number in range(ROUNDS):
                session = sessions[(writer + number) % SESSIONS]
                seq = await reserved((one, other)[writer % 2], session, person())
                await asyncio.gather(
                    *(what(process, session, seq) for process in (one, other) for what in (look, look_at_the_list))
                )

        async def read(session: int) -> None:
            """No reader who looks after another sees less, in whichever process."""
            for process in itertools.cycle((one, other)):
                if over:
                    return
                await look(process, session, newest[session])
                await look_at_the_list(process, session, newest[session])

        with applying(deployment, *sessions):
            readers = [asyncio.create_task(read(session)) for session in sessions * 3]
            await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
            over = True
            await asyncio.gather(*readers)
        assert next(reads) > 2 * 2 * WRITERS * ROUNDS
        for process in (one, other):
            assert (await process.get(f"/api/sessions/{sessions[0]}/"))["last_seq"] == WRITERS * ROUNDS // SESSIONS

    processes(run)


def test_what_has_not_changed_is_shown_without_postgres(processes: Callable[..., None]) -> None:
    async def run(one: Process, other: Process) -> None:
        first, second = await one.new_session(), await one.new_session()
        assert partition_of_session(first, 16) != partition_of_session(second, 16)
        for path in (f"/api/sessions/{first}/", ALL):
            for process in (one, other):
                assert await kept(process, path) == await process.get(path)
        await one.services.projections.announce_change(first)  # of its partition: its own version is still the same
        one.statements.clear()
        assert (await one.get(f"/api/sessions/{first}/"))["id"] == first
        assert (await one.get(f"/api/sessions/{first}/"))["id"] == first
        assert one.statements == []
        await one.get(ALL)
        assert one.statements != []

    processes(run)


def test_descriptions_and_new_sessions_are_seen_at_once(processes: Callable[..., None]) -> None:
    async def run(one: Process, other: Process) -> None:
        session = await one.new_session()
        for number in range(20):
            for process in (one, other):
                await kept(process, f"/api/sessions/{session}/")
                await kept(process, ALL)
            title = f"Letterpress {number}"
            assert (await one.ask("PATCH", f"/api/sessions/{session}/", {"title": title}))[0] == 200
            assert (await other.get(f"/api/sessions/{session}/"))["title"] == title
            assert title in [found["title"] for found in (await other.get(ALL))["results"]]
            new = await one.new_session()
            assert new in [found["id"] for found in (await other.get(ALL))["results"]]

    processes(run)


def test_a_title_that_one_process_has_shown_is_shown_by_all(processes: Callable[..., None], deployment: Deployment) -> None:
    async def run(one: Process, other: Process) -> None:
        session = await one.new_session()
        path = f"/api/sessions/{session}/"
        await kept(one, path)
        await kept(other, path)
        # Committed, and nobody was told yet.
        deployment.sql("UPDATE sessions SET title = 'New', version = version + 1 WHERE id = %s", session)
        one.services.freshness._epoch += 1  # this process reads anew, for whatever reason
        assert (await one.get(path))["title"] == "New"
        assert (await other.get(path))["title"] == "New"

    processes(run)


def test_a_head_that_is_gone_proves_nothing(processes: Callable[..., None], deployment: Deployment) -> None:
    async def run(one: Process, _: Process) -> None:
        session = await one.new_session()
        path, redis = f"/api/sessions/{session}/", deployment.redis()
        await kept(one, path)
        deployment.sql("UPDATE sessions SET title = 'New', version = version + 1 WHERE id = %s", session)
        redis.delete(f"aforo:{{{partition_of_session(session, 16)}}}:s:{session}")
        await one.services.projections.announce_change(session)
        assert (await one.get(path))["title"] == "New"
        assert redis.exists(f"aforo:{{{partition_of_session(session, 16)}}}:s:{session}")

    processes(run)


def lose_everything(deployment: Deployment, _: Process) -> None:
    """Redis is emptied; nobody's connection breaks."""
    deployment.redis().flushdb()


def lose_connections(deployment: Deployment, process: Process) -> None:
    """As when another server takes over, which lacks the last writes: the words are those of before."""
    deployment.cut_connections("normal")


def begin_an_era(deployment: Deployment, _: Process) -> None:
    """As after Postgres was away."""
    with owner(deployment) as services:
        services.recheck()


@pytest.mark.parametrize("loss", [lose_everything, lose_connections, begin_an_era], ids=lambda loss: loss.__name__)
def test_what_was_kept_before_a_loss_is_read_anew(
    processes: Callable[..., None], deployment: Deployment, loss: Callable[[Deployment, Process], None]
) -> None:
    async def run(one: Process, _: Process) -> None:
        session = await one.new_session()
        for path in (f"/api/sessions/{session}/", ALL):
            await kept(one, path)
        deployment.sql("UPDATE sessions SET title = 'New' WHERE id = %s", session)  # the version does not tell of it
        assert (await one.get(f"/api/sessions/{session}/"))["title"] != "New"
        await asyncio.to_thread(loss, deployment, one)
        assert (await one.get(f"/api/sessions/{session}/"))["title"] == "New"
        assert "New" in [found["title"] for found in (await one.get(ALL))["results"]]
        for path in (f"/api/sessions/{session}/", ALL):
            await kept(one, path)

    processes(run)


@pytest.mark.parametrize("field", ["end_time", "closes_at"])
def test_a_list_changes_when_time_does(processes: Callable[..., None], field: str) -> None:
    async def run(one: Process, _: Process) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=3)  # before it all is made and kept, also on a busy machine
        fields = {"start_time": (soon - timedelta(hours=1)).isoformat()} if field == "end_time" else {}
        session, later = await one.new_session(**fields, **{field: soon.isoformat()}), await one.new_session()
        shown = [found["id"] for found in (await kept(one, "/api/sessions/"))["results"]]
        assert shown == [session, later]
        while session in [found["id"] for found in (await one.get("/api/sessions/"))["results"]]:
            assert datetime.now(UTC) < soon + timedelta(seconds=BOUND_SECONDS)
        assert datetime.now(UTC) >= soon
        assert [found["id"] for found in (await kept(one, "/api/sessions/"))["results"]] == [later]

    processes(run)


def test_who_is_forgotten_is_in_no_kept_answer(processes: Callable[..., None], deployment: Deployment) -> None:
    async def run(one: Process, other: Process) -> None:
        session, ana = await one.new_session(), person("ana")
        with applying(deployment, session):
            await reserved(one, session, ana)
            path = f"/api/sessions/{session}/"
            for process in (one, other):
                assert "Ana" in str(await kept(process, path))
            await asyncio.to_thread(forget, deployment, "ana", True)
            for process in (one, other):
                assert "Ana" not in str(await process.get(path))
                held = [page.body for page in process.app.ahead._pages.shelf._pages.values()]
                assert held
                assert not any(b"Ana" in body for body in held)

    processes(run)


def test_readers_of_a_session_that_always_changes_share_what_they_read(
    processes: Callable[..., None], deployment: Deployment
) -> None:
    async def run(one: Process, _: Process) -> None:
        session, readers, each = await one.new_session(capacity=10_000), 50, 6
        over, changes = False, 0

        async def change() -> None:
            nonlocal changes
            while not over:
                await reserved(one, session, person())
                changes += 1

        async def read() -> None:
            for _ in range(each):
                await one.get(f"/api/sessions/{session}/")

        with applying(deployment, session):
            await kept(one, f"/api/sessions/{session}/")
            one.statements.clear()
            changing = asyncio.create_task(change())
            await asyncio.gather(*(read() for _ in range(readers)))
            over = True
            await changing
        asked = [statement for statement in one.statements if "LATERAL" in statement]
        assert len(asked) <= min(changes + each, readers * each // 4), (len(asked), changes)

    processes(run)


def test_nothing_is_kept_while_partitions_are_rearranged(processes: Callable[..., None], deployment: Deployment) -> None:
    async def run(one: Process, _: Process) -> None:
        session = await one.new_session()
        for path in (f"/api/sessions/{session}/", ALL):
            await kept(one, path)
            for lanes in ("shut", "64/2"):
                deployment.redis().set("aforo:{0}:lanes", lanes)
                for _ in range(3):
                    one.statements.clear()
                    await one.get(path)
                    assert one.statements
            deployment.redis().delete("aforo:{0}:lanes")
            await kept(one, path)

    processes(run)


@pytest.mark.parametrize("partitions", [64, 3])
def test_under_other_partitions_every_process_shows_what_changes(
    processes: Callable[..., None], deployment: Deployment, partitions: int
) -> None:
    async def run(one: Process, other: Process) -> None:
        session = await one.new_session()
        paths = (f"/api/sessions/{session}/", ALL)
        for process, path in itertools.product((one, other), paths):
            await kept(process, path)
        services = repartition_services(deployment.settings(owner_url=deployment.owner_url))
        await asyncio.to_thread(services.repartition, partitions)
        services.close()
        new = await one.new_session()
        assert new in [found["id"] for found in (await other.get(ALL))["results"]]
        with applying(deployment, session, partitions=partitions):
            for number in range(1, 4):
                assert await reserved(one, session, person()) == number
                assert (await other.get(paths[0]))["last_seq"] == number
                (shown,) = [found for found in (await other.get(ALL))["results"] if found["id"] == session]
                assert shown["as_of_seq"] == number
        for process, path in itertools.product((one, other), paths):
            await kept(process, path)

    processes(run)


def test_without_room_nothing_is_kept_and_all_is_shown(processes: Callable[..., None]) -> None:
    async def run(one: Process, _: Process) -> None:
        session = await one.new_session()
        for _ in range(3):
            one.statements.clear()
            assert (await one.get(f"/api/sessions/{session}/"))["id"] == session
            assert one.statements
        assert len(one.app.ahead._pages.shelf) == 0

    processes(run, read_cache_mb=0)


async def shelve(shelf: Shelf, name: int, size: int) -> Page:
    page = Page(bytes(size), Reading(1, 0, (b"1",)), 0)
    shelf.put(name, page)
    return page


def test_a_shelf_holds_so_many_bytes_of_what_was_used_last() -> None:
    async def run() -> None:
        shelf = Shelf(10 * (1000 + OVERHEAD_BYTES))
        for name in range(25):
            await shelve(shelf, name, 1000)
            assert shelf.get(0) is not None  # used again and again
        assert len(shelf) == 10
        assert shelf.bytes == 10 * (1000 + OVERHEAD_BYTES)
        assert [name for name in range(25) if shelf.get(name)] == [0, *range(16, 25)]
        await shelve(shelf, 99, 30_000)  # more than there is room for
        assert (shelf.get(99), len(shelf)) == (None, 10)
        shelf.clear()
        assert (len(shelf), shelf.bytes) == (0, 0)

    asyncio.run(run())


def test_nothing_lies_on_a_shelf_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "KEPT_SECONDS", 0.05)

    async def run() -> None:
        shelf = Shelf(2**20)
        page = await shelve(shelf, 1, 10)
        until = time.monotonic() + BOUND_SECONDS
        while len(shelf):
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        assert not page.serves(Reading(1, 0, (b"1",)), time.monotonic())

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/api/sessions/{}/", "/api/sessions/", "/api/sessions/?available=all&page_size=3"])
def test_an_answer_looks_the_same_kept_or_not(api: Api, path: str) -> None:
    path = path.format(api.new_session())
    answers = [api.get(path, headers={"X-Request-Id": "mine"}) for _ in range(8)]
    for answer in answers[1:]:
        if answer.content == answers[0].content:  # other tests make sessions, too
            assert {**answer.headers, "date": ""} == {**answers[0].headers, "date": ""}
    tag = answers[-1].headers["ETag"]
    known = [api.get(path, headers={"If-None-Match": tag, "X-Request-Id": "mine"}) for _ in range(8)]
    for answer in known:
        if answer.headers["ETag"] == tag:
            assert (answer.status_code, answer.content) == (304, b"")
            assert {**answer.headers, "date": ""} == {**known[0].headers, "date": ""}
    for other in ('"0"', 'W/"0", "1"'):
        assert {api.get(path, headers={"If-None-Match": other}).status_code for _ in range(4)} == {200}
    for listed in (f"{tag}, \"0\"", f"W/{tag}", "*"):
        if api.get(path).headers["ETag"] == tag:
            assert 304 in {api.get(path, headers={"If-None-Match": listed}).status_code for _ in range(4)}
    for head in (api.head(path, headers={"X-Request-Id": "mine"}) for _ in range(4)):
        assert (head.status_code, head.content) == (200, b"")
        if head.headers["ETag"] == tag:
            assert {**head.headers, "date": ""} == {**answers[-1].headers, "date": ""}


def test_each_sees_what_its_key_allows_and_is_counted(servers: Servers, stacks: Callable[..., Stack]) -> None:
    first = new_token()
    deployment = servers.deployment(first_key=first)
    settings = deployment.settings(owner_url=deployment.owner_url, auth="keys")
    tokens = {scope: keys.create(settings, scope, [scope], None)[0] for scope in ("read", "attendees", "reserve", "manage")}

    async def run(one: Process, other: Process) -> None:
        as_ = {scope: {"authorization": f"Bearer {token}"} for scope, token in tokens.items()}
        path, session = "/api/sessions/1/", {"title": "T", "capacity": 5}
        times = {"start_time": "2031-05-01T18:00:00Z", "end_time": "2031-05-01T19:00:00Z"}
        assert (await one.ask("POST", "/api/sessions/", {**session, **times}, **as_["manage"]))[0] == 201
        with applying(deployment, 1):
            made = await one.ask("POST", path + "reserve/", person("bea"), **as_["reserve"], prefer="wait=20")
            assert made[0] == 201
        for _ in range(5):
            for process in (one, other):
                assert "Bea" in str((await process.ask("GET", path, **as_["attendees"]))[2])
                masked = await process.ask("GET", path, **as_["read"])
                assert (masked[0], "Bea" in str(masked[2]), "***" in str(masked[2])) == (200, False, True)
                assert (await process.ask("GET", path, **as_["reserve"]))[0] == 403
                assert (await process.ask("GET", path))[0] == 401
                wrong = {"authorization": "Bearer " + tokens["read"][:-1] + "x"}
                assert (await process.ask("GET", path, **wrong))[0] == 401
        assert (await one.ask("GET", path, **as_["read"]))[1][b"ratelimit"].startswith(b'"key";r=')
        statuses = [(await one.ask("GET", path, **as_["read"]))[0] for _ in range(60)]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) <= 40

    try:
        with_two(deployment, run, auth="keys", rate_per_key="40/h")
    finally:
        servers.drop(deployment)
