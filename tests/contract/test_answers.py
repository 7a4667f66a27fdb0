"""The running API against openapi.yaml: a walk through every operation; each request and answer must be as written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_core import Config, OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

from tests.support.http import SESSION, Api, person
from tests.support.stack import Stack

FILE = Path(__file__).resolve().parents[2] / "openapi.yaml"
CONTRACT = OpenAPI.from_file_path(str(FILE), Config(extra_media_type_deserializers={"application/problem+json": json.loads}))
JSON = {"Content-Type": "application/json"}


def check(answer: httpx.Response, *, request_too: bool = True) -> httpx.Response:
    """Hold an answer, and unless it was wrong on purpose its request, to the contract."""
    sent = answer.request
    path = sent.url.path
    if not path.endswith("/") and (path.startswith(("/api/sessions", "/docs")) or path == "/api/reservations"):
        path += "/"
    request = MockRequest(
        f"{sent.url.scheme}://{sent.url.netloc.decode()}",
        sent.method,
        path,
        args=dict(sent.url.params),
        headers=dict(sent.headers),
        data=sent.content,
        content_type=sent.headers.get("Content-Type", ""),
    )
    content_type = answer.headers.get("Content-Type", "")
    if request_too:
        CONTRACT.validate_request(request)
    given = MockResponse(answer.content, answer.status_code, dict(answer.headers), content_type.partition(";")[0])
    CONTRACT.validate_response(request, given)
    return answer


@pytest.fixture
def session(api: Api) -> int:
    return api.new_session(capacity=1)


def test_sessions_are_created_listed_read_and_changed_as_written(api: Api) -> None:
    made = check(api.post("/api/sessions/", json={**SESSION, "description": "Aprons are here.", "location": "Ground floor"}))
    assert made.status_code == 201
    path = made.headers["Location"]
    assert check(api.get(path)).json()["title"] == SESSION["title"]
    assert check(api.patch(path, json={"title": "Letterpress, again"})).json()["title"] == "Letterpress, again"
    listed = check(api.get("/api/sessions/", params={"available": "all", "page_size": 100, "ordering": "-id"}))
    assert made.json()["id"] in [one["id"] for one in listed.json()["results"]]


def test_every_outcome_of_reserve_and_cancel_is_as_written(api: Api, session: int) -> None:
    ana, bo = person(), person()
    statuses = [
        check(answer).status_code
        for answer in (
            api.reserve(session, ana, wait=None),
            api.reserve(session, ana),
            api.reserve(session, bo),
            api.cancel(session, bo["email"]),
            api.cancel(session, ana["email"]),
            api.reserve(session, bo),
        )
    ]
    assert statuses == [202, 409, 409, 404, 200, 201]


def test_jobs_and_reservations_read_as_written(api: Api, session: int) -> None:
    answer = api.reserve(session)
    assert check(api.get(answer.headers["Location"])).json()["outcome"] == "confirmed"
    assert check(api.get(answer.headers["Location"], headers={"Prefer": "wait=5"})).headers["Preference-Applied"] == "wait=5"
    for status in ("live", "all"):
        page = check(api.get(f"/api/sessions/{session}/reservations/", params={"status": status, "page_size": 1}))
        assert len(page.json()["results"]) == 1
    assert len(check(api.get(f"/api/sessions/{session}/")).json()["reservations"]) == 1


def test_people_at_the_entrance_are_found_and_checked_in_as_written(api: Api, session: int) -> None:
    ana, bo = person(), person()
    held = api.reserve(session, ana).json()["reservation"]["id"]
    assert len(check(api.get("/api/reservations/", params={"email": ana["email"]})).json()["results"]) == 1
    path, waited = f"/api/reservations/{held}", {"Prefer": "wait=20"}
    assert check(api.patch(path, json={"checked_in": True, "name": "Ana"}, headers=waited)).status_code == 200
    assert check(api.patch(path, json={"checked_in": False})).status_code == 202
    api.configure(session, waitlist_capacity=1)
    waits = api.reserve(session, bo).json()["reservation"]["id"]
    assert check(api.patch(f"/api/reservations/{waits}", json={"checked_in": True}, headers=waited)).status_code == 409
    assert check(api.patch("/api/reservations/999999", json={"checked_in": True})).status_code == 404


def test_an_idempotent_repeat_and_a_reused_key_are_as_written(api: Api, session: int) -> None:
    ana = person()
    first = check(api.reserve(session, ana, Idempotency_Key="contract-1"))
    again = check(api.reserve(session, ana, Idempotency_Key="contract-1"))
    other = check(api.reserve(session, person(), Idempotency_Key="contract-1"))
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert other.json()["code"] == "idempotency_key_reused"


MISTAKES: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "/api/sessions/{session}/reserve/", {"content": b"{", "headers": JSON}, 400, "invalid_json"),
    ("POST", "/api/sessions/{session}/cancel/", {"content": b"", "headers": JSON}, 400, "invalid_json"),
    ("POST", "/api/sessions/", {"content": b"[1", "headers": JSON}, 400, "invalid_json"),
    ("PATCH", "/api/sessions/{session}/", {"content": b"nope", "headers": JSON}, 400, "invalid_json"),
    ("POST", "/api/sessions/999999999/reserve/", {"json": person()}, 404, "session_not_found"),
    ("POST", "/api/sessions/999999999/cancel/", {"json": {"email": "a@example.org"}}, 404, "session_not_found"),
    ("GET", "/api/sessions/999999999/", {}, 404, "session_not_found"),
    ("PATCH", "/api/sessions/999999999/", {"json": {"title": "x"}}, 404, "session_not_found"),
    ("GET", "/api/sessions/999999999/reservations/", {}, 404, "session_not_found"),
    ("GET", "/api/jobs/00000000-0000-8000-8000-000000000000", {}, 404, "job_not_found"),
    ("POST", "/api/sessions/{session}/reserve/", {"content": b" " * 20_000, "headers": JSON}, 413, "body_too_large"),
    ("POST", "/api/sessions/", {"content": b" " * 20_000, "headers": JSON}, 413, "body_too_large"),
    ("POST", "/api/sessions/{session}/reserve/", {"content": b"name=Ana"}, 415, "unsupported_media_type"),
    ("PATCH", "/api/sessions/{session}/", {"content": b"title=x"}, 415, "unsupported_media_type"),
    ("POST", "/api/sessions/{session}/reserve/", {"json": {}}, 422, "invalid_fields"),
    ("POST", "/api/sessions/{session}/cancel/", {"json": {"email": 7}}, 422, "invalid_fields"),
    ("POST", "/api/sessions/", {"json": {**SESSION, "capacity": -1}}, 422, "invalid_fields"),
    ("PATCH", "/api/sessions/{session}/", {"json": {}}, 422, "invalid_fields"),
    ("PATCH", "/api/reservations/1", {"json": {}}, 422, "invalid_fields"),
    ("GET", "/api/reservations/", {}, 422, "invalid_fields"),
    ("GET", "/api/sessions/?page=0", {}, 422, "invalid_fields"),
    ("GET", "/api/sessions/{session}/reservations/?cursor=!", {}, 422, "invalid_fields"),
    (
        "POST",
        "/api/sessions/{session}/reserve/",
        {"json": person(), "headers": {"Idempotency-Key": "short"}},
        422,
        "invalid_idempotency_key",
    ),
]


@pytest.mark.parametrize(("method", "path", "given", "status", "code"), MISTAKES)
def test_every_mistake_is_answered_as_written(
    api: Api, session: int, method: str, path: str, given: dict[str, Any], status: int, code: str
) -> None:
    answer = check(api.request(method, path.format(session=session), **given), request_too=False)
    assert (answer.status_code, answer.json()["code"], answer.headers["Content-Type"]) == (
        status,
        code,
        "application/problem+json",
    )


def test_what_operators_and_readers_of_the_contract_get_is_as_written(api: Api) -> None:
    operating = ("/healthz", "/readyz", "/metrics", "/api/operations/", "/api/quarantine/", "/console/session/")
    pages = ("/api/schema/", "/api/docs/", "/api/docs/docs.js", "/console/", "/console/app.js", "/console/icon.svg")
    for path in (*operating, *pages):
        assert check(api.get(path)).status_code == 200
    assert {check(api.get(path)).status_code for path in ("/", "/docs/")} == {302}
    assert check(api.get("/api/docs/nothing.js")).status_code == 404


def test_a_full_queue_is_answered_as_written(stacks: Callable[..., Stack]) -> None:
    stack = stacks(max_queued="1")
    stack.sweeper.stop()
    stack.worker.stop()
    with Api(stack.url) as api:
        session = api.new_session()
        assert check(api.reserve(session, wait=None)).status_code == 202
        full = check(api.reserve(session, wait=None))
    assert (full.status_code, full.json()["code"]) == (503, "queue_full")
    assert int(full.headers["Retry-After"]) >= 1


@pytest.fixture
def broken_answer(api: Api) -> httpx.Response:
    answer = api.get("/healthz")
    answer.read()
    answer._content = b'{"status":"perhaps"}'
    return answer


def test_an_answer_that_is_not_as_written_is_seen(broken_answer: httpx.Response) -> None:
    with pytest.raises(OpenAPIError):
        check(broken_answer)
