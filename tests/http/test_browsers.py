"""What browsers are told: headers of pages and of the API, which origins may call, and nothing about what runs here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from falcon.testing import TestClient

from api.app import create_app
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
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert [name for name in TELLING if name in answer.headers] == []


def test_no_other_origin_may_call_unless_it_is_named(api: Api) -> None:
    for method in ("GET", "OPTIONS"):
        answer = api.request(method, "/api/sessions/", headers={"Origin": FRIEND, **PREFLIGHT})
        assert answer.status_code == 200
        assert [name for name in answer.headers if name.startswith("access-control-")] == []
        assert "Origin" not in answer.headers.get("Vary", "")


@pytest.fixture
def friendly() -> TestClient:
    """The application with a friend, without servers: what is asked here needs none."""
    no_rates = {"rate_per_key": None, "rate_per_address": None}
    own = {"auth": "keys", "cors_origins": (FRIEND,), "read_cache_mb": 1, "trusted_proxies": ""}
    settings = SimpleNamespace(log_level="warning", **own, **no_rates)

    async def nothing() -> None:
        pass

    return TestClient(create_app(SimpleNamespace(settings=settings, start=nothing, stop=nothing)))  # type: ignore[arg-type]


def test_the_origins_that_are_named_may_call_with_a_key_and_read_the_answer(friendly: TestClient) -> None:
    path = "/api/sessions/1/reserve"
    asked = friendly.simulate_options(path, headers={"Origin": FRIEND, **PREFLIGHT})
    assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (200, FRIEND)
    assert "POST" in asked.headers["Access-Control-Allow-Methods"].split(", ")
    assert asked.headers["Access-Control-Allow-Headers"] == SENT  # and not whatever it asked for
    for method, where, status in (("POST", path, 401), ("GET", "/no", 404)):
        answer = friendly.simulate_request(method, where, headers={"Origin": FRIEND})
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
        assert "Location" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", [STRANGER, "null", FRIEND + ".evil.example", FRIEND.upper(), None])
def test_others_may_not_and_no_cache_gives_them_the_answer_of_a_friend(friendly: TestClient, origin: str | None) -> None:
    headers = {"Origin": origin} if origin else {}
    for method in ("GET", "POST", "OPTIONS"):
        answer = friendly.simulate_request(method, "/api/sessions", headers={**headers, **PREFLIGHT})
        assert [name for name in answer.headers if name.lower().startswith("access-control-")] == []
        assert "Origin" in answer.headers["Vary"].split(", ")
