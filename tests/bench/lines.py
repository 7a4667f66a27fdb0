"""Keep-alive connections on one epoll, one request at a time on each, and nothing between them and the system's calls.

Load and system share the machine's cores, so what a request costs here is taken from what is measured.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

LENGTH = b"content-length: "
LENGTH_AS_OTHERS_WRITE_IT = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)")
END = b"\r\n\r\n"
READ_BYTES = 8192  # more costs more, whatever comes: the room is made for it each time
READING, WRITING = select.EPOLLIN, select.EPOLLIN | select.EPOLLOUT


def status_of(data: bytes) -> int:
    """The status of an answer that is there as a whole; 0 while something is missing."""
    end = data.find(END)
    if end < 0:
        return 0
    at = data.find(LENGTH, 0, end)
    if at >= 0:
        length = int(data[at + 16 : data.find(b"\r", at)])
    else:
        found = LENGTH_AS_OTHERS_WRITE_IT.search(data, 0, end)
        if found is None:
            raise ValueError(f"an answer without its length: {data[:end]!r}")
        length = int(found[1])
    return 0 if len(data) < end + 4 + length else int(data[9:12])


class Line:
    """One connection. `index` and `sent` are for whoever sends by it."""

    __slots__ = ("_socket", "busy", "file", "index", "kept", "recv", "send", "sent", "unsent")

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.file = connection.fileno()
        self.recv, self.send = connection.recv, connection.send
        self.busy = False
        self.kept = b""  # the beginning of an answer
        self.unsent = b""  # the end of a request
        self.index = 0
        self.sent = 0.0

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Lines:
    """All connections to one server. What happens on them is told by `wait`."""

    def __init__(
        self, url: str, ready: Callable[[Line], None], answered: Callable[[Line, int], None], lost: Callable[[Line], None]
    ) -> None:
        """Called from `wait`: `ready` once a line is connected, `answered` with the status of a whole answer, `lost` when the
        server hung up, or never let in."""
        found = urlsplit(url)
        self._address: Any = (found.hostname, found.port)
        self._family = socket.AF_INET6 if ":" in str(found.hostname) else socket.AF_INET
        self._ready, self._answered, self._lost = ready, answered, lost
        self._epoll = select.epoll()
        self._opening: set[int] = set()
        self.all: dict[int, Line] = {}

    def __len__(self) -> int:
        """How many there are, with those that are being opened."""
        return len(self.all)

    def open(self) -> None:
        """One more; it will be told when it is ready."""
        connection = socket.socket(self._family, socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect_ex(self._address)
        line = Line(connection)
        self.all[line.file] = line
        self._opening.add(line.file)
        self._epoll.register(line.file, WRITING)

    def begin(self, line: Line, request: bytes) -> None:
        """Send a request by a line that is free."""
        line.busy = True
        try:
            sent = line.send(request)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # `wait` will tell
        if sent < len(request):
            line.unsent = request[sent:]
            self._epoll.modify(line.file, WRITING)

    def wait(self, seconds: float) -> None:
        """Tell all that happened, or happens within so long, in steps of a millisecond."""
        for file, event in self._epoll.poll(max(0.0, seconds), max(1, len(self.all))):
            line = self.all[file]
            if event == select.EPOLLOUT:
                self._go_on(line)
                continue
            try:
                data = line.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._drop(line)
                continue
            if line.kept:
                data = line.kept + data
            status = status_of(data)
            if status:
                line.kept = b""
                line.busy = False
                self._answered(line, status)
            else:
                line.kept = data

    def _go_on(self, line: Line) -> None:
        """It is connected, or takes more of a long request."""
        self._epoll.modify(line.file, READING)
        if line.file in self._opening:
            self._opening.discard(line.file)
            self._ready(line)
        else:
            rest, line.unsent = line.unsent, b""
            self.begin(line, rest)

    def _drop(self, line: Line) -> None:
        self._epoll.unregister(line.file)
        self._opening.discard(line.file)
        del self.all[line.file]
        line.close()
        self._lost(line)

    def close(self) -> None:
        """Hang up everywhere."""
        for line in self.all.values():
            line.close()
        self.all.clear()
        self._epoll.close()
