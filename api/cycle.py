"""A request with its answer, as the server has it, and the ways an answer goes out.

It is uvicorn's, but what only an application needs is made when it is asked for: a command that is taken in ahead of Falcon
(api/intake.py) needs neither an ASGI scope nor an event to wait for, and making them took as long as parsing the request.
"""

from __future__ import annotations

import asyncio
import math
import urllib.parse
from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.requests import WHOLE

if TYPE_CHECKING:
    from api.protocol import GuardedProtocol

ANSWER, LENGTH = b"HTTP/1.1 ", b"content-length: "
ANSWERED: Any = SimpleNamespace(response_complete=True, disconnected=True, message_event=asyncio.Event())  # where there is none


class Exit:
    """The transport as an answer sees it: closing goes through the protocol, which may have to linger.

    uvloop makes a system call of each write, and uvicorn writes head and body apart: so the head of an answer whose length is
    known waits for its body.
    """

    __slots__ = ("_head", "_leave", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, leave: Callable[[], None]) -> None:
        self._transport = transport
        self._leave = leave
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send, but such a head only with what follows it."""
        if self.is_closing():  # its client has gone, which this answer has not been told yet
            self._head = b""
        elif self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data) if data else (head,))
        elif data.startswith(ANSWER) and LENGTH in data:
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Send the head that waits, if one does: nothing follows."""
        if self._head:
            head, self._head = self._head, b""
            if not self.is_closing():
                self._transport.write(head)

    def close(self) -> None:
        """The answer was the last."""
        self.flush()
        self._leave()

    def forget(self) -> None:
        """The connection is gone: let go of its protocol, or this and that would keep each other from going."""
        self._head = b""
        self._leave = self._transport.close


class Answer:
    """An application whose answer is known, for a client that is slow to take what it asked for before."""

    def __init__(self, status: int, fields: bytes, body: bytes) -> None:
        self._status = status
        self._fields = [tuple(line.split(b": ", 1)) for line in fields.split(b"\r\n")[:-1]]
        self._body = body

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        """Called by the server."""
        await send({"type": "http.response.start", "status": self._status, "headers": self._fields})
        await send({"type": "http.response.body", "body": self._body})


class Cycle(RequestResponseCycle):
    """Begun when the head is there."""

    disconnected = response_started = response_complete = False
    more_body = True
    chunked_encoding: bool | None = None
    expected_content_length: Any = 0

    flow: Any = property(attrgetter("_line.flow"))
    logger: Any = property(attrgetter("_line.logger"))
    access_logger: Any = property(attrgetter("_line.access_logger"))
    access_log: Any = property(attrgetter("_line.access_log"))
    default_headers: Any = property(attrgetter("_line.server_state.default_headers"))

    def __init__(self, line: GuardedProtocol, transport: Any, method: bytes, version: str) -> None:
        self._line = line
        self._version = version
        self._has_news = False
        self.method = method
        self.url = line.url
        self.headers = line.headers
        self.transport = transport
        self.keep_alive = version != "1.0" and line.parser.should_keep_alive()
        self.waiting_for_100_continue = line.expect_100_continue
        self.on_response = line.on_response_complete
        self.body = bytearray()

    @cached_property
    def scope(self) -> dict[str, Any]:  # type: ignore[override]
        """For an application. Raises httptools.HttpParserError or ValueError for an address that is none."""
        line = self._line
        found = httptools.parse_url(self.url)
        path = found.path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": line.asgi_version, "spec_version": "2.3"},
            "http_version": self._version,
            "server": line.server,
            "client": line.client,
            "scheme": line.scheme,
            "method": self.method.decode("ascii"),
            "root_path": line.root_path,
            "path": line.root_path + (urllib.parse.unquote(path) if "%" in path else path),
            "raw_path": line.root_path.encode("ascii") + found.path,
            "query_string": found.query or b"",
            "headers": self.headers,
            "state": line.app_state.copy(),
            WHOLE: line.whole,
        }

    def look(self) -> None:
        """Make the scope now, so that an address that is none is refused."""
        _ = self.scope

    @cached_property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """Whether there is something new for who reads the body."""
        event = asyncio.Event()
        if self._has_news:
            event.set()
        return event

    def tell(self) -> None:
        """There is: more of the body, or its end, or that of the connection."""
        if "message_event" in self.__dict__:
            self.message_event.set()
        else:
            self._has_news = True


class OldCycle(Cycle):
    """Of HTTP/1.0, which has no chunks: an answer of which nobody knows how long it will be ends with its connection."""

    async def send(self, message: Any) -> None:
        """What the application says."""
        if message["type"] == "http.response.start":
            if all(name.lower() != b"content-length" for name, _ in message["headers"]):
                self.chunked_encoding = False
                self.expected_content_length = math.inf
        elif self.expected_content_length == math.inf and not message.get("more_body", False):
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


FRAMING = (b"content-length", b"transfer-encoding")


class _Resumed:
    """What a parser tells that is to go on with a body: the head by which it knows how that is framed is nobody's news."""

    def __init__(self, line: GuardedProtocol) -> None:
        self._line = line
        self._is_head = True
        self.on_body = line.on_body
        self.on_message_complete = line.on_message_complete

    def on_message_begin(self) -> None:
        """Of the next request."""
        if not self._is_head:
            self._line.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its address."""
        if not self._is_head:
            self._line.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its fields."""
        if not self._is_head:
            self._line.on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is there, or that which is nobody's news."""
        if self._is_head:
            self._is_head = False
        else:
            self._line.on_headers_complete()


def resumed(line: GuardedProtocol, headers: list[tuple[bytes, bytes]]) -> tuple[Any, bytes]:
    """A parser that goes on with the body of a request with these header fields, and what it is to be fed first for that."""
    fields = b"".join([b"%b: %b\r\n" % pair for pair in headers if pair[0] in FRAMING])
    return httptools.HttpRequestParser(_Resumed(line)), b"POST / HTTP/1.1\r\n%b\r\n" % fields
