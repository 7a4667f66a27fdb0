"""How large the parts of a request may be: what is refused, that it is told, and that nothing more of it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.support.http import Api, person
from tests.support.raw import Raw, get, post
from tests.support.stack import Stack
from tests.support.waiting import until

CHUNKED = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def raw(live_api: Stack) -> Iterator[Raw]:
    """A connection to the shared stack."""
    with Raw(live_api.url) as connection:
        yield connection


def start_of_chunked(session: int) -> bytes:
    return f"POST /api/sessions/{session}/reserve/ HTTP/1.1\r\nHost: aforo\r\n{CHUNKED}".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def mebibytes_taken(raw: Raw, mebibyte: bytes) -> int:
    """How often this can be sent until the connection ends; 64 if it does not."""
    for count in range(64):
        try:
            raw.send(mebibyte)
        except ConnectionError:
            return count
    return 64


def last_seq(api: Api, session: int) -> int:
    return api.get(f"/api/sessions/{session}/").json()["last_seq"]


REFUSED = {
    "a long header": (get("/healthz", "X-Long: " + "x" * 17_000), 431, "head_too_large"),
    "a long header without an end": (b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * 20_000, 431, "head_too_large"),
    "many headers": (get("/healthz", *[f"X-{n}: 1" for n in range(100)]), 431, "head_too_large"),
    "many headers without an end": (b"GET /healthz HTTP/1.1\r\n" + b"X-A: b\r\n" * 3000, 431, "head_too_large"),
    "a long path": (get("/" + "x" * 5000), 414, "address_too_long"),
    "a long query": (get("/api/sessions/?q=" + "x" * 5000), 414, "address_too_long"),
    "a path without an end": (b"GET /" + b"x" * 20_000, 414, "address_too_long"),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request"),
    "a broken request line": (b"GET / HTTP/9.9 x\r\n\r\n", 400, "bad_request"),
    "an HTTP of before": (b"GET /healthz HTTP/0.9\r\n\r\n", 400, "bad_request"),
    "an HTTP of later": (b"GET /healthz HTTP/2.0\r\n\r\n", 400, "bad_request"),
    "a space before a colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "bad_request"),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "bad_request"),
    "a length and chunks": (post("/", b"0\r\n\r\n", "Transfer-Encoding: chunked"), 400, "bad_request"),
    "a negative length": (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "bad_request"),
    "a huge length": (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n", 400, "bad_request"),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 400, "bad_request"),
}


@pytest.mark.parametrize(("sent", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_too_large_or_no_request_is_told_and_ends_the_connection(raw: Raw, sent: bytes, status: int, code: str) -> None:
    raw.send(sent)
    answer = raw.answer()
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert raw.closed_after() < 10


def test_it_is_told_in_the_language_that_was_asked_for(raw: Raw) -> None:
    raw.send(get("/healthz", "Accept-Language: es", "X-Long: " + "x" * 17_000))
    answer = raw.answer()
    assert (answer.headers["content-language"], answer.json()["detail"][:13]) == ("es", "Las cabeceras")


def test_as_much_as_is_allowed_is_served(raw: Raw) -> None:
    raw.send(get("/healthz?" + "x" * 3900, *[f"X-{n}: {'y' * 80}" for n in range(90)]))
    assert raw.answer().status == 200
    raw.send(get("/healthz") * 50)  # more than a head in one go, but each small
    assert [raw.answer().status for _ in range(50)] == [200] * 50


def test_a_chunked_body_is_413_as_soon_as_it_is_too_long(api: Api, raw: Raw) -> None:
    session = api.new_session()
    raw.send(start_of_chunked(session))
    raw.send(chunk(b" " * 9000) + chunk(b" " * 9000))  # and no end
    answer = raw.answer()
    assert (answer.status, answer.json()["code"], answer.headers["connection"]) == (413, "body_too_large", "close")
    assert raw.closed_after() < 10
    assert last_seq(api, session) == 0


def test_a_length_that_is_too_long_is_413_at_the_first_byte_of_it(api: Api, raw: Raw) -> None:
    raw.send(post(f"/api/sessions/{api.new_session()}/reserve/", b"{", length=10**9))
    assert raw.answer().status == 413
    assert raw.closed_after() < 10


def test_a_body_of_many_megabytes_gets_its_413_and_is_not_read(api: Api, raw: Raw) -> None:
    raw.send(post(f"/api/sessions/{api.new_session()}/reserve/", b"", length=64 * 2**20))
    assert mebibytes_taken(raw, b" " * 2**20) < 64


def test_a_refused_upload_can_be_read_by_a_client_that_sends_it_whole(api: Api) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "too-large"}
    answer = api.post("/api/batches/", content=b" " * 3 * 2**20, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_small_body_that_nobody_wants_leaves_the_connection_usable(raw: Raw) -> None:
    raw.send(post("/api/nowhere/", b""))
    raw.send(post("/api/nowhere/", b"x" * 4000)[:-2000])
    assert (raw.answer().status, raw.answer().status) == (404, 404)
    raw.send(b"x" * 2000 + get("/healthz"))
    assert raw.answer().status == 200


def test_a_length_shorter_than_the_body_makes_the_rest_no_request(api: Api, raw: Raw) -> None:
    session = api.new_session()
    body = json.dumps(person()).encode()
    raw.send(post(f"/api/sessions/{session}/reserve/", body + b"and more", length=len(body)))
    assert (raw.answer().status, raw.answer().status) == (202, 400)
    assert raw.closed_after() < 10


def test_nobody_is_told_to_continue_what_was_refused(live_api: Stack, raw: Raw) -> None:
    before = live_api.api.output().count("Traceback")
    raw.send(f"POST /api/sessions/ HTTP/1.1\r\nHost: aforo\r\nExpect: 100-continue\r\n{CHUNKED}zz\r\n".encode())
    assert raw.answer().status == 400
    assert raw.closed_after() < 10
    assert live_api.api.output().count("Traceback") == before


def test_answers_that_are_due_come_before_the_refusal_of_what_follows(api: Api, raw: Raw) -> None:
    session = api.new_session()
    raw.send(post(f"/api/sessions/{session}/reserve/", json.dumps(person()).encode(), "Prefer: wait=10") + b"nonsense\r\n\r\n")
    assert (raw.answer().status, raw.answer().status) == (201, 400)


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(api: Api, live_api: Stack, whole: bool) -> None:
    session = api.new_session()
    with Raw(live_api.url) as raw:
        raw.send(start_of_chunked(session) + chunk(json.dumps(person()).encode()) + (b"0\r\n\r\n" if whole else b""))
        raw.socket.shutdown(1)
        raw.closed_after()
    if whole:
        until(lambda: last_seq(api, session) == 1)  # sent whole, so it counts, although nobody waits for the answer
    else:
        api.reserve(session)
        assert last_seq(api, session) == 1


def test_trailers_are_dropped_and_bounded(api: Api, raw: Raw) -> None:
    session = api.new_session()
    body = start_of_chunked(session) + chunk(json.dumps(person()).encode()) + b"0\r\n"
    raw.send(body + b"Idempotency-Key: x\r\nX-Request-Id: trailed\r\n\r\n")
    answer = raw.answer()
    assert (answer.status, answer.headers["x-request-id"] == "trailed") == (202, False)
    raw.send(body)
    assert mebibytes_taken(raw, b"X-A: b\r\n" * 2**17) < 64
    api.reserve(session)
    assert last_seq(api, session) == 2


def test_another_protocol_is_not_spoken_and_ends_the_connection(raw: Raw) -> None:
    raw.send(get("/healthz", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"))
    assert raw.answer().status == 200
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert raw.answer().status == 400
    assert raw.closed_after() < 10


def test_connections_are_bounded_for_each_address(stacks: Callable[..., Stack]) -> None:
    stack = stacks(api_processes="1", max_connections_per_address="5")
    several = [Raw(stack.url) for _ in range(5)]
    for one in several:
        one.send(get("/healthz"))
        assert one.answer().status == 200
    with Raw(stack.url) as sixth:
        answer = sixth.answer()
        assert (answer.status, answer.json()["code"]) == (503, "too_many_connections")
        assert int(answer.headers["retry-after"]) >= 1
    several.pop().socket.close()
    with Api(stack.url) as api:
        until(lambda: api.get("/healthz").status_code == 200)
    for one in several:
        one.socket.close()
