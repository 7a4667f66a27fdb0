"""A reader of server-sent events, for tests: takes them in from a thread, so that a test can wait for one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.http import Api
from tests.support.waiting import until


@dataclass(frozen=True)
class Event:
    """One event."""

    name: str
    id: str
    data: Any


class Events:
    """One open stream. Leave it with `close`, or use it as a context."""

    def __init__(self, url: str, path: str, **headers: str) -> None:
        """Opens it; `is_over` when it could not be opened, with `status` and `headers` as they were answered."""
        self._api = Api(url)
        self._api.timeout = httpx.Timeout(40)
        self._request = self._api.build_request("GET", path, headers={"Accept": "text/event-stream", **headers})
        answer = self._api.send(self._request, stream=True)
        self.status, self.headers = answer.status_code, answer.headers
        self.events: list[Event] = []
        self.comments = 0
        self.is_over = False
        self._answer = answer
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, also while the thread reads."""
        with suppress(OSError):
            self._answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._reading.join(10)
        self._api.close()

    @property
    def last(self) -> Any:
        """The data of the last event; None before the first."""
        return self.events[-1].data if self.events else None

    def until(self, seconds: float = 20.0, **values: Any) -> Any:
        """The data of the last event, once it has these values."""
        return until(
            lambda: self.last if self.last and values.items() <= self.last.items() else None, seconds, f"{values}: {self.events}"
        )

    def _read(self) -> None:
        with suppress(httpx.HTTPError, httpx.StreamError, OSError, ValueError):
            self._take(self._answer.iter_lines())
        self.is_over = True

    def _take(self, lines: Iterable[str]) -> None:
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments += 1
            elif line:
                fields[name] = value
            else:
                if "data" in fields:
                    self.events.append(Event(fields["event"], fields["id"], json.loads(fields["data"])))
                fields = {}
