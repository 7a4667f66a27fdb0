"""One's own reservation: who has its manage token may look at it, take it into a calendar, and give it back."""

from __future__ import annotations

import hmac

import falcon.asgi
import msgspec
from icalendar import Calendar, Event

from api.errors import MissingToken
from api.requests import bearer, reservation_id
from api.resources.commands import Commands
from api.schemas import own_reservation_answer
from core.errors import AforoError, UnknownReservation
from core.model import CANCEL, CANCELLED, CONFIRMED, CancelArguments, holder
from core.queries import OwnReservation

PRODUCT = "-//Aforo//Reservations//EN"
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
        if req.method != "DELETE":
            return False
        try:
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
