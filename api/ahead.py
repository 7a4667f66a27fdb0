"""Reads that are answered ahead of Falcon: a session or a list whose page is on the shelf, for a caller who is known.

They are most of what a busy API is asked, and finding a route, building request and response and passing through middleware
costs several times what they need. What is not plain, here or in the request, goes the usual way; so does what fails, with what
it was counted and what it met, so that nothing is counted or waited for twice.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final, NamedTuple

from api.access import NEEDED
from api.kept import Detail, Kept, Listing
from api.limits import VERDICT
from api.middleware import REQUEST_ID, Observe, request_id
from api.requests import FAILED, WHOLE
from api.shelf import Fields
from core import telemetry
from core.bootstrap import ApiServices
from core.errors import Unavailable
from core.keys import ANYBODY, ATTENDEES, MANAGE, Caller
from core.limits import Buckets

BASE: Final = "/api/sessions"
_ID = re.compile("[1-9][0-9]{0,17}/?", re.ASCII)  # longer ones may be no ids
READERS: Final = NEEDED["/api/sessions/{session}"]["GET"]


class _Asked(NamedTuple):
    name: Detail | Listing
    caller: Caller
    etag: bytes | None
    own_id: str | None


class Ahead:
    """Answers a request at once, or leaves it to Falcon."""

    def __init__(self, services: ApiServices, pages: Kept, observe: Observe) -> None:
        settings = services.settings
        self._services = services
        self._pages = pages
        self._observe = observe
        self._is_open = settings.auth == "open"
        self._is_limited = bool(settings.rate_per_key or settings.rate_per_address)
        self._always = [(b"vary", b"Origin")] if settings.cors_origins else []

    async def answers(self, scope: dict[str, Any], send: Any) -> bool:
        """Whether this request, a GET, was answered."""
        if not scope["path"].startswith(BASE):
            return False
        started = time.monotonic()
        asked = self._asked(scope)
        if asked is None or self._pages.shelf.get(asked.name) is None:
            return False
        named = scope[REQUEST_ID] = request_id(asked.own_id)
        telemetry.request_id.set(named)
        fields = [*self._always, (b"x-request-id", named.encode())]
        try:
            if self._is_limited and not await self._passes(scope, asked.caller, fields):
                return False
            page = await self._pages.page(asked.name)
        except Exception as exc:  # also what nobody expected: the usual way says so and writes it down
            scope[FAILED] = exc
            return False
        status = 200 if asked.etag is None or asked.etag[1:-1] != page.etag.encode() else 304
        known, body = (page.fields, page.body) if status == 200 else (page.short_fields, b"")
        whole = scope.get(WHOLE)
        if whole is None or not whole(status, known.lines + Fields(*fields).lines, body):
            await send({"type": "http.response.start", "status": status, "headers": [*known.pairs, *fields]})
            await send({"type": "http.response.body", "body": body})
        self._observe.note("GET", status, scope["path"], started)
        return True

    def _asked(self, scope: dict[str, Any]) -> _Asked | None:
        """What is asked for and by whom, if that can be told at a glance."""
        own_id = etag = token = None
        for name, value in scope["headers"]:
            if name == b"if-none-match" and etag is None:
                etag = value
            elif name == b"x-request-id" and own_id is None:
                own_id = value
            elif name == b"authorization" and token is None:
                token = value
            elif name in NOT_PLAIN:
                return None
        caller = ANYBODY if self._is_open else self._caller(token)
        if caller is None or (etag is not None and not is_plain(etag)):
            return None
        name = self._name(scope["path"], scope["query_string"], caller)
        return None if name is None else _Asked(name, caller, etag, own_id.decode("latin-1") if own_id else None)

    def _caller(self, header: bytes | None) -> Caller | None:
        """Who may read and is known; all others are for `Access`."""
        scheme, _, token = (header or b"").decode("latin-1").partition(" ")
        caller = self._services.keyring.known(token.strip()) if scheme.lower() == "bearer" else None
        return caller if caller is not None and caller.may(*READERS) else None

    def _name(self, path: str, query: bytes, caller: Caller) -> Detail | Listing | None:
        """The page that is asked for, if that can be told at a glance."""
        place = path[len(BASE) + 1 :]
        if not place:
            return self._pages.listings.get(query)
        if query or path[len(BASE)] != "/" or not _ID.fullmatch(place):
            return None
        return Detail(int(place.removesuffix("/")), not caller.may(ATTENDEES, MANAGE))

    async def _passes(self, scope: dict[str, Any], caller: Caller, fields: list[tuple[bytes, bytes]]) -> bool:
        """Count the request. Whether its limits let it through."""
        client = scope.get("client")
        limiter = self._services.limiter
        buckets: Buckets = limiter.buckets(client[0] if client else "", caller.key_id)
        if not buckets:
            return True
        try:
            verdict = scope[VERDICT] = await limiter(buckets)
        except Unavailable:
            return True  # as in api/limits.py
        fields += [(b"ratelimit-policy", verdict.policies.encode()), (b"ratelimit", verdict.standing.encode())]
        return verdict.passes


NOT_PLAIN: Final = frozenset((b"if-none-match", b"x-request-id", b"authorization", b"origin"))  # twice, or from another page


def is_plain(etag: bytes) -> bool:
    """Whether If-None-Match names one answer, and no other way."""
    return len(etag) > 1 and etag[:1] == etag[-1:] == b'"' and etag.count(b'"') == 2
