"""What HTTP wants of any server: heads, old versions, encodings, and that its first page leads somewhere."""

from __future__ import annotations

import gzip
import json
import re
import threading

import pytest

from tests.support.http import Api, person
from tests.support.raw import Raw, get, post
from tests.support.stack import Stack

VARYING = ("date", "x-request-id")
PER_READ = re.compile(r"r=\d+;t=\d+")


PATHS = ("/healthz", "/api/sessions/{}/", "/api/sessions/", "/api/docs/", "/s/{}", "/", "/api/jobs/x", "/no")


@pytest.mark.parametrize("path", PATHS)
def test_a_head_says_what_the_answer_would_say_and_the_connection_goes_on(api: Api, live_api: Stack, path: str) -> None:
    path = path.format(api.new_session(public=True))
    with Raw(live_api.url) as raw:
        raw.send(get(path))
        whole = raw.answer()
        raw.send(get(path).replace(b"GET", b"HEAD") + get("/healthz"))
        raw.until(b"\r\n\r\n")
        head, _, raw._left = raw._left.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): PER_READ.sub("", value) for name, value in (line.split(": ", 1) for line in lines)}
        expected = {name: PER_READ.sub("", value) for name, value in whole.headers.items()}
        assert int(first.split(" ")[1]) == whole.status
        assert {**headers, **dict.fromkeys(VARYING, "")} == {**expected, **dict.fromkeys(VARYING, "")}
        assert raw.answer().json() == {"status": "ok"}


def test_a_head_does_nothing_where_there_is_nothing_to_get(api: Api) -> None:
    assert api.request("HEAD", f"/api/sessions/{api.new_session()}/reserve/").status_code == 405


def test_a_stream_of_http_1_0_has_no_chunks(api: Api, live_api: Stack) -> None:
    with Raw(live_api.url) as raw:
        raw.send(f"GET /api/sessions/{api.new_session()}/events HTTP/1.0\r\nHost: aforo\r\n\r\n".encode())
        raw.until(b'"available_slots":3')
        head, _, body = raw._left.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert body.startswith(b"retry: ")


def test_an_answer_of_http_1_0_is_whole_and_ends_its_connection(live_api: Stack) -> None:
    for path in (b"/healthz", b"/metrics", b"/api/docs/swagger-ui-bundle.js"):
        with Raw(live_api.url) as raw:
            raw.send(b"GET %b HTTP/1.0\r\n\r\n" % path)
            assert raw.answer().status == 200
            raw.closed_after()


OFFERED = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("cut", [0, -1, -20, None])
def test_a_protocol_that_nobody_speaks_here_is_offered_in_vain_and_nothing_is_lost(
    api: Api, live_api: Stack, is_chunked: bool, cut: int | None
) -> None:
    path, bodies = f"/api/sessions/{api.new_session()}/reserve/", [json.dumps(person()).encode() for _ in range(3)]
    sent = [post(path, body, *OFFERED) for body in bodies]
    if is_chunked:
        length = [f"Content-Length: {len(body)}".encode() for body in bodies]
        chunks = [b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:]) for body in bodies]
        heads = [one.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for one in sent]
        sent = [h.replace(was, b"Transfer-Encoding: chunked") + c for h, was, c in zip(heads, length, chunks, strict=True)]
    whole = b"".join(sent) + get("/healthz", *OFFERED) + get("/healthz")
    at = len(whole) // 2 if cut is None else len(sent[0]) + cut if cut else sent[0].index(b"\r\n\r\n") + 4
    with Raw(live_api.url) as raw:
        raw.send(whole[:at])
        threading.Event().wait(0.05)  # so that it comes in two parts, as a rule
        raw.send(whole[at:])
        answers = [raw.answer() for _ in range(3)]
        assert [(answer.status, answer.json()["seq"]) for answer in answers] == [(202, 1), (202, 2), (202, 3)], answers
        assert [raw.answer().json() for _ in range(2)] == [{"status": "ok"}] * 2


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
@pytest.mark.parametrize("is_encoded", [True, False])
def test_a_body_that_is_encoded_is_refused_as_such(api: Api, encoding: str, is_encoded: bool) -> None:
    body = json.dumps(person()).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    path = f"/api/sessions/{api.new_session()}/reserve/"
    answer = api.post(path, content=gzip.compress(body) if is_encoded else body, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (415, "The body must be sent as it is, without Content-Encoding.")
    assert api.post(path, content=body, headers={**headers, "Content-Encoding": "identity"}).status_code == 202


def test_who_comes_without_a_path_is_led_to_the_documents(api: Api) -> None:
    answer = api.get("/", follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/api/docs/")


def test_a_form_that_is_none_is_told_what_it_should_be(api: Api) -> None:
    answer = api.post(f"/s/{api.new_session(public=True)}", json=person())
    assert (answer.status_code, "A form must be sent as application/x-www-form-urlencoded." in answer.text) == (415, True)
