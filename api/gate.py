"""In front of the application: while the process cannot keep up, who wants to put something in is turned away before all else.

An overloaded service lives on what a refusal does not cost, and a request that is refused at the door itself costs nearly as much
as one that is accepted. So most are refused by the server's protocol (api/protocol.py), which finds the gate in its state and
asks it as soon as a request's head is there. Such refusals are counted, but have no line in the access log.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from api.errors import PROBLEM, told
from api.messages import LONGEST_HEADER, preferred
from api.requests import TAKEN_IN
from core import telemetry
from core.door import Door
from core.errors import QueueFull

GATE: Final = "aforo.gate"  # in the server's state
TAKING_IN: Final = re.compile(r"/api/sessions/[0-9]+/(?:reserve|cancel)/?", re.ASCII)
TAKING_IN_AS_SENT: Final = re.compile(TAKING_IN.pattern.encode())
CLIENTS_OWN: Final = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
STATUS: Final = 503
LOOK_SECONDS: Final = 0.01


class _Words(NamedTuple):
    """Header fields as pairs and as lines, and the body before and after the request's id."""

    fields: list[tuple[bytes, bytes]]
    lines: bytes
    before: bytes
    after: bytes


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: Any, door: Door) -> None:
        self._app = app
        self._door = door
        self._is_looking = False
        self._has_news = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer, or hand on. Pages of other origins have to be told more (api/browsers.py), so the application answers those.
        Who was at the door already (api/intake.py) is to be told what was met there."""
        if scope["type"] == "lifespan":
            scope.get("state", {})[GATE] = self
        elif scope["method"] == "POST" and TAKING_IN.fullmatch(scope["path"]) and TAKEN_IN not in scope and self.is_shut():
            found = refusal(scope["headers"])
            if found is not None:
                fields, _, body = found
                await send({"type": "http.response.start", "status": STATUS, "headers": fields})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)

    def is_shut(self) -> bool:
        """Whether who comes now is turned away."""
        self._has_news = True
        if not self._is_looking:
            self._is_looking = True
            self._look_later(time.monotonic())
        return self._door.is_full

    def _look(self, due: float) -> None:
        """How late the loop is shows in how late this is called."""
        now = time.monotonic()
        self._door.look(now - due)
        self._is_looking = self._has_news or self._door.is_limited
        self._has_news = False
        if self._is_looking:
            self._look_later(now)

    def _look_later(self, now: float) -> None:
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look, now + LOOK_SECONDS)


def refusal(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bytes, bytes] | None:
    """Header fields as pairs, the same as lines, and the body, for a request with these headers; counted. None if the application
    must tell it."""
    name = spoken = b""
    for field, value in headers:
        if field == b"origin":
            return None
        if field == b"x-request-id":
            name = value
        elif field == b"accept-language":
            spoken = value
    if not CLIENTS_OWN.fullmatch(name):
        name = os.urandom(8).hex().encode()
    words = _words(spoken[:LONGEST_HEADER])
    telemetry.REQUESTS.add("POST", str(STATUS))
    telemetry.REFUSED_AT_DOOR.add("queue_full")
    body = words.before + name + words.after
    length = b"%d" % len(body)
    fields = [*words.fields, (b"x-request-id", name), (b"content-length", length)]
    return fields, b"%bx-request-id: %b\r\ncontent-length: %b\r\n" % (words.lines, name, length), body


@lru_cache(maxsize=64)
def _words(accept_language: bytes) -> _Words:
    spoken = preferred(accept_language.decode("latin-1"))
    mark = "\N{REPLACEMENT CHARACTER}"
    before, after = told(QueueFull(), spoken, mark).split(mark.encode())
    fields = [
        (b"content-type", PROBLEM.encode()),
        (b"content-language", spoken.encode()),
        (b"vary", b"Accept-Language"),
        (b"cache-control", b"no-store"),
        (b"retry-after", b"%d" % QueueFull.retry_after_seconds),
    ]
    return _Words(fields, b"".join([b"%b: %b\r\n" % pair for pair in fields]), before, after)
