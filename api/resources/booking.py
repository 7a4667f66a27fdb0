"""The booking page: a session that is public, for anybody with a browser, with JavaScript or without.

Whoever reserves here is of the built-in client `web`. A form is sent by POST and answered by the way to another page, which
shows the outcome; with JavaScript it takes this page's place and follows its stream, without it the server waits first. What
belongs to one person only opens with a token that the page before gave out.
"""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from api.bodies import ReserveBody, reserve_arguments
from api.forms import is_ours, key_of, new_token, read_form
from api.limits import address_of
from api.pages import booking
from api.pages.errors import send, spoken
from api.pages.markup import Markup
from api.pages.words import say
from api.requests import job_id, reservation_id, session_id
from api.resources.reservations import calendar
from api.resources.sessions import Sessions
from api.streams import Event, digest, last_event_id, open_stream
from core.bootstrap import ApiServices
from core.errors import IdempotencyKeyReused, InvalidFields, UnknownJob, UnknownReservation, UnknownSession
from core.model import CANCEL, RESERVE, Arguments, CancelArguments, Job, holder
from core.phases import NOT_OPEN, PageNow, newer, phase_of
from core.projections import JobNow
from core.queries import OwnReservation, SessionView
from core.validation import NAME_MAX

CLIENT: Final = "web"
WAIT_SECONDS: Final = 8.0  # that a form without JavaScript waits for its outcome
ASYNC: Final = "respond-async"
DRAWN_KEPT: Final = 1000
_SEATS = re.compile(r"[0-9]{1,3}", re.ASCII)


class Booking(Sessions):
    """What the pages share."""

    async def public(self, session: str) -> tuple[SessionView, booking.Counts]:
        """A session that has a page, and its counts. Raises UnknownSession, also for one that is not public."""
        name = session_id(session)
        view = await self.read(name, self._services.queries.session)
        if not view.public:
            raise UnknownSession
        return view, await self.counts(view)

    async def counts(self, view: SessionView) -> booking.Counts:
        """The newer of a session's row and its head in Redis."""
        return newer(view, await self.head(view.id))

    def token_of(self, job: str) -> str:
        """What opens the page of a job."""
        return self._services.page_token("job", job)

    def job_url(self, session: int, job: str, language: str) -> str:
        """The page of a job."""
        return booking.url(f"/s/{session}/jobs/{job}", language, key=self.token_of(job))

    async def sent(
        self, req: falcon.asgi.Request, session: int, kind: str, arguments: Arguments, client: str, key: str
    ) -> Job:
        """Submit what a form asks for; unless a script sent it, with its outcome if that comes in time."""
        services = self._services
        draft = services.submit.draft(kind, session, arguments, client, key)
        req.context.job_id = draft.id
        waits = ASYNC not in (req.get_header("Prefer") or "")
        with services.waits.place(address_of(req)) as free, services.followers.waiter(draft.id) as waiter:
            job = (await self._accepted(req, draft, arguments, keyed=True)).job
            if waits and free and job.outcome is None:
                job = await waiter.outcome(WAIT_SECONDS) or job
        return job


class BookingPage(Booking):
    """/s/{session}"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """The session, and the form."""
        view, now = await self.public(session)
        self._show(req, resp, view, now)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """Reserve: on to the page that shows what becomes of it, or back to the form with what is wrong."""
        given = await read_form(req)
        view, now = await self.public(session)
        language = spoken(req)
        key = key_of(given.get("form", ""), self._services.page_token) if is_ours(req) else None
        shape, most = shape_now(view, now), booking.most_seats(view, now)
        try:
            arguments = reserve_arguments(body_of(given))
            if arguments.seats > most:
                raise InvalidFields({"seats": "is too many"})
        except InvalidFields as exc:
            self._show(req, resp, view, now, 422, given=given, wrong=wrong_words(exc, most, language))
            return
        if key is None:
            self._show(req, resp, view, now, 403, given=given, trouble=say("form_old", language))
            return
        if shape == "waitlist" and not given.get("wait"):
            self._show(req, resp, view, now, 409, given={**given, "wait": ""}, trouble=say("must_wait", language))
            return
        try:
            job = await self.sent(req, view.id, RESERVE, arguments, CLIENT, key)
        except IdempotencyKeyReused:
            self._show(req, resp, view, now, 409, given=given, trouble=say("form_old", language))
            return
        raise falcon.HTTPSeeOther(self.job_url(view.id, job.id, language))

    def _show(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        view: SessionView,
        now: booking.Counts,
        status: int = 200,
        **more: Any,
    ) -> None:
        language, shape = spoken(req), shape_now(view, now)
        main = booking.session(view, now, shape, language, new_token(self._services.page_token), **more)
        head = booking.opening_head(view, datetime.now(UTC)) if shape == NOT_OPEN else None
        send(resp, booking.page(view.title, main, language, partial(booking.url, f"/s/{view.id}"), head), language, status)


class BookingEvents(Booking):
    """GET /s/{session}/events"""

    def __init__(self, services: ApiServices) -> None:
        super().__init__(services)
        self._kept: dict[tuple[int, str, bool], tuple[PageNow, Event]] = {}  # drawn once for all who are given the same

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str) -> None:
        """The places of the page, now and whenever they change, or the clock changes what they are to anybody."""
        view, _ = await self.public(session)
        language = spoken(req)

        def event(page: PageNow) -> Event:
            is_known = booking.told_of(page.view) == booking.told_of(view)
            return self._drawn(page, language, is_known)

        open_stream(self._services, req, resp, self._services.streams.pages, view.id, event)

    def _drawn(self, page: PageNow, language: str, is_known: bool) -> Event:
        """The event of a page as it is; `is_known`: without its heading."""
        name = (page.view.id, language, is_known)
        kept = self._kept.get(name)
        if kept is not None and kept[0] is page:
            return kept[1]
        shape = booking.shape_of(page.now, page.phase)
        heading = None if is_known else booking.heading(page.view, language)
        drawn = _part("places", booking.places(page.view, page.now, shape, language), shape, False, heading)
        if len(self._kept) >= DRAWN_KEPT:
            self._kept.clear()
        self._kept[name] = (page, drawn)
        return drawn


class OutcomePage(Booking):
    """/s/{session}/jobs/{job}"""

    async def job(self, req: falcon.asgi.Request, session: str, job: str) -> JobNow:
        """A job of this session, for whoever was given its page. Raises UnknownJob."""
        name = job_id(job)
        if not hmac.compare_digest((req.get_param("key") or "").encode(), self.token_of(name).encode()):
            raise UnknownJob
        now = await self._services.jobs.now(name)
        if now is None or str(now.job.session_id) != session:
            raise UnknownJob
        req.context.job_id = name
        return now

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str, job: str) -> None:
        """What became of a form that was sent."""
        now = await self.job(req, session, job)
        language, name = spoken(req), now.job.id
        path = f"/s/{session}/jobs/{name}"
        events = booking.url(f"{path}/events", language, key=self.token_of(name))
        inner = booking.outcome(now, language, self._services.manage_token)
        view = await self.read(now.job.session_id, self._services.queries.session)
        main = booking.followed(now, inner, events, view, language)
        switch = partial(booking.url, path, key=self.token_of(name))
        send(resp, booking.page(view.title, main, language, switch, booking.waiting_head(now)), language)


class OutcomeEvents(OutcomePage):
    """GET /s/{session}/jobs/{job}/events"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str, job: str) -> None:
        """The same, now and whenever it changes."""
        now, language = await self.job(req, session, job), spoken(req)

        def event(now: JobNow) -> Event:
            inner = booking.outcome(now, language, self._services.manage_token)
            return _part("outcome", inner, booking.shape_of_job(now), now.is_final)

        if now.is_final and event(now).id == last_event_id(req):
            resp.status = 204
            return
        open_stream(self._services, req, resp, self._services.streams.jobs, now.job.id, event)


class Own(Booking):
    """What the pages of a reservation share."""

    async def own(self, req: falcon.asgi.Request, session: str, reservation: str) -> OwnReservation:
        """A reservation of this session, for whoever has its manage token. Raises UnknownReservation."""
        name = reservation_id(reservation)
        if not hmac.compare_digest((req.get_param("key") or "").encode(), self._services.manage_token(name).encode()):
            raise UnknownReservation
        found = await self._services.in_thread(self._services.queries.own_reservation, name)
        if found is None or str(found.session.id) != session:
            raise UnknownReservation
        return found


class OwnPage(Own):
    """/s/{session}/reservations/{reservation}"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str, reservation: str) -> None:
        """One's own reservation, and the form that gives it back."""
        self._show(req, resp, await self.own(req, session, reservation))

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str, reservation: str) -> None:
        """Give it back."""
        given, found = await read_form(req), await self.own(req, session, reservation)
        key = key_of(given.get("form", ""), self._services.page_token) if is_ours(req) else None
        if key is None:
            self._show(req, resp, found, 403)
            return
        held = found.reservation
        arguments = CancelArguments(held.email, found.email_key, None, held.id, any_client=True)
        job = await self.sent(req, held.session, CANCEL, arguments, holder(held.id), key)
        raise falcon.HTTPSeeOther(self.job_url(held.session, job.id, spoken(req)))

    def _show(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, found: OwnReservation, status: int = 200) -> None:
        language, key = spoken(req), req.get_param("key") or ""
        sign = self._services.page_token
        main = booking.own(found, language, new_token(sign), key, datetime.now(UTC))
        path = f"/s/{found.session.id}/reservations/{found.reservation.id}"
        switch = partial(booking.url, path, key=key)
        send(resp, booking.page(say("own_title", language), main, language, switch), language, status)


class OwnCalendar(Own):
    """GET /s/{session}/reservations/{reservation}.ics"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, session: str, reservation: str) -> None:
        """Its calendar file."""
        found = await self.own(req, session, reservation)
        resp.content_type = "text/calendar; charset=utf-8"
        resp.set_header("Cache-Control", "private, no-store")
        resp.set_header("Content-Disposition", f'attachment; filename="reservation-{found.reservation.id}.ics"')
        resp.data = calendar(found)


def body_of(given: dict[str, str]) -> ReserveBody:
    """The fields of the form as a reserve's body."""
    seats = given.get("seats", "1").strip()
    return ReserveBody(given.get("name", ""), given.get("email", ""), int(seats) if _SEATS.fullmatch(seats) else 0)


def wrong_words(exc: InvalidFields, most: int, language: str) -> dict[str, str]:
    """What is wrong with the form's fields, in words for people."""
    named = [name for name in ("name", "email", "seats") if name in exc.fields]
    return {name: say(f"bad_{name}", language, most=most, longest=NAME_MAX) for name in named}


def shape_now(view: SessionView, now: booking.Counts) -> str:
    """What a session is at this moment to somebody who wants to come."""
    return booking.shape_of(now, phase_of(view, datetime.now(UTC)))


def _part(where: str, inner: Markup, shape: str, is_last: bool, about: Markup | None = None) -> Event:
    data = msgspec.json.encode(booking.part(where, inner, shape, is_last, about))
    return Event("part", digest(data), data, is_last)


def routes(services: ApiServices) -> list[tuple[str, Any]]:
    """Paths and their resources."""
    base = "/s/{session}"
    return [
        (base, BookingPage(services)),
        (f"{base}/events", BookingEvents(services)),
        (f"{base}/jobs/{{job}}", OutcomePage(services)),
        (f"{base}/jobs/{{job}}/events", OutcomeEvents(services)),
        (f"{base}/reservations/{{reservation}}", OwnPage(services)),
        (f"{base}/reservations/{{reservation}}.ics", OwnCalendar(services)),
    ]
