"""What browsers are told: headers of pages and of the API, which origins may call, and nothing about what runs here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from api.browsers import PAGE, SENT
from tests.support.http import Api
from tests.support.raw import Raw
from tests.support.stack import Stack

FRIEND, STRANGER = "https://tickets.example.org", "https://evil.example.org"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-anything"}
TELLING = ("server", "x-powered-by", "via", "x-aspnet-version")


def test_a_page_may_load_and_do_as_little_as_it_needs(api: Api) -> None:
    headers = api.get("/api/docs/").headers
    assert {name: headers[name] for name in PAGE} == PAGE
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/api/sessions/", "/api/sessions/0/", "/healthz", "/metrics", "/api/schema/", "/api/docs/docs.js", "/no", "/docs/"]
)
def test_no_answer_is_taken_for_something_else_or_says_what_runs_here(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert [name for name in TELLING if name in answer.headers] == []
    assert len(answer.headers.get_list("Cache-Control")) == 1


def test_answers_stay_in_no_cache_unless_they_can_be_checked(api: Api) -> None:
    session = api.new_session()
    for path in ("/api/sessions/0/", "/healthz", "/readyz", "/metrics", "/nothing"):
        assert api.get(path).headers["Cache-Control"] == "no-store", path
    assert api.reserve(session).headers["Cache-Control"] == "no-store"
    personal = ("/api/sessions/", f"/api/sessions/{session}/", f"/api/sessions/{session}/reservations/")
    checked = {**dict.fromkeys(personal, "private, no-cache"), "/api/docs/": "no-cache", "/api/schema/": "no-cache"}
    for path, kept in checked.items():
        answer = api.get(path)
        assert (answer.headers["Cache-Control"], "ETag" in answer.headers) == (kept, True), path


@pytest.mark.parametrize("request_", [b"\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b"GET /%00 HTTP/1.1\r\n\r\n"])
def test_what_is_no_request_is_answered_as_quietly(live_api: Stack, request_: bytes) -> None:
    with Raw(live_api.url) as raw:
        raw.send(request_)
        answer = raw.answer()
    assert answer.status in (400, 404)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert [name for name in TELLING if name in answer.headers] == []


def test_no_other_origin_may_call_unless_it_is_named(api: Api) -> None:
    for method in ("GET", "OPTIONS"):
        answer = api.request(method, "/api/sessions/", headers={"Origin": FRIEND, **PREFLIGHT})
        assert answer.status_code == 200
        assert [name for name in answer.headers if name.startswith("access-control-")] == []
        assert "Origin" not in answer.headers.get("Vary", "")


def test_the_origins_that_are_named_may_call_with_a_key_and_read_the_answer(stacks: Callable[..., Stack]) -> None:
    stack = stacks(cors_origins=f"{FRIEND}, http://localhost:3000")
    with Api(stack.url) as api:
        session = api.new_session()
        path = f"/api/sessions/{session}/reserve/"
        asked = api.options(path, headers={"Origin": FRIEND, **PREFLIGHT}).headers
        assert asked["Access-Control-Allow-Origin"] == FRIEND
        assert "POST" in asked["Access-Control-Allow-Methods"].split(", ")
        assert asked["Access-Control-Allow-Headers"] == SENT  # and not whatever it asked for
        for answer in (api.reserve(session, Origin=FRIEND), api.get("/nothing", headers={"Origin": FRIEND})):
            assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
            assert "Location" in answer.headers["Access-Control-Expose-Headers"]
            assert "Origin" in answer.headers["Vary"].split(", ")
        for origin in (STRANGER, "null", FRIEND + ".evil.example", FRIEND.upper()):
            for answer in (api.get("/api/sessions/", headers={"Origin": origin}), api.options(path, headers={"Origin": origin})):
                assert [name for name in answer.headers if name.startswith("access-control-")] == []
                assert "Origin" in answer.headers["Vary"].split(", ")
        assert "Origin" in api.get("/api/sessions/").headers["Vary"].split(", ")  # or a cache would give a page this answer
