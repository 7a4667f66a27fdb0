"""Requests as no HTTP client would send them, made up by hypothesis: wrong in any part, from the first byte to the framing of the
body; and often right but for one thing, so that what lies behind the parser meets them too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Request:
    """What is sent. `is_whole`: nothing more has to come before it can be answered."""

    method: bytes
    target: bytes
    head: bytes
    body: bytes
    is_whole: bool

    @property
    def sent(self) -> bytes:
        """All of it."""
        return self.head + self.body


def mostly(right: st.SearchStrategy[Any], other: st.SearchStrategy[Any], of_ten: int = 1) -> st.SearchStrategy[Any]:
    """The other one so many times of ten."""
    return st.integers(0, 9).flatmap(lambda n: other if n >= 10 - of_ten else right)


def words(text: bytes) -> st.SearchStrategy[bytes]:
    """One of the words of a text."""
    return st.sampled_from(text.split())


# What a parser of HTTP takes, and what it should not.
NUMBERS = words(b"1 0 -1 2 999999999999999999999999999999 9223372036854775807 18446744073709551616 1e400 NaN x")
ESCAPES = words(b"%00 %0d%0aX-Injected:%20yes %ff%fe %c3%b1 %zz % ..%2f..%2fetc%2fpasswd '%20OR%201=1-- {{7*7}} <b> %e2%80%ae")
MOMENTS = words(b"2031-05-01T18:00:00Z 0000-00-00T00:00:00Z 9999-12-31T23:59:59.999999999Z MS4x LTEuLTE all -id")
TAME = st.one_of(NUMBERS, ESCAPES, MOMENTS, st.just(b""), st.text("abAB01.-_~!$&'()*+,;=:@%", max_size=30).map(str.encode))
BREAKS = st.sampled_from(
    [b"\0", b"\r\n", b"\n", b"\r", b"\r\nX-Injected: yes", b"\xff\xfe", "ñ".encode(), b" ", b"\t", b"\x7f", b"\x0b"]
)
WILD = st.one_of(st.binary(min_size=1, max_size=40), BREAKS, st.integers(1, 60).map(lambda n: b"A" * n * 100))
JUNK = mostly(TAME, WILD)

COMMON_METHODS = words(b"GET GET POST POST POST PATCH DELETE")
RARE_METHODS = words(b"PUT HEAD OPTIONS TRACE CONNECT get BREW PROPFIND PRI")
PATHS = words(
    b"""/api/sessions/ /api/sessions/{session}/ /api/sessions/{session}/reservations/ /api/sessions/{session}/reserve/
    /api/sessions/{session}/cancel/ /api/sessions/{session}/close/ /api/sessions/{session}/reopen/ /api/batches/
    /api/jobs/83dcefb7-6716-8e5c-9a1b-0123456789ab /api/batches/83dcefb7-6716-8e5c-9a1b-0123456789ab /api/reservations/1
    /api/reservations/1.ics /healthz /readyz /metrics /api/schema/ /api/docs/ /docs/ / * // http://elsewhere/healthz
    /api/sessions/..%2f..%2f/ /api/docs/..%2fdocs.js /api/docs/docs.js"""
)
PLACES = st.sampled_from(
    [b"/%s", b"/api/sessions/%s", b"/api/sessions/%s/reserve/", b"/api/jobs/%s", b"/api/batches/%s", b"/api/docs/%s"]
)
TARGETS = st.one_of(PATHS, st.builds(lambda place, junk: place.replace(b"%s", junk), PLACES, JUNK))
PARAMETERS = words(b"page page_size cursor q available ordering starts_after starts_before min_seq status x")
QUERIES = st.lists(st.tuples(PARAMETERS, JUNK), max_size=4).map(lambda pairs: b"&".join(b"%s=%s" % pair for pair in pairs))
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 40 + [b"HTTP/1.0", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"", b"HTTP/1.1 x"])

NAMES = words(
    b"""Prefer Idempotency-Key Accept-Language X-Request-Id If-None-Match Authorization Cookie Accept Accept-Encoding Range Expect
    Connection Upgrade Origin Host Content-Type Content-Length Transfer-Encoding X-Forwarded-For Forwarded X-HTTP-Method-Override
    Content-Encoding TE Trailer"""
)
LIKELY = words(
    b"""wait=1 wait=99999999999 wait=-1 respond-async,wait=0 12345678 * "x" W/ es,en;q=0.5 q=;;;,,, 100-continue websocket h2c
    close gzip chunked identity,chunked text/html application/json null https://evil.example bytes=0-1"""
)
BEARERS = st.sampled_from([b"Bearer x", b"Bearer ", b"Basic eDp5", b"Bearer aforo_0123456789ab_" + b"0" * 64, b"12345678" * 20])
VALUES = st.one_of(JUNK, LIKELY, BEARERS)
HEADERS = st.lists(mostly(st.tuples(NAMES, VALUES), st.tuples(JUNK, VALUES)), max_size=3)

TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(["ana@example.org", "\0", "\ud800", "a\r\nb", "x" * 5000, "\u202e"]))
HUGE = st.sampled_from([2**63, -(2**63), 10**400, 1e308, float("nan"), float("inf")])
SCALARS = st.one_of(st.none(), st.booleans(), TEXTS, st.integers(-5, 25), st.integers(), HUGE, st.floats())
FIELDS = words(
    b"""name email seats title capacity start_time end_time waitlist_capacity on_shrink commands atomic session kind opens_at
    __proto__ NAME"""
).map(bytes.decode)
THINGS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=5), max_leaves=12
)
OBJECTS = st.dictionaries(FIELDS, THINGS, max_size=6)

PERSON = {"name": "Ana", "email": "ana@example.org"}
SESSION = {"title": "T", "start_time": "2031-05-01T18:00:00Z", "end_time": "2031-05-01T20:00:00Z", "capacity": 2}
BATCH = {"commands": [{"session": 1, "kind": "reserve", **PERSON}]}
RIGHT = st.sampled_from([PERSON, {"email": "ana@example.org", "seats": 1}, SESSION, {"capacity": 3}, BATCH, {}])
# Method, path, and a right body, if it takes one.
KNOWN: list[tuple[bytes, bytes, dict[str, Any] | None]] = [
    (b"POST", b"/api/sessions/", SESSION),
    (b"PATCH", b"/api/sessions/{session}/", {"title": "U"}),
    (b"PATCH", b"/api/sessions/{session}", {"capacity": 3, "on_shrink": "waitlist"}),
    (b"POST", b"/api/sessions/{session}/reserve/", PERSON),
    (b"POST", b"/api/sessions/{session}/reserve", {**PERSON, "seats": 2}),
    (b"POST", b"/api/sessions/{session}/cancel/", {"email": "ana@example.org"}),
    (b"POST", b"/api/sessions/{session}/close/", {}),
    (b"POST", b"/api/sessions/{session}/reopen/", {}),
    (b"POST", b"/api/batches/", BATCH),
    (b"GET", b"/api/sessions/", None),
    (b"GET", b"/api/sessions/{session}/", None),
    (b"GET", b"/api/sessions/{session}/reservations/", None),
    (b"DELETE", b"/api/reservations/1", None),
]


def as_json(thing: Any) -> bytes:
    """With whatever JSON does not have: NaN, lone surrogates, numbers of any length."""
    return json.dumps(thing, ensure_ascii=False).encode("utf-8", "surrogatepass")


BODIES = st.one_of(
    st.just(b""),
    RIGHT.map(as_json),
    st.builds(lambda right, more: as_json({**right, **more}), RIGHT, OBJECTS),
    THINGS.map(as_json),
    st.binary(max_size=200),
    st.builds(lambda right, junk: as_json(right) + junk, RIGHT, JUNK),
    st.builds(lambda right: b"\xef\xbb\xbf" + as_json(right), RIGHT),
    st.builds(lambda right: json.dumps(right).encode("utf-16"), RIGHT),
    st.sampled_from([b"[" * 10_000, b'{"a":' * 3000, b"[" * 600 + b"]" * 600, b'"' + b"x" * 20_000 + b'"']),
    st.sampled_from(
        [b'{"name":"Ana","name":"Bo","email":"a@example.org"}', b'{"seats":1e999999}', b'{"seats":1' + b"0" * 400 + b"}"]
    ),
)


@st.composite
def requests(draw: st.DrawFn, session: int, keys: tuple[str, ...]) -> Request:
    """One request, more or less hostile. `keys`: the first, which most send, opens everything, the others less."""
    if draw(st.booleans()):
        method, target, right = draw(st.sampled_from(KNOWN))
        thing = draw(BODIES if right is None else st.builds(lambda more: as_json({**right, **more}), OBJECTS | st.just({})))
    else:
        method, target = draw(mostly(COMMON_METHODS, mostly(RARE_METHODS, JUNK, 3))), draw(TARGETS)
        thing = draw(BODIES)
    target = target.replace(b"{session}", b"%d" % session)
    query = draw(QUERIES)
    target = target + b"?" + query if query else target
    headers = [(b"Host", b"aforo")] if draw(st.integers(0, 19)) else []
    if keys and draw(st.integers(0, 5)):
        headers.append((b"Authorization", b"Bearer " + draw(mostly(st.just(keys[0]), st.sampled_from(keys), 3)).encode()))
    if draw(st.integers(0, 4)):
        headers.append((b"Content-Type", b"application/json"))
    headers += draw(HEADERS)
    body, is_whole = b"", True
    if method not in (b"GET", b"HEAD") or draw(st.integers(0, 5)) == 0:
        framing, body, is_whole = draw(framed(thing))
        headers += framing
    head = b"%s %s %s\r\n" % (method, target, draw(VERSIONS)) + b"".join(b"%s: %s\r\n" % pair for pair in headers) + b"\r\n"
    return Request(method, target, head, body, is_whole)


WRONG_FRAMES = ["none", "too long", "too short", "odd", "twice", "both", "broken"]


@st.composite
def framed(draw: st.DrawFn, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes, bool]:
    """A body with its length or in chunks: mostly right, sometimes not. Headers, what is sent, and whether it is all."""
    how = draw(st.sampled_from(["length"] * 30 + ["chunks"] * 8 + WRONG_FRAMES))
    length = b"%d" % len(body)
    if how == "chunks":
        cut = draw(st.integers(0, len(body)))
        parts = [part for part in (body[:cut], body[cut:]) if part]
        chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(part), draw(st.sampled_from([b"", b";a=b"])), part) for part in parts)
        return [(b"Transfer-Encoding", b"chunked")], chunks + b"0\r\n\r\n", True
    if how == "broken":
        broken = draw(st.sampled_from([b"zz\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\n", b"5\r\nab"]))
        return [(b"Transfer-Encoding", b"chunked")], broken, False
    if how in ("none", "odd"):
        odd = draw(st.sampled_from([b"-1", b"+5", b"0x10", b"1e3", b"9" * 30, b"", b"5, 5", b"\xb2"]))
        return ([] if how == "none" else [(b"Content-Length", odd)]), body, False
    if how == "twice":
        return [(b"Content-Length", length), (b"Content-Length", b"1")], body, False
    if how == "both":
        return [(b"Content-Length", length), (b"Transfer-Encoding", b"chunked")], body, False
    more = {"length": 0, "too long": 7, "too short": -1}[how]
    return [(b"Content-Length", b"%d" % max(0, len(body) + more))], body, how == "length"
