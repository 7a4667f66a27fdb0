"""Server-sent events: one endless answer on a feed of core/streams.py, ended by whoever has a reason to.

The place that a stream takes (of its key's, or else its address's) is given back when it ends: the client is gone or does not
read, the server stops, the key is revoked, or nothing more is to be expected.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, NamedTuple, TypeVar

import falcon.asgi

from api.errors import NotAcceptable, TooManyStreams
from api.limits import waits_as
from api.requests import END, ENDED, bearer, cookie
from core import telemetry
from core.bootstrap import ApiServices
from core.signins import as_token
from core.streams import Feed, Over, Viewer

EVENT_STREAM: Final = "text/event-stream"
SIGN_OF_LIFE: Final = b":\n\n"
RETRY_MS: Final = (1000, 4000)  # when a browser is to come back: not all at once
LONGEST_ID: Final = 64
Value = TypeVar("Value")


class Event(NamedTuple):
    """One event: its name, what names this state of what is shown, its data in one line, and whether it is the last."""

    name: str
    id: str
    data: bytes
    is_last: bool = False

    def encoded(self) -> bytes:
        """As it goes over the wire."""
        return b"event: %s\nid: %s\ndata: %s\n\n" % (self.name.encode(), self.id.encode(), self.data)


def digest(data: bytes) -> str:
    """An event's id, where nothing else names the state that it shows."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def last_event_id(req: falcon.asgi.Request) -> str:
    """The id of the last event that this client has seen; empty if it has seen none."""
    return (req.get_header("Last-Event-ID") or "")[:LONGEST_ID]


def open_stream(
    services: ApiServices,
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    feed: Feed[Any, Value],
    key: Any,
    event: Callable[[Value], Event],
    token: str | None = None,
) -> None:
    """Answer with a stream; `token`: the key it is open by, if that did not come as a bearer's. Raises NotAcceptable and
    TooManyStreams."""
    if not req.client_accepts(EVENT_STREAM):
        raise NotAcceptable
    with ExitStack() as places:
        if not places.enter_context(services.waits.place(waits_as(req))):
            telemetry.WAITS_NOT_HONOURED.inc()
            raise TooManyStreams
        if token is None and req.context.caller.key_id is not None:
            token = bearer(req) or as_token(cookie(req) or "")
        viewer = feed.viewer(key, token)
        places.callback(feed.leave, viewer)
        req.scope[END] = viewer.end
        if ENDED in req.scope:
            viewer.end()
        resp.content_type = EVENT_STREAM
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Accel-Buffering", "no")
        resp.stream = EventStream(viewer, event, last_event_id(req), places.pop_all())


class EventStream:
    """The body of such an answer."""

    def __init__(self, viewer: Viewer, event: Callable[[Any], Event], last_id: str, places: ExitStack) -> None:
        self._viewer = viewer
        self._event = event
        self._last_id = last_id
        self._places = places
        self._greeting: bytes | None = b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311  no secret

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> bytes:
        if self._greeting is not None:
            greeting, self._greeting = self._greeting, None
            return greeting
        while True:
            try:
                value = await self._viewer.next()
            except Over:
                raise StopAsyncIteration from None
            if value is None:
                return SIGN_OF_LIFE
            event = self._event(value)
            if event.is_last:
                self._viewer.end()
            if event.id != self._last_id:
                self._last_id = event.id
                return event.encoded()

    async def close(self) -> None:
        """The answer is over; what it took is given back."""
        self._places.close()
