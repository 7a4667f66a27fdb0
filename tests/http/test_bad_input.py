"""Whatever is wrong with a request, the answer is a clear problem+json, and the next request is served."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.http import SESSION, Api, person

JSON = {"Content-Type": "application/json"}
GOOD = {"name": "Ana", "email": "ana@example.org"}


def reserve_raw(api: Api, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    session = api.new_session()
    answer = api.post(f"/api/sessions/{session}/reserve/", content=body, headers={**JSON, **headers})
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    assert api.get(f"/api/sessions/{session}/").json()["last_seq"] == 0
    return answer.status_code, answer.json()


BROKEN = {
    "empty": b"",
    "half": b'{"name": "Ana", "email"',
    "not JSON": b"name=Ana",
    "trailing": b'{"name": "Ana", "email": "a@example.org"} x',
    "single quotes": b"{'name': 'Ana'}",
    "invalid UTF-8": b'{"name": "\xff\xfe", "email": "a@example.org"}',
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "NaN": b'{"name": NaN, "email": "a@example.org"}',
    "deep": b"[" * 10_000,
    "lone surrogate": b'{"name": "\\ud800", "email": "a@example.org"}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_a_body_that_is_not_json_is_400(api: Api, body: bytes) -> None:
    status, problem = reserve_raw(api, body)
    assert (status, problem["code"]) == (400, "invalid_json")


WRONG: dict[str, tuple[Any, set[str]]] = {
    "array": ([], {""}),
    "string": ("Ana", {""}),
    "null": (None, {""}),
    "nothing": ({}, {"name", "email"}),
    "no e-mail": ({"name": "Ana"}, {"email"}),
    "unknown field": ({**GOOD, "vip": True}, {"vip"}),
    "everything wrong": ({"name": 1, "email": [], "x": 0}, {"name", "email", "x"}),
    "number for name": ({**GOOD, "name": 7}, {"name"}),
    "bool for name": ({**GOOD, "name": True}, {"name"}),
    "null for e-mail": ({**GOOD, "email": None}, {"email"}),
    "object for e-mail": ({**GOOD, "email": {}}, {"email"}),
    "blank name": ({**GOOD, "name": "   "}, {"name"}),
    "long name": ({**GOOD, "name": "x" * 101}, {"name"}),
    "NUL in name": ({**GOOD, "name": "A\x00na"}, {"name"}),
    "line break in name": ({**GOOD, "name": "A\nna"}, {"name"}),
    "escape in name": ({**GOOD, "name": "\x1b[31mAna"}, {"name"}),
    "line separator in name": ({**GOOD, "name": "A\u2028na"}, {"name"}),
    "no address": ({**GOOD, "email": "ana"}, {"email"}),
    "two ats": ({**GOOD, "email": "a@b@example.org"}, {"email"}),
    "NUL in address": ({**GOOD, "email": "a\x00@example.org"}, {"email"}),
    "header in address": ({**GOOD, "email": "a@example.org\r\nBcc: b@example.org"}, {"email"}),
    "long address": ({**GOOD, "email": "a@" + "b" * 300 + ".org"}, {"email"}),
    "local host": ({**GOOD, "email": "ana@localhost"}, {"email"}),
    "both empty": ({"name": "", "email": ""}, {"name", "email"}),
    "deep": ({**GOOD, "x": json.loads("[" * 50 + "]" * 50)}, {"x"}),
}


@pytest.mark.parametrize(("body", "fields"), WRONG.values(), ids=WRONG.keys())
def test_wrong_fields_are_422_and_every_one_is_named(api: Api, body: Any, fields: set[str]) -> None:
    status, problem = reserve_raw(api, json.dumps(body).encode())
    assert (status, problem["code"]) == (422, "invalid_fields")
    assert {error["field"] for error in problem["errors"]} == fields
    assert all(error["message"] for error in problem["errors"])


@pytest.mark.parametrize(
    "name", ["x" * 100, "Zoë", "Ngũgĩ wa Thiong'o", "李小龍", "🎫", "O'Brien <b>", "'; DROP TABLE jobs; --", "\\N", "a\\tb", "%s"]
)
def test_names_are_kept_as_they_are(api: Api, name: str) -> None:
    session = api.new_session()
    assert api.reserve(session, {"name": name, "email": "ana@example.org"}).status_code == 201
    assert api.get(f"/api/sessions/{session}/").json()["reservations"][0]["name"] == name


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_another_content_type_is_415(api: Api, content_type: str) -> None:
    status, problem = reserve_raw(api, json.dumps(GOOD).encode(), **{"Content-Type": content_type})
    assert (status, problem["code"]) == (415, "unsupported_media_type")


def test_a_content_type_with_parameters_is_fine(api: Api) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = api.post(f"/api/sessions/{api.new_session()}/reserve/", content=json.dumps(person()), headers=headers)
    assert answer.status_code == 202


def test_a_body_over_16_kib_is_413_also_in_chunks(api: Api) -> None:
    session = api.new_session()
    body = json.dumps({**GOOD, "name": "x" * 17_000}).encode()
    whole = api.post(f"/api/sessions/{session}/reserve/", content=body, headers=JSON)
    chunked = api.post(f"/api/sessions/{session}/reserve/", content=iter([body[:9000], body[9000:]]), headers=JSON)
    for answer in (whole, chunked):
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert api.reserve(session).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/sessions/1/reserve/", "POST"),
        ("PUT", "/api/sessions/1/", "GET"),
        ("DELETE", "/api/sessions/", "POST"),
        ("POST", "/api/jobs/00000000-0000-8000-8000-000000000000", "GET"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_405(api: Api, method: str, path: str, allowed: str) -> None:
    answer = api.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert allowed in answer.headers["Allow"]


@pytest.mark.parametrize(
    "path", ["/index.html", "/api", "/api/session/", "/api/sessions/1/buy/", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"]
)
def test_an_unknown_path_is_404(api: Api, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "job", ["x", "1", "00000000-0000-8000-8000-00000000000", "00000000-0000-4000-8000-000000000000", "%00", "A" * 36]
)
def test_what_cannot_be_a_job_is_404(api: Api, job: str) -> None:
    answer = api.get(f"/api/jobs/{job}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("key", ["short", "x" * 129, "with space", "ümlaut-key", "semi;colon", "12345678\t9"])
def test_a_malformed_idempotency_key_is_422(api: Api, key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    answer = api.post(f"/api/sessions/{api.new_session()}/reserve/", json=person(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")


NEW = {
    "capacity -1": ({"capacity": -1}, {"capacity"}),
    "capacity too large": ({"capacity": 1_000_001}, {"capacity"}),
    "capacity as text": ({"capacity": "12"}, {"capacity"}),
    "capacity with a fraction": ({"capacity": 1.5}, {"capacity"}),
    "capacity huge": ({"capacity": 10**30}, {"capacity"}),
    "capacity bool": ({"capacity": True}, {"capacity"}),
    "no zone": ({"start_time": "2031-05-01T18:00:00"}, {"start_time"}),
    "no time": ({"end_time": "tomorrow"}, {"end_time"}),
    "ends first": ({"end_time": "2030-05-01T18:00:00Z"}, {"end_time"}),
    "ends at its start": ({"end_time": SESSION["start_time"]}, {"end_time"}),
    "empty title": ({"title": ""}, {"title"}),
    "long title": ({"title": "x" * 201}, {"title"}),
    "long description": ({"description": "x" * 5001}, {"description"}),
    "NUL in description": ({"description": "a\x00b"}, {"description"}),
    "several": ({"title": "", "capacity": -1, "location": "a\nb"}, {"title", "capacity", "location"}),
}


@pytest.mark.parametrize(("changes", "fields"), NEW.values(), ids=NEW.keys())
def test_wrong_sessions_are_422_and_every_field_is_named(api: Api, changes: dict[str, Any], fields: set[str]) -> None:
    answer = api.post("/api/sessions/", json={**SESSION, **changes})
    assert answer.status_code == 422, answer.text
    assert {error["field"] for error in answer.json()["errors"]} == fields


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page=0", "page"),
        ("page=x", "page"),
        ("page=-1", "page"),
        ("page=99999999999", "page"),
        ("page_size=101", "page_size"),
        ("available=some", "available"),
    ],
)
def test_wrong_parameters_are_422_and_named(api: Api, query: str, field: str) -> None:
    answer = api.get(f"/api/sessions/?{query}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("cursor", ["x", "!!", "LTEuMQ", "MS54", "MQ", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5Ljk", "%00"])
def test_a_forged_cursor_is_422(api: Api, cursor: str) -> None:
    answer = api.get(f"/api/sessions/{api.new_session()}/reservations/?cursor={cursor}")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "cursor")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/sessions/1/reserve/ HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/sessions/1/reserve/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["bytes", "version", "negative length", "broken chunks"],
)
def test_what_is_not_http_does_not_end_the_server(api: Api, garbage: bytes) -> None:
    address = urlsplit(str(api.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(garbage)
        connection.settimeout(2)
        try:
            answer = connection.recv(100)
        except OSError:
            answer = b""
    assert b"200 OK" not in answer
    assert b" 202 " not in answer
    assert api.get("/healthz").status_code == 200
