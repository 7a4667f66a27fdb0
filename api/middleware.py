"""Around every request: an id, a metric, one log line. The line names the job, never a person."""

from __future__ import annotations

import asyncio
import re
import secrets
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


@lru_cache
def _shape(template: str) -> re.Pattern[str]:
    """What a path of this route looks like when all that is not fixed are ids: numbers, UUIDs."""
    return re.compile(re.sub(r"\\{\w+\\}", _ID, re.escape(template)) + "/?", re.ASCII)


def shown_path(path: str, template: str | None) -> str | None:
    """A path as it may be logged: whole where it holds nothing but ids, else its route, else nothing. People type anything."""
    if template is None:
        return None
    return path if _shape(template).fullmatch(path) else template


class AccessLog:
    """One JSON line a request, written in groups: a line by itself would cost more than accepting a command."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def write(self, **fields: Any) -> None:
        """Add a line."""
        self._lines.append(msgspec.json.encode(fields))

    def flush(self) -> None:
        """Write out what is there."""
        lines, self._lines = self._lines, []
        if lines:
            sys.stderr.buffer.write(b"\n".join(lines) + b"\n")
            sys.stderr.buffer.flush()


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
        given = req.get_header("X-Request-Id")
        name = given if given and _CLIENTS_OWN.fullmatch(given) else secrets.token_hex(8)
        telemetry.request_id.set(name)
        req.context.started = time.monotonic()
        req.context.job_id = None
        resp.set_header("X-Request-Id", name)
        resp.set_header("Cache-Control", "no-store")  # unless a resource knows better

    async def process_response(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, _resource: Any, _ok: bool) -> None:
        """Count and log."""
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)
        telemetry.REQUESTS.add(req.method, str(resp.status_code))
        if self._log:
            context = req.context
            self._log.write(
                level="info",
                event="request",
                process="api",
                at=time.time(),
                request_id=telemetry.request_id.get(),
                method=req.method,
                path=shown_path(req.path, req.uri_template),
                status=resp.status_code,
                job_id=context.job_id,
                ms=round((time.monotonic() - context.started) * 1000, 2),
            )
