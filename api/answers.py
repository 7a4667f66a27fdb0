"""What clients get: how a job, a session and a reservation look, in whichever answer or stream they are told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from api.messages import sentence
from core.entries import Head
from core.model import CANCELLED, Frozen, Job, JobReservation
from core.projections import Forecast, SessionNow, Traffic
from core.queries import OwnReservation, ReservationView, SessionView


class JobAnswer(Frozen):
    """A job as a client sees it."""

    id: str
    kind: str
    session_id: int
    seq: int
    status: str
    outcome: str | None
    detail: str | None
    ahead: int | None
    eta_seconds: float | None
    forecast: Any
    reservation: Any
    reservations: Any
    renumbered: bool
    accepted_at: str
    applied_at: str | None


class HeldAnswer(Frozen):
    """A reservation as its job shows it. `position`: its place in the waitlist, from 1, while it waits."""

    id: int
    session: int
    status: str
    seats: int
    position: int | None
    manage_token: str


class ForecastAnswer(Frozen):
    """What would become of a reserve if nobody ahead cancelled; `binding` is always false."""

    outcome: str
    position: int | None
    binding: bool = False


def job_answer(
    job: Job,
    token: Callable[[int], str],
    language: str,
    traffic: Traffic | None = None,
    expected: Forecast | None = None,
    position: int | None = None,
) -> JobAnswer:
    """Render a job; `traffic` and `expected` are told of while it is queued, `position` while its reservation waits.

    `token(reservation id)` is what lets its holder manage a reservation; `language` is that of the outcome's sentence.
    """
    ahead = eta = None
    if job.outcome is None and traffic is not None:
        ahead = max(0, job.seq - traffic.applied_seq - 1)
        eta = round(max(traffic.depth, 1) / traffic.pace, 3) if traffic.pace > 0 else None
    return JobAnswer(
        job.id,
        job.kind,
        job.session_id,
        job.seq,
        job.status,
        job.outcome,
        sentence(job.outcome, language),
        ahead,
        eta,
        None if expected is None or job.outcome is not None else ForecastAnswer(expected.outcome, expected.position),
        None if job.reservation is None else _held(job.reservation, token, position),
        [_held(one, token, None) for one in job.party] or None,
        job.renumbered,
        when_ms(job.accepted_at),
        None if job.applied_at is None else when_ms(job.applied_at),
    )


def queued_text(job: Job) -> str:
    """A queued job as JSON, of which nothing is told but itself: what `job_answer` says, for many jobs."""
    return (
        f'{{"id":"{job.id}","kind":"{job.kind}","session_id":{job.session_id},"seq":{job.seq},"status":"queued","outcome":null,'
        '"detail":null,"ahead":null,"eta_seconds":null,"forecast":null,"reservation":null,"reservations":null,'
        f'"renumbered":false,"accepted_at":"{when_ms(job.accepted_at)}","applied_at":null}}'
    )


def _held(one: JobReservation, token: Callable[[int], str], position: int | None) -> HeldAnswer:
    return HeldAnswer(one.id, one.session, one.status, one.seats, position, token(one.id))


def session_answer(view: SessionView, head: Head | None) -> dict[str, Any]:
    """A session of a list; the newer of its row and its head in Redis gives the counts and the state."""
    now = view.decided() if head is None or head.version <= view.version else head.now
    return {
        "id": view.id,
        "title": view.title,
        "description": view.description,
        "location": view.location,
        "public": view.public,
        "start_time": when(view.start_time),
        "end_time": when(view.end_time),
        "capacity": now.capacity,
        "available_slots": max(0, now.capacity - now.reserved) if now.state != CANCELLED else 0,
        "waiting": now.waiting,
        "waitlist_capacity": now.waitlist_capacity,
        "state": now.state,
        "as_of_seq": now.last_seq,
    }


def session_event(found: SessionNow) -> dict[str, Any]:
    """A session's counts, as its stream tells them."""
    now = found.now
    is_cancelled = now.state == CANCELLED
    return {
        "id": found.session_id,
        "capacity": now.capacity,
        "reserved": 0 if is_cancelled else now.reserved,
        "available_slots": 0 if is_cancelled else max(0, now.capacity - now.reserved),
        "waiting": now.waiting,
        "waitlist_capacity": now.waitlist_capacity,
        "state": now.state,
        "as_of_seq": now.last_seq,
        "version": found.version,
    }


def session_detail(
    view: SessionView, head: Head | None, shown: list[ReservationView], more: str | None, masked: bool
) -> dict[str, Any]:
    """Everything about one session; `masked`: without saying who comes."""
    answer = session_answer(view, head)
    version = view.version if head is None else max(head.version, view.version)
    return {
        **answer,
        "reserved": answer["capacity"] - answer["available_slots"] if answer["state"] != CANCELLED else 0,
        "waitlist_policy": view.waitlist_policy,
        "max_seats_per_reservation": view.max_seats_per_reservation,
        "opens_at": _when_or_null(view.opens_at),
        "closes_at": _when_or_null(view.closes_at),
        "closed_at": _when_or_null(view.closed_at),
        "cancelled_at": _when_or_null(view.cancelled_at),
        "created_at": when(view.created_at),
        "last_seq": answer["as_of_seq"],
        "version": version,
        "reservations": [reservation_answer(r, masked) for r in shown],
        "reservations_next": more,
    }


def own_reservation_answer(own: OwnReservation, token: str) -> dict[str, Any]:
    """One reservation as its holder sees it, with its session."""
    return {**found_reservation_answer(own.reservation, own.session), "position": own.position, "manage_token": token}


def found_reservation_answer(r: ReservationView, session: SessionView) -> dict[str, Any]:
    """One reservation with what there is to know of its session."""
    shown = {name: value for name, value in session_answer(session, None).items() if name in _SHOWN_TO_HOLDERS}
    return {**reservation_answer(r), "session_details": shown}


_SHOWN_TO_HOLDERS = ("id", "title", "description", "location", "start_time", "end_time", "state")


MASKED_NAME = "***"
MASKED_EMAIL = "***@***"


def reservation_answer(r: ReservationView, masked: bool = False) -> dict[str, Any]:
    """One reservation; `masked`: without saying whose."""
    return {
        "id": r.id,
        "session": r.session,
        "name": MASKED_NAME if masked else r.name,
        "email": MASKED_EMAIL if masked else r.email,
        "seats": r.seats,
        "status": r.status,
        "seq": r.seq,
        "created_at": when(r.created_at),
        "cancelled_at": _when_or_null(r.cancelled_at),
        "checked_in_at": _when_or_null(r.checked_in_at),
    }


def _when_or_null(value: datetime | None) -> str | None:
    return None if value is None else when(value)


def when(value: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


@lru_cache(maxsize=1024)  # what is accepted in one millisecond was accepted at the same time
def when_ms(ms: int) -> str:
    """The same from milliseconds since the epoch."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
