"""What goes over the wire: bodies parsed strictly, every wrong field named, and the shapes of all answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import falcon.asgi
import msgspec

from api.errors import BodyTooLarge, InvalidJson, UnsupportedMediaType
from core import validation
from core.errors import InvalidFields
from core.model import CancelArguments, Frozen, Job, ReserveArguments
from core.projections import Head, Traffic
from core.queries import ReservationView, SessionView

BODY_BYTES = 16 * 1024
Shape = TypeVar("Shape", bound=msgspec.Struct)


class ReserveBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/{id}/reserve/"""

    name: str
    email: str


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/{id}/cancel/"""

    email: str


class SessionBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/"""

    title: str
    start_time: datetime
    end_time: datetime
    capacity: int
    description: str = ""
    location: str = ""


class SessionPatch(msgspec.Struct, forbid_unknown_fields=True):
    """PATCH /api/sessions/{id}/"""

    title: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    location: str | msgspec.UnsetType = msgspec.UNSET
    start_time: datetime | msgspec.UnsetType = msgspec.UNSET
    end_time: datetime | msgspec.UnsetType = msgspec.UNSET


_decoders: dict[type, msgspec.json.Decoder] = {
    shape: msgspec.json.Decoder(shape) for shape in (ReserveBody, CancelBody, SessionBody, SessionPatch)
}

_RULES: dict[str, Callable[[Any], Any]] = {
    "title": partial(validation.line, longest=validation.TITLE_MAX),
    "description": partial(validation.block, longest=validation.DESCRIPTION_MAX),
    "location": partial(validation.line, longest=validation.LOCATION_MAX, shortest=0),
    "start_time": validation.moment,
    "end_time": validation.moment,
    "capacity": validation.capacity,
    "name": partial(validation.line, longest=validation.NAME_MAX),
    "email": validation.email,
}


async def read_body(req: falcon.asgi.Request, shape: type[Shape]) -> Shape:
    """The body as `shape`. Raises UnsupportedMediaType, BodyTooLarge, InvalidJson, InvalidFields (every wrong field)."""
    kind = (req.content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType
    if (req.content_length or 0) > BODY_BYTES:
        raise BodyTooLarge(f"The body must be at most {BODY_BYTES} bytes.")
    body = await req.stream.read(BODY_BYTES + 1)
    if len(body) > BODY_BYTES:
        raise BodyTooLarge(f"The body must be at most {BODY_BYTES} bytes.")
    return parse(body, shape)


def parse(body: bytes, shape: type[Shape]) -> Shape:
    """Decode `body`; see read_body for the errors."""
    try:
        return _decoders[shape].decode(body)
    except msgspec.ValidationError:
        raise InvalidFields(_wrong_fields(body, shape)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidJson(f"The body is not valid JSON: {exc}" if body else "The body is empty.") from None


def _wrong_fields(body: bytes, shape: type[msgspec.Struct]) -> dict[str, str]:
    """Look field by field at a body that does not fit, so that all that is wrong is named at once."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidJson(f"The body is not valid JSON: {exc}") from None
    if not isinstance(found, dict):
        return {"": "the body must be a JSON object"}
    fields = {field.name: field for field in msgspec.structs.fields(shape)}
    wrong = {str(name)[:100]: "is not a field of this request" for name in found if name not in fields}
    for name, field in fields.items():
        if name not in found:
            if field.required:
                wrong[name] = "is required"
            continue
        try:
            msgspec.convert(found[name], field.type)
        except msgspec.ValidationError as exc:
            wrong[name] = _plain(str(exc))
    return wrong or {"": "the body has the wrong shape"}


def _plain(message: str) -> str:
    return message.partition(" - at ")[0].replace("`", "").replace("Expected", "expected").replace("Invalid", "invalid")


def clean(body: msgspec.Struct) -> dict[str, Any]:
    """The body's fields, checked and cleaned by core.validation. Raises InvalidFields naming each wrong one."""
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name in body.__struct_fields__:
        value = getattr(body, name)
        if value is msgspec.UNSET:
            continue
        try:
            values[name] = _RULES[name](value)
        except ValueError as exc:
            wrong[name] = str(exc)
    if not wrong and "start_time" in values and "end_time" in values and values["end_time"] <= values["start_time"]:
        wrong["end_time"] = "must be after start_time"
    if wrong:
        raise InvalidFields(wrong)
    return values


def reserve_arguments(body: ReserveBody) -> ReserveArguments:
    """A reserve body as the command's arguments. Raises InvalidFields."""
    values = clean(body)
    email, email_key = values["email"]
    return ReserveArguments(values["name"], email, email_key)


def cancel_arguments(body: CancelBody) -> CancelArguments:
    """A cancel body as the command's arguments. Raises InvalidFields."""
    email, email_key = clean(body)["email"]
    return CancelArguments(email, email_key)


class JobAnswer(Frozen):
    """A job as a client sees it."""

    id: str
    kind: str
    session_id: int
    seq: int
    status: str
    outcome: str | None
    ahead: int | None
    eta_seconds: float | None
    reservation: Any
    renumbered: bool
    accepted_at: str
    applied_at: str | None


def job_answer(job: Job, traffic: Traffic | None = None) -> JobAnswer:
    """Render a job; `traffic` is told of while it is queued."""
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
        ahead,
        eta,
        job.reservation,
        job.renumbered,
        when_ms(job.accepted_at),
        None if job.applied_at is None else when_ms(job.applied_at),
    )


def session_answer(view: SessionView, head: Head | None) -> dict[str, Any]:
    """A session of a list; the newer of its row and its head in Redis gives the counts."""
    newer = head is not None and head.version > view.version
    capacity, reserved = (head.capacity, head.reserved) if newer and head else (view.capacity, view.reserved)
    return {
        "id": view.id,
        "title": view.title,
        "description": view.description,
        "location": view.location,
        "start_time": when(view.start_time),
        "end_time": when(view.end_time),
        "capacity": capacity,
        "available_slots": capacity - reserved,
    }


def session_detail(view: SessionView, head: Head | None, shown: list[ReservationView], more: str | None) -> dict[str, Any]:
    """Everything about one session."""
    newer = head is not None and head.version > view.version
    version, last_seq = (head.version, head.applied_seq) if newer and head else (view.version, view.last_seq)
    answer = session_answer(view, head)
    return {
        **answer,
        "reserved": answer["capacity"] - answer["available_slots"],
        "created_at": when(view.created_at),
        "last_seq": last_seq,
        "version": version,
        "reservations": [reservation_answer(r) for r in shown],
        "reservations_next": more,
    }


def reservation_answer(r: ReservationView) -> dict[str, Any]:
    """One reservation."""
    return {
        "id": r.id,
        "session": r.session,
        "name": r.name,
        "email": r.email,
        "seats": r.seats,
        "status": r.status,
        "seq": r.seq,
        "created_at": when(r.created_at),
        "cancelled_at": None if r.cancelled_at is None else when(r.cancelled_at),
    }


def when(value: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def when_ms(ms: int) -> str:
    """The same from milliseconds since the epoch."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
