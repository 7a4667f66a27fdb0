"""Sessions and their reservations: lists, details, creation, descriptive changes."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import falcon.asgi
import msgspec

from api.requests import choice, cursor, cursor_text, number, session_id
from api.resources.commands import OPEN_CLIENT
from api.schemas import (
    SessionBody,
    SessionPatch,
    clean,
    read_body,
    reservation_answer,
    session_answer,
    session_detail,
)
from core.bootstrap import ApiServices
from core.errors import InvalidFields, UnknownSession
from core.projections import Head
from core.queries import INLINE_RESERVATIONS

LARGEST_PAGE = 1_000_000


class Sessions:
    """What the resources here share."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def head(self, session: int) -> Head | None:
        """A session's counts in Redis, rebuilt from Postgres when they are missing."""
        head = await self._services.projections.head(session)
        if head is None:
            await self._services.load_head(session)
        return head

    async def detail(self, session: int) -> bytes:
        """The body that shows one session. Raises UnknownSession."""
        services = self._services
        found = await services.in_thread(services.queries.session_with_reservations, session)
        if found is None:
            raise UnknownSession
        view, held = found
        shown, more = held[:INLINE_RESERVATIONS], None
        if len(held) > INLINE_RESERVATIONS:
            more = reservations_url(session, cursor_text(shown[-1].seq, shown[-1].id))
        return msgspec.json.encode(session_detail(view, await self.head(session), shown, more))


class SessionCollection(Sessions):
    """/api/sessions/"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """A page of sessions: those that can be booked, or all."""
        open_only = choice(req, "available", "open", "all") == "open"
        page = number(req, "page", 1, LARGEST_PAGE)
        page_size = number(req, "page_size", 20, 100)
        services = self._services
        count, views = await services.in_thread(services.queries.sessions, open_only, page, page_size)
        heads = await asyncio.gather(*(self.head(view.id) for view in views))
        results = [session_answer(view, head) for view, head in zip(views, heads, strict=True)]
        if open_only:
            results = [session for session in results if session["available_slots"] > 0]

        def url(number: int) -> str:
            words: dict[str, Any] = {"page": number, "page_size": page_size}
            return "/api/sessions/?" + urlencode(words if open_only else {**words, "available": "all"})

        pages = -(-count // page_size)
        after = url(page + 1) if page < pages else None
        before = url(min(page - 1, pages)) if page > 1 and pages else None
        resp.data = msgspec.json.encode({"count": count, "next": after, "previous": before, "results": results})

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Create a session."""
        values = clean(await read_body(req, SessionBody))
        session = await self._services.in_thread(self._services.store.create_session, values, OPEN_CLIENT)
        resp.status = 201
        resp.set_header("Location", f"/api/sessions/{session}/")
        resp.data = await self.detail(session)


class SessionItem(Sessions):
    """/api/sessions/{session}/"""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """One session with the first of its reservations."""
        resp.data = await self.detail(session_id(session))

    async def on_patch(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Change what only describes a session."""
        services = self._services
        name = session_id(session)
        values = clean(await read_body(req, SessionPatch))
        if not values:
            raise InvalidFields({"": "name at least one field to change"})
        if not await services.in_thread(services.store.update_session, name, values):
            raise UnknownSession
        await services.load_head(name)
        resp.data = await self.detail(name)


class SessionReservations(Sessions):
    """/api/sessions/{session}/reservations/"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """All reservations of a session, by seq, a page at a time."""
        name = session_id(session)
        page_size = number(req, "page_size", 100, 1000)
        live_only = choice(req, "status", "live", "all") == "live"
        services = self._services
        rows = await services.in_thread(services.queries.reservations, name, cursor(req), page_size + 1, live_only)
        if rows is None:
            raise UnknownSession
        shown, after = rows[:page_size], None
        if len(rows) > page_size:
            words = {} if live_only else {"status": "all"}
            after = reservations_url(name, cursor_text(shown[-1].seq, shown[-1].id), page_size=page_size, **words)
        resp.data = msgspec.json.encode({"next": after, "results": [reservation_answer(row) for row in shown]})


def reservations_url(session: int, after: str, **words: Any) -> str:
    """Where the next page of reservations is."""
    return f"/api/sessions/{session}/reservations/?" + urlencode({"cursor": after, **words})
