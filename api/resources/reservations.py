"""Reservations by themselves: one's own, for who has its manage token; and, for who runs an event, anybody's, found by address.

Whoever has the manage token may look at a reservation, take it into a calendar, and give it back. With a key that may see people
a reservation's name is corrected and its holder checked in.
"""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import urlencode

import falcon.asgi
import msgspec
from icalendar import Calendar, Event

from api.answers import found_reservation_answer, own_reservation_answer
from api.bodies import ReservationPatch, clean, read_body
from api.errors import MissingToken
from api.requests import LARGEST_SEQ, bearer, choice, cursor, cursor_text, number, person, reservation_id
from api.resources.commands import Commands
from core.bootstrap import ApiServices
from core.errors import AforoError, InvalidFields, UnknownReservation
from core.model import AMEND, CANCEL, CANCELLED, CONFIRMED, AmendArguments, CancelArguments, holder
from core.queries import OwnReservation

PRODUCT = "-//Aforo//Reservations//EN"
NO_RESERVATION = "There is no reservation with this id."
STATUS = {CONFIRMED: "CONFIRMED", CANCELLED: "CANCELLED"}


class OwnReservations(Commands):
    """What the resources here share."""

    async def own(self, req: falcon.asgi.Request, name: str) -> OwnReservation:
        """The reservation that this request may see. Raises MissingToken, UnknownReservation (also for a wrong token)."""
        token = bearer(req)
        if token is None:
            raise MissingToken
        services = self._services
        wanted = reservation_id(name)
        if not hmac.compare_digest(token.encode(), services.manage_token(wanted).encode()):
            raise UnknownReservation
        found = await services.in_thread(services.queries.own_reservation, wanted)
        if found is None:
            raise UnknownReservation
        return found


class ReservationItem(OwnReservations):
    """/api/reservations/{reservation}"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, reservation: str) -> None:
        """The reservation with its session."""
        own = await self.own(req, reservation)
        resp.set_header("Cache-Control", "private, no-store")
        resp.data = msgspec.json.encode(own_reservation_answer(own, self._services.manage_token(own.reservation.id)))

    async def is_replay(self, req: falcon.asgi.Request, reservation: str) -> bool:
        """Whether it repeats a known job."""
        try:
            if req.method == "PATCH":
                return await self.knows(req, AMEND, str((await self.anybodys(reservation)).reservation.session))
            if req.method != "DELETE":
                return False
            own = (await self.own(req, reservation)).reservation
        except AforoError:
            return False
        return await self.knows(req, CANCEL, str(own.session), holder(own.id))

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, reservation: str) -> None:
        """Give it back: a cancel of this very reservation, queued like any other."""
        own = await self.own(req, reservation)
        held = own.reservation
        arguments = CancelArguments(held.email, own.email_key, None, held.id, any_client=True)
        await self.submit(req, resp, held.session, CANCEL, arguments, holder(held.id))

    async def anybodys(self, name: str) -> OwnReservation:
        """A reservation, whoever holds it. Raises UnknownReservation."""
        services = self._services
        found = await services.in_thread(services.queries.own_reservation, reservation_id(name))
        if found is None:
            raise UnknownReservation(NO_RESERVATION)
        return found

    async def on_patch(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, reservation: str) -> None:
        """Correct its name, check its holder in, or take that back: a command, queued like any other."""
        values = clean(await read_body(req, ReservationPatch))
        if not values:
            raise InvalidFields({"": "name at least one field to change"})
        found = await self.anybodys(reservation)
        held = found.reservation
        arguments = AmendArguments(held.email, found.email_key, held.id, **values)
        await self.submit(req, resp, held.session, AMEND, arguments)


class ReservationCollection:
    """GET /api/reservations/"""

    def __init__(self, services: ApiServices) -> None:
        self._services = services

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """One person's reservations, the newest first, a page at a time."""
        email_key, page_size = person(req), number(req, "page_size", 20, 100)
        session = None if req.get_param("session") is None else number(req, "session", 1, LARGEST_SEQ)
        live_only = choice(req, "status", "live", "all") == "live"
        last_seen = cursor(req)
        wanted = (email_key, session, last_seen and last_seen[1], page_size + 1, live_only)
        services = self._services
        found = await services.in_thread(services.queries.reservations_of, *wanted)
        shown, further = found[:page_size], None
        if len(found) > page_size:
            last = shown[-1][0]
            kept: dict[str, Any] = {name: req.get_param(name) for name in ("email", "session", "status") if req.get_param(name)}
            after = cursor_text(last.seq, last.id)
            further = "/api/reservations/?" + urlencode({**kept, "page_size": page_size, "cursor": after})
        resp.set_header("Cache-Control", "private, no-store")
        results = [found_reservation_answer(reservation, details) for reservation, details in shown]
        resp.data = msgspec.json.encode({"next": further, "results": results})


class ReservationCalendar(OwnReservations):
    """GET /api/reservations/{reservation}.ics"""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, reservation: str) -> None:
        """An iCalendar file (RFC 5545) with the session's time."""
        own = await self.own(req, reservation)
        resp.content_type = "text/calendar; charset=utf-8"
        resp.set_header("Cache-Control", "private, no-store")
        resp.set_header("Content-Disposition", f'attachment; filename="reservation-{own.reservation.id}.ics"')
        resp.data = calendar(own)


def calendar(own: OwnReservation) -> bytes:
    """The calendar file of a reservation; a later state of it replaces an earlier one in a calendar."""
    session, reservation = own.session, own.reservation
    event = Event()
    event.add("uid", f"reservation-{reservation.id}@aforo")
    event.add("dtstamp", reservation.cancelled_at or reservation.created_at)
    event.add("sequence", session.version)
    event.add("dtstart", session.start_time)
    event.add("dtend", session.end_time)
    event.add("summary", session.title)
    event.add("description", session.description)
    event.add("location", session.location)
    event.add("status", STATUS.get(reservation.status, "TENTATIVE"))
    file = Calendar()
    file.add("prodid", PRODUCT)
    file.add("version", "2.0")
    file.add("method", "CANCEL" if reservation.status == CANCELLED else "PUBLISH")
    file.add_component(event)
    return file.to_ical()
