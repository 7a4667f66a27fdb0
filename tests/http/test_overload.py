"""More than an API can take: who is turned away before anything is begun, and how; and a whole stack that is flooded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ops import localstack
from tests.bench.arithmetic import percentile
from tests.bench.load import Arrived, Load
from tests.bench.workload import reserving
from tests.support.http import Api
from tests.support.processes import Running, answers, python_program
from tests.support.raw import Answer, Raw, get, post
from tests.support.stack import Stack
from tests.support.waiting import until

RESERVE = "/api/sessions/7/reserve/"
BODY = b'{"name":"Ana","email":"ana@example.org"}'
RATE, CONNECTIONS, SECONDS = 12_000.0, 400, 4.0  # more than one process can take


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an API whose gate turns away whoever it may; what reaches its application is answered 202."""
    folder = tmp_path_factory.mktemp("shut")
    port = localstack.free_port()
    url = f"http://{localstack.HOST}:{port}"
    environment = {
        "AFORO_PORT": str(port), "AFORO_AUTH": "open", "AFORO_API_PROCESSES": "1",
        "AFORO_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "AFORO_REDIS_URL": "redis://127.0.0.1:1/0",
    }  # fmt: skip
    program = python_program("shut", environment, "-m", "gunicorn", "--config", "python:api.server", "tests.support.shut:app")
    running = Running(replace(program, is_ready=lambda: answers(url, anything=True)), folder)
    try:
        yield url
    finally:
        running.stop()


@pytest.fixture
def raw(shut: str) -> Iterator[Raw]:
    """A connection to it."""
    with Raw(shut) as connection:
        yield connection


def is_turned_away(answer: Answer) -> bool:
    return answer.status == 503 and answer.json()["code"] == "queue_full" and answer.headers["retry-after"] == "1"


def test_a_connection_goes_on_after_its_request_was_turned_away(raw: Raw) -> None:
    for _ in range(3):
        raw.send(post(RESERVE, BODY))
        assert is_turned_away(raw.answer())
    raw.send(get("/"))
    assert raw.answer().status == 202
    raw.send(post("/api/batches/", BODY))
    assert raw.answer().status == 202
    raw.send(post(RESERVE, BODY))
    assert is_turned_away(raw.answer())


def test_it_says_what_every_refusal_says(raw: Raw) -> None:
    raw.send(post(RESERVE, BODY, "X-Request-Id: mine.7", "Accept-Language: es"))
    answer = raw.answer()
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == ("mine.7", "mine.7")
    assert (answer.headers["content-type"], answer.headers["content-language"]) == ("application/problem+json", "es")
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")


@pytest.mark.parametrize("framing", [f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked"])
def test_a_body_that_comes_late_is_read_and_dropped(raw: Raw, framing: str) -> None:
    raw.send(f"POST {RESERVE} HTTP/1.1\r\nHost: aforo\r\n{framing}\r\n\r\n".encode())
    assert is_turned_away(raw.answer())
    whole = BODY if "Length" in framing else b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    for at in range(0, len(whole), 10):
        raw.send(whole[at : at + 10])
    raw.send(post(RESERVE, BODY))
    assert is_turned_away(raw.answer())


def test_a_body_that_is_none_ends_the_connection(raw: Raw) -> None:
    raw.send(f"POST {RESERVE} HTTP/1.1\r\nHost: aforo\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    assert is_turned_away(raw.answer())
    raw.send(b"no chunk\r\n")
    assert raw.closed_after() < 15


def test_requests_sent_at_once_are_answered_in_their_order(raw: Raw) -> None:
    raw.send(post(RESERVE, BODY) + get("/") + post(RESERVE, BODY) + post(RESERVE, BODY) + get("/"))
    assert [raw.answer().status for _ in range(5)] == [503, 202, 503, 503, 202]


def test_who_asks_first_whether_to_send_a_body_is_told_no(raw: Raw) -> None:
    raw.send(post(RESERVE, b"", "Expect: 100-continue", length=len(BODY)))
    assert is_turned_away(raw.answer())


def test_the_last_request_of_a_connection_is_turned_away_too(raw: Raw) -> None:
    raw.send(post(RESERVE, BODY, "Connection: close"))
    assert is_turned_away(raw.answer())
    assert raw.closed_after() < 15


def test_pages_of_other_origins_are_answered_by_the_application(raw: Raw) -> None:
    raw.send(post(RESERVE, BODY, "Origin: https://tickets.example.org"))
    assert raw.answer().status == 202


def test_under_three_times_its_load_it_answers_everybody_and_applies_what_it_accepted(
    stacks: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = stacks(api_processes="1")
    with Api(stack.url) as api:
        session = api.new_session(capacity=10**6)
        found = flood(stack, session, tmp_path)
        accepted, refused = found.count(202), found.count(503)
        assert min(accepted, refused) > 200
        assert (found.broken, found.count(0)) == (0, 0)
        assert accepted + refused == sum(len(some) for some in found.latencies.values())
        served = {status: found.service[f"plain {status}"] for status in (202, 503)}
        assert percentile(served[503], 0.5) < percentile(served[202], 0.5)

        def applied() -> bool:
            shown = api.get(f"/api/sessions/{session}/").json()
            return shown["capacity"] - shown["available_slots"] == accepted

        until(applied, 60, "all that was accepted is applied, and nothing else")
        until(lambda: api.reserve(session, wait=None).status_code == 202, 20, "whoever comes is let in again")


def test_a_burst_and_what_can_be_served_turn_nobody_away(live_api: Stack, tmp_path: Path) -> None:
    with Api(live_api.url) as api:
        session = api.new_session(capacity=10**6)
        for rate, seconds in ((20_000.0, 0.012), (100.0, 2.0)):
            found = Load(tmp_path).open(live_api.url, reserving([session]), rate, seconds, seed=7, connections_max=CONNECTIONS)
            assert found.count(202) == sum(len(some) for some in found.latencies.values()) > 100
            assert found.broken == 0


def flood(stack: Stack, session: int, folder: Path) -> Arrived:
    """An open loop that asks for more than can be had."""
    order = [session]
    return Load(folder).open(stack.url, reserving(order), RATE, SECONDS, seed=7, connections_max=CONNECTIONS, abandon=True)
