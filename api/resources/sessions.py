"""Sessions and their reservations: lists, details, creation, descriptive changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import falcon.asgi
import msgspec

from api.answers import reservation_answer, session_event
from api.bodies import SessionBody, SessionPatch, clean, configure_arguments, read_body
from api.kept import Detail, Kept, Listing, reservations_url
from api.limits import waits_as
from api.requests import FAILED, choice, cursor, cursor_text, idempotency_key, least_seq, number, session_id, session_search
from api.resources.commands import Commands
from api.shelf import CACHING, Page, etag_of
from api.streams import Event, open_stream
from core.bootstrap import ApiServices
from core.entries import Head
from core.errors import InvalidFields, Rearranging, UnknownSession
from core.keys import ATTENDEES, MANAGE
from core.model import CONFIGURE
from core.projections import SessionNow

Result = TypeVar("Result")

LARGEST_PAGE = 1_000_000
DESCRIPTIONS = ("title", "description", "location", "public")
REPEATED = ("available", "q", "starts_after", "starts_before", "ordering")  # in links to other pages of a list


class Sessions(Commands):
    """What the resources here share."""

    async def wait_for(self, req: falcon.asgi.Request, session: int) -> None:
        """With `min_seq`, wait until that command's effect can be seen. Raises NotYetApplied, UnknownSession."""
        seq = least_seq(req)
        if seq is not None:
            with self._services.waits.place(waits_as(req)) as free:
                await self._services.heads.applied(session, seq, wait=free)

    async def read(self, session: int, query: Callable[..., Result | None], *arguments: Any) -> Result:
        """What a query says of a session; it is not asked for one that was unknown a moment ago. Raises UnknownSession."""
        services = self._services
        found = None if await services.heads.is_unknown(session) else await services.in_thread(query, session, *arguments)
        if found is None:
            await services.heads.find(session)  # which remembers that there is none
            raise UnknownSession
        return found

    async def head(self, session: int) -> Head | None:
        """A session's counts in Redis, rebuilt from Postgres when they are missing."""
        head = await self._services.projections.head(session)
        if head is None:
            await self._services.heads.load(session)
        return head


class ShownSessions(Sessions):
    """What resources share that show sessions as they are kept."""

    def __init__(self, services: ApiServices, pages: Kept) -> None:
        super().__init__(services)
        self._pages = pages

    async def detail(self, req: falcon.asgi.Request, session: int) -> Page:
        """What shows one session, as far as the caller may see it. Raises UnknownSession, Unavailable."""
        return await self._pages.detail(Detail(session, masked(req)))


class SessionCollection(ShownSessions):
    """/api/sessions/"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """A page of sessions: those that can be booked, or all; by page number, or by cursor."""
        raise_if_failed(req)
        wanted = self._pages.remember(req.scope["query_string"], listing_of(req))
        send_page(req, resp, await self._pages.listing(wanted))

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Create a session."""
        values = clean(await read_body(req, SessionBody))
        services = self._services
        session = await services.written(services.store.create_session, values, req.context.caller.client)
        with suppress(Rearranging):
            await services.heads.load(session)  # and with it, how many partitions there are
        await services.projections.announce_creation(session)
        resp.status = 201
        resp.set_header("Location", f"/api/sessions/{session}/")
        resp.data = (await self.detail(req, session)).body


class SessionItem(ShownSessions):
    """/api/sessions/{session}/"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """One session with the first of its reservations."""
        name = session_id(session)
        raise_if_failed(req)
        await self.wait_for(req, name)
        send_page(req, resp, await self.detail(req, name))

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
        # With a head, for whoever reads the new text before it is announced announces it.
        known = not await services.heads.is_unknown(name) and await services.heads.knows(name)
        if not known or not await services.written(services.store.update_session, name, described):
            await services.heads.find(name)
            raise UnknownSession
        await services.heads.load(name)
        await services.projections.announce_change(name)
        resp.data = (await self.detail(req, name)).body


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
        if not await self._services.heads.knows(name):
            raise UnknownSession
        open_stream(self._services, req, resp, self._services.streams.sessions, name, event_of)


def event_of(now: SessionNow) -> Event:
    """What a session's stream tells of it."""
    return Event("session", str(now.version), msgspec.json.encode(session_event(now)))


def masked(req: falcon.asgi.Request) -> bool:
    """Whether names and addresses are kept from this caller."""
    return not req.context.caller.may(ATTENDEES, MANAGE)


def listing_of(req: falcon.asgi.Request) -> Listing:
    """Which page of a list is asked for. Raises InvalidFields."""
    wanted = session_search(req)
    by_cursor = req.get_param("cursor") is not None
    page = number(req, "page", 1, LARGEST_PAGE)  # a wrong one is refused, also where it is not needed
    page = 1 if by_cursor else page
    given = ((name, req.get_param(name)) for name in REPEATED)
    kept = tuple([(name, text) for name, text in given if text is not None])
    return Listing(wanted, page, number(req, "page_size", 20, 100), by_cursor, kept)


def raise_if_failed(req: falcon.asgi.Request) -> None:
    """Raises what `api.ahead` met when it tried to answer this request."""
    error = req.scope.get(FAILED)
    if error is not None:
        raise error


def send_page(req: falcon.asgi.Request, resp: falcon.asgi.Response, page: Page) -> None:
    """Answer with this page, or with 304 to whoever has it already."""
    send_unless_known(req, resp, page.body, page.etag)


def send_unless_known(req: falcon.asgi.Request, resp: falcon.asgi.Response, body: bytes, etag: str | None = None) -> None:
    """Answer with this body, or with 304 to whoever has it already."""
    resp.etag = etag or etag_of(body)
    resp.set_header("Cache-Control", CACHING)
    if any(etag in ("*", resp.etag.strip('"')) for etag in req.if_none_match or ()):
        resp.status = 304
        return
    resp.data = body
