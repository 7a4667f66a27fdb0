"""Connections below HTTP clients: whatever bytes, at whatever pace, and what comes back until the other side closes."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """One answer, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Raw:
    """One connection to a stack."""

    def __init__(self, url: str, receive_bytes: int | None = None) -> None:
        """`receive_bytes`: how much the system takes in before anybody reads it."""
        where = urlsplit(url)
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(20)
        self.socket.connect((where.hostname, where.port))
        self._left = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.socket.sendall(data)

    def answer(self) -> Answer:
        """The next answer; it must have a Content-Length. Raises AssertionError when there is none."""
        while b"\r\n\r\n" not in self._left:
            self._more()
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers.get("content-length", "0"))
        while len(self._left) < size:
            self._more()
        body, self._left = self._left[:size], self._left[size:]
        return Answer(int(first.split(" ")[1]), headers, body)

    def until(self, text: bytes) -> None:
        """Read until this has come."""
        while text not in self._left:
            self._more()

    def closed_after(self) -> float:
        """Read until the other side closes. How many seconds that took."""
        started = time.monotonic()
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        return time.monotonic() - started

    def _more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"closed; unread: {self._left!r}"
        self._left += data


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A POST of JSON; `length`: what Content-Length says of the body, if not the truth."""
    lines = [f"POST {path} HTTP/1.1", "Host: aforo", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str, *headers: str) -> bytes:
    """A GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: aforo", *headers, "", ""]).encode()
