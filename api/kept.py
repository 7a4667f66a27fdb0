"""Sessions and lists of them as rendered answers: kept on a shelf, and sent again as long as nothing of them has changed.

A request asks for a `Reading` of the words that every change moves (core/freshness.py), in a round trip that begins after it
arrived and that it shares with all others that wait. If the page was read under the same words, it is sent as it is. If only the
partition's word moved, the session's version tells whether this very session changed. Else it is read again, once for all
requests that wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec

from api.answers import session_answer, session_detail
from api.requests import cursor_text, session_cursor_text
from api.shelf import Page, Shelf
from core import telemetry
from core.bootstrap import ApiServices
from core.entries import Head
from core.errors import Rearranging, UnknownSession
from core.finding import SessionSearch
from core.freshness import Reading
from core.grouping import Grouped
from core.model import partition_of_session
from core.queries import INLINE_RESERVATIONS, ReservationView, SessionView

DETAILS_AT_ONCE: Final = 16  # read in one statement, and rendered in one go: what comes meanwhile waits for no more than that
READERS_AT_ONCE: Final = 512
QUERIES_REMEMBERED: Final = 1000


class Detail(NamedTuple):
    """The page of one session: as everybody may see it, or with the names of those who come."""

    session: int
    masked: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a list. `given`: the parameters of the query that links to other pages repeat."""

    wanted: SessionSearch
    page: int
    page_size: int
    by_cursor: bool
    given: tuple[tuple[str, str], ...]

    def link(self, **place: Any) -> str:
        """The page of the same list at this place."""
        return "/api/sessions/?" + urlencode({**place, "page_size": self.page_size, **dict(self.given)})


class Kept:
    """Gives pages that hold all that whoever asks was told of. Raises UnknownSession, Unavailable."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        self.shelf = Shelf(services.settings.read_cache_mb * 2**20)
        self.listings: dict[bytes, Listing] = {}
        self._epoch = 0
        self._details: Grouped[Detail, Page | None] = Grouped(self._read_details, DETAILS_AT_ONCE)
        self._lists: dict[Listing, Grouped[Listing, Page]] = {}  # one that takes long keeps no other waiting

    def remember(self, query: bytes, name: Listing) -> Listing:
        """This is what the query of a request asks for."""
        if len(self.listings) >= QUERIES_REMEMBERED:
            del self.listings[next(iter(self.listings))]
        self.listings[query] = name
        return name

    async def page(self, name: Detail | Listing) -> Page:
        """Either."""
        return await self.detail(name) if type(name) is Detail else await self.listing(name)  # type: ignore[arg-type]

    async def detail(self, name: Detail) -> Page:
        """One session with the first of its reservations."""
        reading = await self._reading()
        page = self.shelf.get(name)
        if page is not None:
            if page.serves(reading, time.monotonic()):
                telemetry.READS.add("kept")
                return page
            page = await self._looked_at(name, reading)
            if page is not None:
                telemetry.READS.add("looked_at")
                return page
        if await self._services.heads.is_unknown(name.session):
            raise UnknownSession
        page = await self._details(name)
        if page is None:
            await self._services.heads.find(name.session)  # which remembers that there is none
            raise UnknownSession
        telemetry.READS.add("read")
        return page

    async def listing(self, name: Listing) -> Page:
        """A page of a list."""
        reading = await self._reading()
        page = self.shelf.get(name)
        if page is not None and page.serves(reading, time.monotonic()):
            telemetry.READS.add("kept")
            return page
        page = await self._list(name)
        telemetry.READS.add("read")
        return page

    async def _reading(self) -> Reading:
        reading = await self._services.freshness()
        if reading.epoch != self._epoch:
            self._epoch = reading.epoch
            self.shelf.clear()
        return reading

    async def _looked_at(self, name: Detail, reading: Reading) -> Page | None:
        """The page on the shelf, if its session has still the version it shows, or if somebody else has put a new one there."""
        page = self.shelf.get(name)
        if page is None or not page.may_serve(reading, time.monotonic()):
            return None
        head = await self._services.projections.head(name.session)
        page = self.shelf.get(name)
        if page is None or page.serves(reading, time.monotonic()):
            return page
        if head is None or head.version > page.version or not page.may_serve(reading, time.monotonic()):
            return None
        page.renew(reading)
        return page

    async def _read_details(self, names: Sequence[Detail]) -> Sequence[Page | Exception | None]:
        """Read sessions for all that wait for them, each once."""
        services, reading = self._services, self._services.freshness.latest
        sessions = sorted({name.session for name in names})
        found = await services.in_thread(services.queries.sessions_with_reservations, sessions)
        heads = dict(zip(found, await asyncio.gather(*(self._head(view, True) for view, _ in found.values())), strict=True))
        pages: dict[Detail, Page] = {}
        for name in dict.fromkeys(names):
            if name.session in found:
                view, held = found[name.session]
                body = rendered(view, heads[name.session], held, name.masked)
                partition = partition_of_session(view.id, len(reading.words))
                pages[name] = Page(body, reading, partition, view.version)
                self.shelf.put(name, pages[name])
        return [pages.get(name) for name in names]

    async def _list(self, name: Listing) -> Page:
        lists = self._lists.get(name)
        if lists is None:
            lists = self._lists[name] = Grouped(self._read_list, READERS_AT_ONCE)
        try:
            return await lists(name)
        finally:
            if lists.is_idle and self._lists.get(name) is lists:
                del self._lists[name]

    async def _read_list(self, names: Sequence[Listing]) -> Sequence[Page]:
        """Read a list for all that wait for it."""
        services, reading, began, name = self._services, self._services.freshness.latest, time.monotonic(), names[0]
        offset = (name.page - 1) * name.page_size
        count, found, seconds = await services.in_thread(services.queries.sessions, name.wanted, name.page_size + 1, offset)
        views = found[: name.page_size]
        heads = await asyncio.gather(*(self._head(view, False) for view in views))
        body = listed(name, count, views, heads, more=len(found) > name.page_size)
        page = Page(body, reading, None, until=None if seconds is None else began + seconds)
        self.shelf.put(name, page)
        return [page] * len(names)

    async def _head(self, view: SessionView, load: bool) -> Head | None:
        """A session's counts in Redis. They are put right where they are older than what was read just now: nobody who reads
        after us, through whichever process, is to see less than we show. With `load`, also where there are none."""
        head = await self._services.projections.head(view.id)
        if load if head is None else head.version < view.version:
            with suppress(Rearranging):  # nothing is kept meanwhile
                await self._services.heads.load(view.id)
        return head


def rendered(view: SessionView, head: Head | None, held: list[ReservationView], masked: bool) -> bytes:
    """The body that shows one session; `held`: one reservation more than are shown, if there are more."""
    shown, more = held[:INLINE_RESERVATIONS], None
    if len(held) > INLINE_RESERVATIONS:
        more = reservations_url(view.id, cursor_text(shown[-1].seq, shown[-1].id))
    return msgspec.json.encode(session_detail(view, head, shown, more, masked))


def listed(name: Listing, count: int, views: list[SessionView], heads: Sequence[Head | None], more: bool) -> bytes:
    """The body that shows a page of a list; `more`: there is one after it."""
    results = [session_answer(view, head) for view, head in zip(views, heads, strict=True)]
    if name.wanted.open_only:
        results = [session for session in results if session["available_slots"] > 0 and session["state"] == "open"]
    before = None
    if name.by_cursor:
        last = session_cursor_text(name.wanted.ordering, views[-1].start_time, views[-1].id) if views else ""
        after = name.link(cursor=last) if more else None
    else:
        after = name.link(page=name.page + 1) if more else None
        if name.page > 1 and count:
            before = name.link(page=min(name.page - 1, max(1, -(-count // name.page_size))))
    return msgspec.json.encode({"count": count, "next": after, "previous": before, "results": results})


def reservations_url(session: int, after: str, **words: Any) -> str:
    """Where the next page of reservations is."""
    return f"/api/sessions/{session}/reservations/?" + urlencode({"cursor": after, **words})
