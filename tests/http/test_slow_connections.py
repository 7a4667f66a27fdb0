"""Clients that are slow, or do nothing: they are ended after a bounded time, and nobody else waits for them."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.http import Api
from tests.support.raw import Raw, get, post
from tests.support.stack import Stack
from tests.support.waiting import until

LIMIT_SECONDS = 2
LEFT_SECONDS = 8  # on a busy machine; without limits of its own it would take ten at least
CLOSED_SECONDS = 40  # for five hundred of them on a busy machine; without limits they would stay for ever
SLOW = 500
CALLS = 1000
ROUNDS = 3
START = b"GET /healthz HTTP/1.1\r\nX-Slow: "
BUNDLE = get("/api/docs/swagger-ui-bundle.js")  # over a megabyte


@pytest.fixture(scope="module")
def hasty(module_stacks: Callable[..., Stack]) -> Stack:
    """A stack of one API process that is impatient."""
    limits = dict.fromkeys(("head_seconds", "body_seconds", "idle_seconds", "send_seconds"), str(LIMIT_SECONDS))
    return module_stacks(api_processes="1", **limits)


@pytest.fixture
def raw(hasty: Stack) -> Iterator[Raw]:
    with Raw(hasty.url) as connection:
        yield connection


def ended(api: Api, why: str) -> float:
    found = re.search(rf'^aforo_connections_ended_total{{why="{why}"}} ([0-9.]+)$', api.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def dribble(raw: Raw, byte: bytes) -> None:
    """Send a byte every tenth of a second until nobody takes it any more."""
    while not threading.Event().wait(0.1):
        try:
            raw.send(byte)
        except OSError:
            return


def test_who_says_nothing_is_left(raw: Raw) -> None:
    assert raw.closed_after() < LEFT_SECONDS


def test_who_rests_too_long_after_an_answer_is_left(raw: Raw) -> None:
    raw.send(get("/healthz"))
    assert raw.answer().status == 200
    assert 0.5 < raw.closed_after() < LEFT_SECONDS


@pytest.mark.parametrize("start", [START, post("/api/sessions/1/reserve/", b'{"name": "', length=5000)], ids=["head", "body"])
def test_who_sends_byte_by_byte_is_told_that_it_took_too_long(raw: Raw, start: bytes) -> None:
    raw.send(start)
    dribbling = threading.Thread(target=dribble, args=(raw, b"x"))
    dribbling.start()
    answer = raw.answer()
    assert (answer.status, answer.json()["code"], answer.headers["connection"]) == (408, "request_timeout", "close")
    assert raw.closed_after() < 10
    dribbling.join(10)


def test_blank_lines_are_no_request(raw: Raw) -> None:
    dribbling = threading.Thread(target=dribble, args=(raw, b"\r\n"))
    dribbling.start()
    assert raw.closed_after() < LEFT_SECONDS
    dribbling.join(10)


def test_who_does_not_take_its_answers_is_left(hasty: Stack) -> None:
    with Api(hasty.url) as api, Raw(hasty.url, receive_bytes=4096) as raw:
        raw.send(BUNDLE * 12)  # more than the system buffers
        until(lambda: ended(api, "slow_reader") == 1, 20)


def test_who_takes_its_answer_slowly_but_steadily_gets_all_of_it(hasty: Stack) -> None:
    with Raw(hasty.url, receive_bytes=65536) as raw:
        raw.send(BUNDLE)
        time.sleep(LIMIT_SECONDS / 4)  # that is what slow means
        assert len(raw.answer().body) > 10**6


def slow_connections(url: str, holding: ExitStack) -> list[Raw]:
    """Many of four kinds: that say nothing, that dribble a head, a body, that do not read."""
    found = []
    body = post("/api/sessions/1/reserve/", b'{"name": "', length=5000)
    for start in (b"", START, body, BUNDLE) * (SLOW // 4):
        one = holding.enter_context(Raw(url, receive_bytes=4096))
        one.send(start)
        found.append(one)
    return found


def p99_of_calls(stacks: Sequence[Stack], sessions: Sequence[int]) -> list[float]:
    """Of reserves from four healthy clients that ask these stacks in turn, in seconds: what else happens here hits all alike."""

    def visit(_: int) -> list[list[float]]:
        times: list[list[float]] = [[] for _ in stacks]
        with ExitStack() as open_:
            apis = [open_.enter_context(Api(stack.url)) for stack in stacks]
            for _ in range(CALLS // 4):
                for api, session, found in zip(apis, sessions, times, strict=True):
                    started = time.perf_counter()
                    assert api.reserve(session, wait=None).status_code == 202
                    found.append(time.perf_counter() - started)
        return times

    with ThreadPoolExecutor(4) as threads:
        visits = list(threads.map(visit, range(4)))
    return [sorted(itertools.chain(*times))[CALLS * 99 // 100] for times in zip(*visits, strict=True)]


def dribble_all(slow: Sequence[Raw], over: threading.Event) -> None:
    """A byte to each of them four times a second, one after the other."""
    for one in itertools.cycle(slow):
        if over.wait(0.25 / len(slow)):
            return
        try:
            one.send(b"x")
        except OSError:
            continue


def test_five_hundred_slow_connections_slow_nobody_down_and_are_ended(module_stacks: Callable[..., Stack]) -> None:
    limits = dict.fromkeys(("head_seconds", "body_seconds", "idle_seconds", "send_seconds"), "6")
    stacks = [module_stacks(api_processes="1", **limits) for _ in range(2)]  # one that is bothered, one that is not
    with ExitStack() as holding:
        apis = [holding.enter_context(Api(stack.url)) for stack in stacks]
        sessions = [api.new_session(capacity=100_000) for api in apis]
        p99_of_calls(stacks, sessions)  # everything is warm
        ratios: list[float] = []
        while not ratios or (ratios[-1] > 2 and len(ratios) < ROUNDS):
            with ExitStack() as many:
                slow = slow_connections(stacks[0].url, many)
                assert apis[0].get("/healthz").status_code == 200  # it has taken them all in
                over = threading.Event()
                dribbling = threading.Thread(target=dribble_all, args=(slow[1::4] + slow[2::4], over))
                dribbling.start()
                bothered, normal = p99_of_calls(stacks, sessions)
                ratios.append(bothered / normal)
                over.set()
                dribbling.join(10)
                started = time.monotonic()
                for one in slow:
                    one.closed_after()
                assert time.monotonic() - started < CLOSED_SECONDS
        assert min(ratios) <= 2, ratios
