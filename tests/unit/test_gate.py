"""What is turned away before the application while the door is crowded, how, and what never is."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from api.gate import Gate

RESERVE = "/api/sessions/7/reserve/"


async def application(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 202, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def asked(path: str, *, crowded: bool, method: str = "POST", **headers: str) -> httpx.Response:
    async def call() -> httpx.Response:
        door = SimpleNamespace(is_full=crowded, is_limited=False, look=lambda late_seconds: None)
        gate = Gate(application, door)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://aforo") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(call())


@pytest.mark.parametrize("path", [RESERVE, "/api/sessions/7/cancel"])
def test_what_would_wait_too_long_is_turned_away_and_told_when_to_come_again(path: str) -> None:
    answer = asked(path, crowded=True)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "queue_full"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] != asked(path, crowded=True).headers["X-Request-Id"]
    assert asked(path, crowded=False).status_code == 202


def test_a_request_keeps_the_name_that_its_client_gave_it() -> None:
    assert asked(RESERVE, crowded=True, **{"X-Request-Id": "mine.7"}).headers["X-Request-Id"] == "mine.7"
    assert asked(RESERVE, crowded=True, **{"X-Request-Id": "not mine"}).headers["X-Request-Id"] != "not mine"


def test_pages_of_other_origins_are_answered_by_the_application_which_tells_them_what_they_need() -> None:
    assert asked(RESERVE, crowded=True, Origin="https://tickets.example.org").status_code == 202


def test_it_is_told_in_the_language_that_was_asked_for() -> None:
    english, spanish = asked(RESERVE, crowded=True), asked(RESERVE, crowded=True, **{"Accept-Language": "es"})
    assert (english.headers["Content-Language"], spanish.headers["Content-Language"]) == ("en", "es")
    assert english.json()["detail"] != spanish.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/sessions/7/"),
        ("GET", "/api/jobs/1"),
        ("POST", "/api/sessions/"),
        ("POST", "/api/batches/"),
        ("POST", "/api/sessions/7/close/"),
        ("DELETE", "/api/reservations/7"),
    ],
)
def test_everything_else_passes(method: str, path: str) -> None:
    assert asked(path, crowded=True, method=method).status_code == 202
