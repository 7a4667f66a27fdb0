"""Commands that are taken in ahead of Falcon: answered, counted and noted as through it, and never done twice."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from api.protocol import GuardedProtocol
from core.bootstrap import worker_services
from core.errors import Unavailable
from core.keys import new_token
from ops import keys
from tests.support.raw import post
from tests.support.serving import Connection, Serve, Serving, grown, new_session, somebody, told, warm
from tests.support.stack import Deployment, Servers
from tests.support.waiting import until_in_loop

SEED = 20_300_401
CASES = 400
FIRST = new_token()
FALCONS_WAY = "Prefer: return=minimal"  # says nothing that would change the answer
_numbers = itertools.count(1)

Connect = Callable[[], Awaitable[Connection]]


@pytest.fixture
def guarded(servers: Servers) -> Any:
    """A deployment with a key that may everything."""
    found = servers.deployment(first_key=FIRST)
    yield found
    servers.drop(found)


# -- the same answers ------------------------------------------------------------------------------------------------------


class Cases:
    """Requests as people and programs may send them: most are plain, the others odd in one way or in two."""

    def __init__(self, chance: random.Random, sessions: list[int], tokens: list[str]) -> None:
        self._chance = chance
        self._sessions = sessions
        self._tokens = tokens
        self.sent: list[tuple[str, str]] = []  # keys and their bodies, to be repeated

    def path(self) -> str:
        session: Any = self._chance.choice(self._sessions)
        if self._chance.random() < 0.1:
            session = self._chance.choice([0, "01", 10**17, 10**18, 2**63 - 1, 2**63, 10**30, "x", "%31", "-1", "", "1?x=2"])
        kind = self._chance.choice(["reserve"] * 6 + ["cancel"] * 4 + ["Reserve", "reserve/x"])
        return f"/api/sessions/{session}/{kind}" + self._chance.choice(["/"] * 8 + ["", "", "//", "/?a=b"])

    def body(self, path: str) -> bytes:
        chance, number = self._chance, next(_numbers)
        name: Any = chance.choice([f"Guest {number}", "Ana", " Zoë\u00a0", "Łukasz 李", "a" * 100])
        email: Any = chance.choice([f"g{number}@example.org", "ana@example.org", "ANA@Example.ORG ", f"ü{number}@bücher.example"])
        found: dict[str, Any] = {"email": email} if "cancel" in path else {"name": name, "email": email}
        if chance.random() < 0.3:
            found["seats"] = chance.choice([1, 2, 20, 21, 0, -1, "2", None, 1.5, True, 2**70])
        if chance.random() < 0.15:
            odd = [("email", "no address"), ("email", ""), ("email", "a" * 300), ("email", 7), ("name", ""), ("name", "a" * 101)]
            odd += [("name", "line\nbreak"), ("name", None), ("name", ["x"]), ("more", 1), ("name", "\ud800")]
            found.update([chance.choice(odd)])
        if chance.random() < 0.05:
            found.pop(chance.choice(list(found)))
        text = json.dumps(found, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
        if chance.random() < 0.08:
            broken = [b"", b"{", b"[]", b"null", text[:-1], text + b"x", b"\xff" + text]
            text = chance.choice([*broken, text + b" " * 17_000, b"  " + text])
        return text

    def headers(self, body: bytes) -> list[str]:
        chance = self._chance
        found = []
        if self._tokens:
            token = chance.choice(self._tokens)
            shown = [f"Authorization: Bearer {token}"] * 6
            shown += [f"authorization: bearer  {token} ", f"Authorization: Basic {token}", f"Authorization: {token}", "X: 1"]
            found.append(chance.choice(shown))
        if chance.random() < 0.3:
            found.append("X-Request-Id: " + chance.choice(["mine-1", "not/ours", "x" * 65, "", "ü"]))
        if chance.random() < 0.4:
            found.append("Accept-Language: " + chance.choice(["es", "es-MX, en;q=0.5", "xx", "", "de;q=nonsense"]))
        if chance.random() < 0.06:
            twice = ["X-Request-Id: a", "Accept-Language: es", "Content-Type: text/plain", "Idempotency-Key: twice-twice"]
            found += [chance.choice(twice)] * 2
        if chance.random() < 0.15:  # none of them waits
            odd = ["wait=0", 'wait="0"; a=b', "wait", "wait=", "wait=x", "wait=-1", "wait=1234567890", "a=b", "", "a, wait=0"]
            found.append(f"Prefer: {chance.choice(odd)}")
        if chance.random() < 0.1:
            found.append(chance.choice(["Cookie: a=b", "Accept: text/html", "X-Forwarded-For: 10.0.0.1", "Host: other", "X: y"]))
        return found

    def key(self) -> str | None:
        """An Idempotency-Key, of which each way gets its own."""
        found = [None, None, f"key-{next(_numbers):08}", "short", "with space and", "x" * 128, "x" * 129, ""]
        return self._chance.choice([None, None, None, *found])


def with_type(sent: bytes, chance: random.Random) -> bytes:
    """Another Content-Type, now and then."""
    if chance.random() < 0.9:
        return sent
    others = [b"application/json; charset=utf-8", b"Application/JSON ;x", b"text/plain", b"", b"application/json2", b"*/*"]
    return sent.replace(b"Content-Type: application/json", b"Content-Type: " + chance.choice(others), 1)


async def compare(serving: Serving, connect: Connect, cases: Cases, chance: random.Random, statuses: dict[int, int]) -> None:
    """Send one request both ways, and compare all that came of it."""
    line = await connect()
    path = cases.path()
    body, key = cases.body(path), cases.key()
    headers = cases.headers(body)
    named = any(header.startswith("X-Request-Id: mine") for header in headers)
    seen = []
    times = 2 if key is not None and chance.random() < 0.5 else 1
    kind, taken = chance.getrandbits(64), serving.taken
    for way in ([FALCONS_WAY], []):
        own = [*headers, *way]
        if key is not None:  # of the same length and kind, but another for each way
            own.append(f"Idempotency-Key: {('f' if way else 'd') + key[1:] if key else key}")
        sent = with_type(post(path, body, *own), random.Random(kind))
        for _ in range(times):
            before, noted = serving.counts(), len(serving.notes)
            answer = await line.ask(sent)
            counted = grown(before, serving.counts())
            seen.append((told(answer, named), counted, serving.notes[noted:]))
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            assert not way or serving.taken == taken
            if answer.headers.get("connection") == "close":
                line = await connect()
    half = len(seen) // 2
    assert seen[:half] == seen[half:], (path, headers, key, body)


@pytest.mark.parametrize("is_open", [True, False])
def test_whatever_is_sent_is_answered_counted_and_noted_as_through_falcon(
    serve: Serve, guarded: Deployment, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    for name in ("FRESH_SECONDS", "STALE_SECONDS"):  # who asks for a key tells more of the limits
        monkeypatch.setattr(f"core.keys.{name}", 3600.0)
    chance = random.Random(SEED)
    statuses: dict[int, int] = {}

    async def run(serving: Serving) -> None:
        worker = worker_services(guarded.settings())
        token = f"Authorization: Bearer {FIRST}"
        async with serving.connection() as line:
            sessions = [await new_session(line, token) for _ in range(3)]
            sessions.append(await new_session(line, token, capacity=1, waitlist_capacity=2))
        owner = guarded.settings(owner_url=guarded.owner_url)
        tokens = [keys.create(owner, "shop", scopes, None)[0] for scopes in (["reserve"], ["manage"], ["read"])]
        for known in tokens:
            await serving.services.keyring.caller(known)
        cases = Cases(chance, sessions, [] if is_open else [FIRST, FIRST, *tokens, "aforo_x_y"])
        for number in range(CASES):
            async with AsyncExitStack() as lines:
                await compare(serving, lambda: lines.enter_async_context(serving.connection()), cases, chance, statuses)
            if number % 50 == 49:
                for partition in range(guarded.partitions):
                    await asyncio.to_thread(worker.drain, partition)
        worker.close()
        assert serving.taken > CASES / 20

    serve(run, guarded, auth="open" if is_open else "keys", rate_per_address="1000000/s", trusted_proxies="127.0.0.1")
    expected = {202, 404, 413, 415, 422, 400} if is_open else {202, 401, 403, 404, 422}
    assert expected <= statuses.keys(), statuses
    assert 500 not in statuses


def test_forecasts_are_the_same(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            rows = []
            for way in ([FALCONS_WAY], []):
                path = f"/api/sessions/{await new_session(line, capacity=2, waitlist_capacity=1)}/reserve/"
                answers = [await line.ask(post(path, somebody(), *way)) for _ in range(5)]
                rows.append([(a.json()["forecast"], a.json()["seq"], a.json()["ahead"]) for a in answers])
        assert rows[0] == rows[1]
        assert [forecast["outcome"] for forecast, *_ in rows[0]] == ["confirmed"] * 2 + ["waitlisted"] + ["sold_out"] * 2

    serve(run)


def test_limits_count_and_refuse_the_same(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            session = await new_session(line)
            rows = []
            for address, way in (("198.51.100.1", [FALCONS_WAY]), ("198.51.100.2", [])):
                answers = [
                    await line.ask(post(f"/api/sessions/{session}/reserve/", somebody(), f"X-Forwarded-For: {address}", *way))
                    for _ in range(6)
                ]
                rows.append([(a.status, a.headers.get("ratelimit"), a.headers.get("ratelimit-policy")) for a in answers])
                assert [answer.status for answer in answers] == [202] * 4 + [429] * 2
        assert rows[0] == rows[1]
        assert serving.taken == 6

    serve(run, rate_per_address="4/h", trusted_proxies="127.0.0.1")


# -- what comes in pieces, and who does not wait ------------------------------------------------------------------------------


def test_a_plain_command_is_taken_in_at_once_and_one_in_pieces_goes_the_usual_way(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            before = serving.taken
            sent = post(path, somebody())
            assert (await line.ask(sent)).status == 202
            assert serving.taken == before + 1
            (protocol,) = serving.server.server_state.connections
            answered = protocol.cycle
            line.writer.write(sent[:-20])
            await until_in_loop(lambda: protocol.cycle is not answered)
            assert (await line.ask(sent[-20:])).json()["seq"] == 3
            assert serving.taken == before + 1

    serve(run)


def test_requests_behind_it_are_answered_after_it_and_in_their_order(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            many = [post(path, somebody(), f"X-Request-Id: number-{number}") for number in range(20)]
            line.writer.write(b"".join(many))
            answers = [await line.answer() for _ in many]
            assert [answer.headers["x-request-id"] for answer in answers] == [f"number-{number}" for number in range(20)]
            assert [answer.json()["seq"] for answer in answers] == list(range(2, 22))

    serve(run)


def test_what_is_not_plain_is_not_mistaken_for_what_is_sent_behind_it(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            sessions = [await new_session(line) for _ in range(2)]
            for _ in range(2):  # the second time their heads are in Redis
                first, second = (f"/api/sessions/{session}/reserve/" for session in sessions)
                line.writer.write(post(first + "?a=b", somebody()) + post(second, somebody()))
                answers = [await line.answer() for _ in sessions]
                assert [(answer.status, answer.json()["session_id"]) for answer in answers] == [(202, id_) for id_ in sessions]

    serve(run)


def test_who_leaves_at_the_door_is_accepted_all_the_same(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            async with serving.connection() as hasty:
                hasty.writer.write(post(path, somebody()))
            await until_in_loop(lambda: len(serving.notes) >= 3)  # the session, and two commands
            assert (await line.ask(post(path, somebody()))).json()["seq"] == 3

    serve(run)


@pytest.mark.parametrize("way", [[], [FALCONS_WAY]])
def test_who_leaves_before_several_answers_is_no_error(serve: Serve, caplog: pytest.LogCaptureFixture, way: list[str]) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            door, state = serving.hold_the_door(), serving.server.server_state
            async with serving.connection() as hasty:
                hasty.writer.write(b"".join([post(path, somebody(), *way) for _ in range(3)]))
                await door.arrived.wait()
                (protocol,) = [found for found in state.connections if found.pipeline]
                protocol.transport.abort()  # a reset by the other side, while nobody reads
            await until_in_loop(lambda: protocol not in state.connections)
            door.open()
            await until_in_loop(lambda: len(serving.notes) >= 3 and not state.tasks)  # the session, and two commands
            assert (await line.ask(post(path, somebody()))).json()["seq"] == 3
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    serve(run)


def test_nothing_is_made_for_an_application_that_is_not_asked(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            (protocol,) = serving.server.server_state.connections
            for way, made in ([], set()), ([FALCONS_WAY], {"scope", "message_event"}):
                assert (await line.ask(post(path, somebody(), *way))).status == 202
                assert protocol.cycle.response_complete
                assert {"scope", "message_event"} & vars(protocol.cycle).keys() == made

    serve(run)


def test_who_is_slow_to_read_has_the_answer_when_the_line_is_free(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            (protocol,) = serving.server.server_state.connections
            protocol.pause_writing()
            noted = len(serving.notes)
            line.writer.write(post(path, somebody(), "X-Request-Id: slow"))
            await until_in_loop(lambda: len(serving.notes) > noted)
            assert not protocol.cycle.response_complete
            protocol.resume_writing()
            answer = await line.answer()
            assert (answer.status, answer.json()["seq"], answer.headers["x-request-id"]) == (202, 2, "slow")
            assert (await line.ask(post(path, somebody()))).json()["seq"] == 3

    serve(run)


def test_a_line_that_fails_keeps_no_other_answer_back(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as first, serving.connection() as bad, serving.connection() as good:
            path = await warm(good)
            answer = GuardedProtocol.answer

            def fail_for_one(line: Any, cycle: Any, status: int, fields: bytes, body: bytes) -> None:
                if b"x-request-id: bad" in fields:
                    raise RuntimeError("closed")
                answer(line, cycle, status, fields, body)

            monkeypatch.setattr(GuardedProtocol, "answer", fail_for_one)
            door, before = serving.hold_the_door(), serving.taken
            for number, line in enumerate((first, bad, good)):  # the second and the third go together
                line.writer.write(post(path, somebody(), f"X-Request-Id: {'bad' if line is bad else 'good'}"))
                await until_in_loop(lambda taken=before + number + 1: serving.taken == taken)  # type: ignore[misc]
            door.open()
            assert (await first.answer()).status == (await good.answer()).status == 202

    serve(run)


def test_what_may_have_been_accepted_is_never_sent_again(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        door = serving.services.door
        async with serving.connection() as line:
            path = await warm(line)
            accept = door._grouped._call

            async def accept_and_lose_the_replies(knocks: Any) -> Any:
                await accept(knocks)
                raise Unavailable

            door._grouped._call = accept_and_lose_the_replies
            before = serving.taken
            answers = [await line.ask(post(path, somebody(), *way)) for way in ([], [FALCONS_WAY])]
            assert [(answer.status, answer.json()["code"]) for answer in answers] == [(503, "unavailable")] * 2
            assert serving.taken == before + 1
            door._grouped._call = accept
            assert (await line.ask(post(path, somebody()))).json()["seq"] == 4

    serve(run)


def test_what_may_have_been_accepted_is_not_called_refused_because_the_door_is_full_by_now(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(serving: Serving) -> None:
        door = serving.services.door
        async with serving.connection() as line:
            path = await warm(line)

            async def lose_the_replies(_knocks: Any) -> Any:
                monkeypatch.setattr(type(door), "is_full", True)
                raise Unavailable

            door._grouped._call = lose_the_replies
            before = serving.taken
            answer = await line.ask(post(path, somebody()))
            assert (answer.status, answer.json()["code"]) == (503, "unavailable")
            assert serving.taken == before + 1

    serve(run)


def test_a_bug_in_the_answer_is_told_as_one(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            monkeypatch.setattr("api.intake.queued_answer", lambda *_: 1 / 0)
            answer = await line.ask(post(path, somebody()))
            assert (answer.status, answer.json()["code"]) == (500, "internal_error")

    serve(run)


def test_while_the_door_is_crowded_it_is_turned_away_in_front(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = f"/api/sessions/{await new_session(line)}/reserve/"
            monkeypatch.setattr(type(serving.services.door), "is_crowded", True)
            answer = await line.ask(post(path, somebody()))
            assert (answer.status, answer.json()["code"]) == (503, "queue_full")
            assert serving.taken == 0

    serve(run)


def test_a_server_that_stops_answers_who_is_at_the_door(serve: Serve) -> None:
    async def run(serving: Serving) -> None:
        async with serving.connection() as line:
            path = await warm(line)
            door, before = serving.hold_the_door(), serving.taken
            line.writer.write(post(path, somebody()))
            await until_in_loop(lambda: serving.taken > before)
            (protocol,) = serving.server.server_state.connections
            serving.server.should_exit = True
            await until_in_loop(lambda: not protocol.cycle.keep_alive)  # it was told that this is its last answer
            door.open()
            answer = await line.answer()
            assert (answer.status, answer.headers["connection"]) == (202, "close")
            assert await line.is_closed()

    serve(run)
