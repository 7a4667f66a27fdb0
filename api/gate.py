"""In front of the application: while the door is crowded, what would put something in is turned away before anything is done.

An overloaded service lives on what a refusal does not cost, and a request that is refused at the door itself costs nearly as much
as one that is accepted. Such refusals are counted, but have no line in the access log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Final

from api.errors import PROBLEM, told
from api.messages import LONGEST_HEADER, preferred
from core import telemetry
from core.door import Door
from core.errors import QueueFull

TAKING_IN: Final = re.compile(r"/api/sessions/[0-9]+/(?:reserve|cancel)/?", re.ASCII)
CLIENTS_OWN: Final = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
STATUS: Final = 503


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: Any, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer, or hand on. Pages of other origins have to be told more (api/browsers.py), so the application answers those."""
        if scope["type"] == "http" and scope["method"] == "POST" and self._door.is_crowded and TAKING_IN.fullmatch(scope["path"]):
            headers = dict(scope["headers"])
            if b"origin" not in headers:
                await _turn_away(headers, send)
                return
        await self._app(scope, receive, send)


async def _turn_away(headers: dict[bytes, bytes], send: Callable[[Any], Awaitable[None]]) -> None:
    name = headers.get(b"x-request-id", b"")
    if not CLIENTS_OWN.fullmatch(name):
        name = os.urandom(8).hex().encode()
    shown, before, after = _words(headers.get(b"accept-language", b"")[:LONGEST_HEADER])
    telemetry.REQUESTS.add("POST", str(STATUS))
    telemetry.REFUSED_AT_DOOR.add("queue_full")
    body = before + name + after
    answer = [*shown, (b"x-request-id", name), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": STATUS, "headers": answer})
    await send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=64)
def _words(accept_language: bytes) -> tuple[list[tuple[bytes, bytes]], bytes, bytes]:
    """Header fields, and the body before and after the request's id."""
    spoken = preferred(accept_language.decode("latin-1"))
    mark = "\N{REPLACEMENT CHARACTER}"
    before, after = told(QueueFull(), spoken, mark).split(mark.encode())
    headers = [
        (b"content-type", PROBLEM.encode()),
        (b"content-language", spoken.encode()),
        (b"vary", b"Accept-Language"),
        (b"cache-control", b"no-store"),
        (b"retry-after", b"%d" % QueueFull.retry_after_seconds),
    ]
    return headers, before, after
