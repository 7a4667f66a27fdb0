"""Around every request: an id, a metric, one log line. The line names the job, never a person."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from functools import lru_cache
from typing import Any

import falcon.asgi
import msgspec

from core import telemetry
from core.bootstrap import ApiServices

_CLIENTS_OWN = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_ID = "(?:[0-9]{1,19}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
FLUSH_SECONDS = 0.1
REQUEST_ID = "aforo.request_id"  # in a request's scope: the id it has already
STARTED = "aforo.started"  # in a request's scope: when it came, if it was held for long before it came to Falcon


@lru_cache
def _shape(template: str) -> re.Pattern[str]:
    """What a path of this route looks like when all that is not fixed are ids: numbers, UUIDs."""
    return re.compile(re.sub(r"\\{\w+\\}", _ID, re.escape(template)) + "/?", re.ASCII)


def shown_path(path: str, template: str | None) -> str | None:
    """A path as it may be logged: whole where it holds nothing but ids, else its route, else nothing. People type anything."""
    if template is None:
        return None
    return path if _shape(template).fullmatch(path) else template


class Line(msgspec.Struct, gc=False):
    """What the access log says of a request."""

    level: str
    event: str
    process: str
    at: float
    request_id: str | None
    method: str
    path: str | None
    status: int
    job_id: str | None
    ms: float


class AccessLog:
    """One JSON line a request, written in groups: a line by itself would cost more than accepting a command."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def write(self, line: Line) -> None:
        """Add a line."""
        self._lines.append(line)

    def flush(self) -> None:
        """Write out what is there."""
        lines, self._lines = self._lines, []
        if lines:
            sys.stderr.buffer.write(_encoder.encode_lines(lines))
            sys.stderr.buffer.flush()


_encoder = msgspec.json.Encoder()


class Observe:
    """Request ids, metrics and the access log."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        self._log = AccessLog() if services.settings.log_level in ("debug", "info") else None
        self._flush_is_due = False

    async def process_startup(self, _scope: Any, _event: Any) -> None:
        """The server begins: start what lives in the event loop."""
        await self._services.start()

    async def process_shutdown(self, _scope: Any, _event: Any) -> None:
        """The last request is answered: close everything."""
        await self._services.stop()
        self._flush()

    def _flush(self) -> None:
        """What is noted of requests goes out in groups, within a tenth of a second."""
        self._flush_is_due = False
        telemetry.flush_tallies()
        if self._log:
            self._log.flush()

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Take over the client's X-Request-Id, or make one."""
        name = req.scope.get(REQUEST_ID) or request_id(req.get_header("X-Request-Id"))
        telemetry.request_id.set(name)
        req.context.started = req.scope.get(STARTED) or time.monotonic()
        req.context.job_id = None
        resp.set_header("X-Request-Id", name)
        resp.set_header("Cache-Control", "no-store")  # unless a resource knows better

    async def process_response(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, _resource: Any, _ok: bool) -> None:
        """Count and log."""
        path = shown_path(req.path, req.uri_template) if self._log else None
        self.note(req.method, resp.status_code, path, req.context.started, req.context.job_id)

    def note(
        self, method: str, status: int, path: str | None, started: float, job_id: str | None = None, named: str | None = None
    ) -> None:
        """Count and log an answer; `path` as it may be logged, `named` as the request is, if that is not in its context."""
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)
        telemetry.REQUESTS.add(method, str(status))
        if self._log:
            now, ms = time.time(), round((time.monotonic() - started) * 1000, 2)
            named = named or telemetry.request_id.get()
            self._log.write(Line("info", "request", "api", now, named, method, path, status, job_id, ms))


def request_id(given: str | None) -> str:
    """The client's own, if it may be one, or a new one."""
    return given if given and _CLIENTS_OWN.fullmatch(given) else os.urandom(8).hex()
