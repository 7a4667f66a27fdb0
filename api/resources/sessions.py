"""Sessions and their reservations: lists, details, creation, descriptive changes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

import falcon.asgi
import msgspec

from api.limits import waits_as
from api.requests import (
    choice,
    cursor,
    cursor_text,
    idempotency_key,
    least_seq,
    number,
    session_cursor_text,
    session_id,
    session_search,
)
from api.resources.commands import Commands
from api.schemas import (
    SessionBody,
    SessionPatch,
    clean,
    configure_arguments,
    read_body,
    reservation_answer,
    session_answer,
    session_detail,
    session_event,
)
from api.streams import Event, open_stream
from core.errors import InvalidFields, UnknownSession
from core.keys import ATTENDEES, MANAGE
from core.model import CONFIGURE
from core.projections import Head, SessionNow
from core.queries import INLINE_RESERVATIONS

Result = TypeVar("Result")

LARGEST_PAGE = 1_000_000
DESCRIPTIONS = ("title", "description", "location", "public")


class Sessions(Commands):
    """What the resources here share."""

    async def wait_for(self, req: falcon.asgi.Request, session: int) -> None:
        """With `min_seq`, wait until that command's effect can be seen. Raises NotYetApplied, UnknownSession."""
        seq = least_seq(req)
        if seq is not None:
            with self._services.waits.place(waits_as(req)) as free:
                await self._services.applied(session, seq, wait=free)

    async def head(self, session: int) -> Head | None:
        """A session's counts in Redis, rebuilt from Postgres when they are missing."""
        head = await self._services.projections.head(session)
        if head is None:
            await self._services.load_head(session)
        return head

    async def read(self, session: int, query: Callable[..., Result | None], *arguments: Any) -> Result:
        """What a query says of a session; it is not asked for one that was unknown a moment ago. Raises UnknownSession."""
        services = self._services
        found = None if await services.is_unknown(session) else await services.in_thread(query, session, *arguments)
        if found is None:
            await services.find_session(session)  # which remembers that there is none
            raise UnknownSession
        return found

    async def detail(self, req: falcon.asgi.Request, session: int) -> bytes:
        """The body that shows one session, as far as the caller may see it. Raises UnknownSession."""
        view, held = await self.read(session, self._services.queries.session_with_reservations)
        shown, more = held[:INLINE_RESERVATIONS], None
        if len(held) > INLINE_RESERVATIONS:
            more = reservations_url(session, cursor_text(shown[-1].seq, shown[-1].id))
        return msgspec.json.encode(session_detail(view, await self.head(session), shown, more, masked(req)))


class SessionCollection(Sessions):
    """/api/sessions/"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """A page of sessions: those that can be booked, or all; by page number, or by cursor."""
        wanted = session_search(req)
        by_cursor = req.get_param("cursor") is not None
        page = number(req, "page", 1, LARGEST_PAGE)  # a wrong one is refused, also where it is not needed
        page = 1 if by_cursor else page
        page_size = number(req, "page_size", 20, 100)
        services = self._services
        found = await services.in_thread(services.queries.sessions, wanted, page_size + 1, (page - 1) * page_size)
        count, views = found[0], found[1][:page_size]
        heads = await asyncio.gather(*(self.head(view.id) for view in views))
        results = [session_answer(view, head) for view, head in zip(views, heads, strict=True)]
        if wanted.open_only:
            results = [session for session in results if session["available_slots"] > 0 and session["state"] == "open"]
        more = len(found[1]) > page_size
        links = _Links(req, page_size)
        if by_cursor:
            last = session_cursor_text(wanted.ordering, views[-1].start_time, views[-1].id) if views else ""
            after, before = links.to(cursor=last) if more else None, None
        else:
            after = links.to(page=page + 1) if more else None
            before = links.to(page=min(page - 1, max(1, -(-count // page_size)))) if page > 1 and count else None
        body = msgspec.json.encode({"count": count, "next": after, "previous": before, "results": results})
        send_unless_known(req, resp, body)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Create a session."""
        values = clean(await read_body(req, SessionBody))
        services = self._services
        session = await services.written(services.store.create_session, values, req.context.caller.client)
        await services.projections.announce_creation()
        resp.status = 201
        resp.set_header("Location", f"/api/sessions/{session}/")
        resp.data = await self.detail(req, session)


class SessionItem(Sessions):
    """/api/sessions/{session}/"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """One session with the first of its reservations."""
        name = session_id(session)
        await self.wait_for(req, name)
        send_unless_known(req, resp, await self.detail(req, name))

    async def is_replay(self, req: falcon.asgi.Request, session: str) -> bool:
        """Whether it repeats a known job."""
        return req.method == "PATCH" and await self.knows(req, CONFIGURE, session)

    async def on_patch(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Change what only describes a session, at once; or its settings, as a command."""
        name = session_id(session)
        idempotency_key(req)  # a malformed one is refused, also where it is not needed
        values = clean(await read_body(req, SessionPatch))
        described = {key: value for key, value in values.items() if key in DESCRIPTIONS}
        if not values.keys() - {"on_shrink"}:
            raise InvalidFields({"": "name at least one field to change"})
        if not described:
            await self.submit(req, resp, name, CONFIGURE, configure_arguments(values))
            return
        if len(described) < len(values):
            mixed = "is a setting, which takes its turn in the session's order; change it in a request of its own"
            raise InvalidFields({key: mixed for key in values if key not in described})
        services = self._services
        if await services.is_unknown(name) or not await services.written(services.store.update_session, name, described):
            await services.find_session(name)
            raise UnknownSession
        await services.load_head(name)
        resp.data = await self.detail(req, name)


class SessionReservations(Sessions):
    """/api/sessions/{session}/reservations/"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """All reservations of a session, by seq, a page at a time."""
        name = session_id(session)
        page_size = number(req, "page_size", 100, 1000)
        live_only = choice(req, "status", "live", "all") == "live"
        services = self._services
        await self.wait_for(req, name)
        view, rows = await self.read(name, services.queries.reservations, cursor(req), page_size + 1, live_only)
        shown, after = rows[:page_size], None
        if len(rows) > page_size:
            words = {} if live_only else {"status": "all"}
            after = reservations_url(name, cursor_text(shown[-1].seq, shown[-1].id), page_size=page_size, **words)
        results = [reservation_answer(row, masked(req)) for row in shown]
        body = msgspec.json.encode({"next": after, "as_of_seq": view.last_seq, "results": results})
        send_unless_known(req, resp, body)


class SessionEvents(Sessions):
    """GET /api/sessions/{session}/events"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """The session's counts, now and whenever they change."""
        name = session_id(session)
        if not await self._services.knows_session(name):
            raise UnknownSession
        open_stream(self._services, req, resp, self._services.streams.sessions, name, event_of)


def event_of(now: SessionNow) -> Event:
    """What a session's stream tells of it."""
    return Event("session", str(now.version), msgspec.json.encode(session_event(now)))


def masked(req: falcon.asgi.Request) -> bool:
    """Whether names and addresses are kept from this caller."""
    return not req.context.caller.may(ATTENDEES, MANAGE)


def reservations_url(session: int, after: str, **words: Any) -> str:
    """Where the next page of reservations is."""
    return f"/api/sessions/{session}/reservations/?" + urlencode({"cursor": after, **words})


class _Links:
    """Links to other pages of the same list."""

    def __init__(self, req: falcon.asgi.Request, page_size: int) -> None:
        kept = {name: req.get_param(name) for name in ("available", "q", "starts_after", "starts_before", "ordering")}
        self._words = {"page_size": page_size, **{name: text for name, text in kept.items() if text is not None}}

    def to(self, **place: Any) -> str:
        """The page at this place."""
        return "/api/sessions/?" + urlencode({**place, **self._words})


def send_unless_known(req: falcon.asgi.Request, resp: falcon.asgi.Response, body: bytes) -> None:
    """Answer with this body, or with 304 to whoever has it already."""
    resp.etag = hashlib.blake2b(body, digest_size=12).hexdigest()
    resp.set_header("Cache-Control", "private, no-cache")  # it may name people, and depends on who asks
    if any(etag in ("*", resp.etag.strip('"')) for etag in req.if_none_match or ()):
        resp.status = 304
        return
    resp.data = body
