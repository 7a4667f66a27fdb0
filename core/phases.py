"""What the clock makes of a session for somebody who wants to come: whether it is too early, time, or too late.

A page that is open shows when that changes, though nothing happens then: `PageReader` reads a session with its phase, and says
when the next one begins, so that whoever looks is told at that moment, by this server's clock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from core.entries import Head, SessionHead
from core.model import Session
from core.projections import SessionNow
from core.queries import SessionView

NOT_OPEN: Final = "not_open"
OPEN: Final = "open"
CLOSED: Final = "closed"
STARTED: Final = "started"
OVER: Final = "over"

VIEW_SECONDS: Final = 1.0  # a session's times and words are read from Postgres no more often than this
VIEWS_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class PageNow:
    """A session as its page shows it: its words and times, the newest of its counters, its phase. `lags`: its words and times are
    of before its counters, so they may have changed as well."""

    view: SessionView
    now: SessionHead | Session
    phase: str
    lags: bool = False


def phase_of(view: SessionView, at: datetime) -> str:
    """What the clock says: not_open, open, closed, started or over."""
    if at >= view.end_time:
        return OVER
    if at >= view.start_time:
        return STARTED
    if view.closes_at is not None and at >= view.closes_at:
        return CLOSED
    return NOT_OPEN if view.opens_at is not None and at < view.opens_at else OPEN


def seconds_to_next(view: SessionView, at: datetime) -> float | None:
    """How long until one of its times comes; None if none will."""
    times = (view.opens_at, view.closes_at, view.start_time, view.end_time)
    return min(((one - at).total_seconds() for one in times if one is not None and one > at), default=None)


def turns(page: PageNow) -> float | None:
    """The same of a page, from now; or sooner, if it lags."""
    seconds = seconds_to_next(page.view, datetime.now(UTC))
    return seconds if not page.lags else VIEW_SECONDS if seconds is None else min(seconds, VIEW_SECONDS)


def newer(view: SessionView, head: Head | SessionNow | None) -> SessionHead | Session:
    """The newer of a session's row and its head in Redis."""
    return view.decided() if head is None or head.version <= view.version else head.now


class PageReader:
    """Reads public sessions for all who look at their pages. Raises Unavailable."""

    def __init__(
        self,
        head: Callable[[int], Awaitable[SessionNow | None]],
        view: Callable[[int], Awaitable[SessionView | None]],
    ) -> None:
        self._head = head
        self._view = view
        self._views: OrderedDict[int, tuple[float, SessionView | None]] = OrderedDict()

    async def __call__(self, session_id: int) -> PageNow | None:
        """A session as it is now; None if it has no page (any more)."""
        head = await self._head(session_id)
        view = await self._kept(session_id)
        if head is None or view is None or not view.public:
            return None
        return PageNow(view, newer(view, head), phase_of(view, datetime.now(UTC)), head.version > view.version)

    async def _kept(self, session_id: int) -> SessionView | None:
        read_at, view = self._views.get(session_id, (0.0, None))
        began = time.monotonic()
        if view is None or began - read_at >= VIEW_SECONDS:
            view = await self._view(session_id)
            self._views[session_id] = (began, view)
            self._views.move_to_end(session_id)
            if len(self._views) > VIEWS_KEPT:
                self._views.popitem(last=False)
        return view
