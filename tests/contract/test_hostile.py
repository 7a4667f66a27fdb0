"""Hostile requests to real gunicorn, below what HTTP clients send: each is answered as it must be, or not at all where it broke
off, and the next caller is served as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.keys import new_token
from ops.keys import create
from tests.conftest import temporary_folder
from tests.support.answers import Got, answers_in, faults_of
from tests.support.fuzzing import IMPATIENT, alarms_in, fuzz
from tests.support.hostile import Request
from tests.support.http import Api
from tests.support.processes import children_of
from tests.support.stack import Servers, Stack

FIRST = new_token()
EXAMPLES = 400
# What that many lead to at least, so that the fuzzing is seen to get past the parser.
MET = {200, 202, 400, 404, 405, 415, 422}


@pytest.fixture(scope="module", params=["open", "keys"])
def stack(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """One without keys, then one that asks for them."""
    with temporary_folder("hostile") as place:
        deployment = servers.deployment(first_key=FIRST)
        stack = Stack(deployment, place, auth=request.param, **IMPATIENT)
        try:
            yield stack
        finally:
            stack.close()
            servers.drop(deployment)


@pytest.mark.timeout(400)
def test_whatever_bytes_come_the_answer_is_as_written_and_the_next_caller_is_served(stack: Stack) -> None:
    with_keys = stack.environment["AFORO_AUTH"] == "keys"
    operator = stack.deployment.settings(owner_url=stack.deployment.owner_url)
    sent = (FIRST, create(operator, "reader", ["read"], None)[0]) if with_keys else ()
    with Api(stack.url) as api:
        if with_keys:
            api.headers["Authorization"] = f"Bearer {FIRST}"
        session = api.new_session(capacity=3)
        processes = children_of(stack.api.pid)
        statuses = fuzz(stack.url, session, sent, EXAMPLES, chance=1)
        assert statuses.keys() >= ({*MET, 401, 403} if with_keys else MET)
        assert children_of(stack.api.pid) == processes
        assert api.reserve(session, {"name": "Zoe", "email": "zoe@example.org"}).status_code in (201, 409)
    assert alarms_in(stack.api.output()) == ""


GET = Request(b"GET", b"/healthz", b"GET /healthz HTTP/1.1\r\n\r\n", b"", is_whole=True)
PROBLEM = b'{"type":"about:blank","title":"t","status":404,"code":"not_found","detail":"d","request_id":"1"}'
OK = {"content-type": "application/json"}
WRONG: dict[str, tuple[list[Got], str]] = {
    "nothing": ([], "no answer"),
    "a server error": ([Got(500, {}, b"")], "a server error"),
    "a 503 without a time": ([Got(503, {}, b"")], "a server error"),
    "a traceback": ([Got(200, OK, b"Traceback (most recent call last)")], "a traceback"),
    "a banner": ([Got(200, {**OK, "server": "x"}, b'{"status":"ok"}')], "a header"),
    "an injected header": ([Got(200, {**OK, "x-injected": "yes"}, b'{"status":"ok"}')], "a header"),
    "another body": ([Got(200, OK, b'{"status":"perhaps"}')], "not as written"),
    "another type": ([Got(200, {"content-type": "text/plain"}, b"ok")], "not written"),
    "another status": ([Got(207, OK, b"{}")], "not written"),
    "an error in text": ([Got(404, {"content-type": "text/plain"}, b"no")], "no problem"),
    "a problem without a code": ([Got(404, {"content-type": "application/problem+json"}, b"{}")], "not as written"),
    "a problem of another status": ([Got(400, {"content-type": "application/problem+json"}, PROBLEM)], "its status is not"),
}


@pytest.mark.parametrize(("answers", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_answer_is_seen(answers: list[Got], words: str) -> None:
    assert any(words in fault for fault in faults_of(GET, answers))


def test_a_right_answer_is_not() -> None:
    received = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{"status":"ok"}'
    answers = list(answers_in(received, b"GET"))
    assert [answer.status for answer in answers] == [200]
    assert faults_of(GET, answers) == []
