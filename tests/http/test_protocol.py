"""What HTTP wants of any server: heads, old versions, encodings, and that its first page leads somewhere."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from tests.support.http import Api, person
from tests.support.raw import Raw, get
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
