"""What goes over the wire: bodies parsed strictly, every wrong field named, and the shapes of all answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Literal, TypeVar

import falcon.asgi
import msgspec

from api.errors import BodyTooLarge, InvalidJson, UnsupportedMediaType
from api.messages import sentence
from api.requests import TRUNCATED
from core import validation
from core.batches import Wanted
from core.errors import InvalidFields
from core.model import (
    CANCELLED,
    GROUP_MAX,
    RESERVE,
    SEATS_MAX,
    STRICT,
    Arguments,
    CancelArguments,
    ConfigureArguments,
    Frozen,
    Job,
    JobReservation,
    ReserveArguments,
)
from core.projections import Forecast, Head, SessionNow, Traffic
from core.queries import OwnReservation, ReservationView, SessionView

TOO_LARGE = "The body must be at most {limit} bytes."
NOT_JSON = "The body is not valid JSON: {reason}"
EMPTY = "The body is empty."
BROKE_OFF = "The body broke off."
BODY_BYTES = 16 * 1024
BATCH_BYTES = 512 * 1024
BATCH_MAX = 1000
LARGEST_ID = 2**63 - 1
Policy = Literal["strict", "fill"]
Shape = TypeVar("Shape", bound=msgspec.Struct)


class ReserveBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/{id}/reserve/"""

    name: str
    email: str
    seats: int = 1


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/{id}/cancel/"""

    email: str
    seats: int | msgspec.UnsetType = msgspec.UNSET


class ReservationPatch(msgspec.Struct, forbid_unknown_fields=True):
    """PATCH /api/reservations/{id}"""

    name: str | msgspec.UnsetType = msgspec.UNSET
    checked_in: bool | msgspec.UnsetType = msgspec.UNSET


class SessionBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/"""

    title: str
    start_time: datetime
    end_time: datetime
    capacity: int
    description: str = ""
    location: str = ""
    public: bool = False
    waitlist_capacity: int = 0
    waitlist_policy: Policy = STRICT
    max_seats_per_reservation: int = SEATS_MAX
    opens_at: datetime | None = None
    closes_at: datetime | None = None


class SessionPatch(msgspec.Struct, forbid_unknown_fields=True):
    """PATCH /api/sessions/{id}/"""

    title: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    location: str | msgspec.UnsetType = msgspec.UNSET
    public: bool | msgspec.UnsetType = msgspec.UNSET
    capacity: int | msgspec.UnsetType = msgspec.UNSET
    waitlist_capacity: int | msgspec.UnsetType = msgspec.UNSET
    waitlist_policy: Policy | msgspec.UnsetType = msgspec.UNSET
    max_seats_per_reservation: int | msgspec.UnsetType = msgspec.UNSET
    opens_at: datetime | msgspec.UnsetType | None = msgspec.UNSET
    closes_at: datetime | msgspec.UnsetType | None = msgspec.UNSET
    start_time: datetime | msgspec.UnsetType = msgspec.UNSET
    end_time: datetime | msgspec.UnsetType = msgspec.UNSET
    on_shrink: Literal["refuse", "waitlist"] | msgspec.UnsetType = msgspec.UNSET


class SignInBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /console/session"""

    key: str


class EmptyBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/sessions/{id}/close/, /reopen/ and /cancel-session/"""


class BatchCommand(msgspec.Struct, forbid_unknown_fields=True):
    """One command of POST /api/batches/. `kind`: reserve or cancel; `name` belongs to reserve."""

    session: int
    kind: Literal["reserve", "cancel"]
    email: str
    name: str | msgspec.UnsetType = msgspec.UNSET
    seats: int | msgspec.UnsetType = msgspec.UNSET


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/batches/. The commands are read one by one, so that each wrong one is named by its index."""

    commands: list[Any]
    atomic: bool = False


class _SoundBatch(BatchBody):
    """The same where nothing is wrong, read at once."""

    commands: list[BatchCommand]


_decoders: dict[type, msgspec.json.Decoder] = {
    shape: msgspec.json.Decoder(shape)
    for shape in (ReserveBody, CancelBody, ReservationPatch, SessionBody, SessionPatch, EmptyBody, BatchBody, SignInBody)
}
_sound_batch = msgspec.json.Decoder(_SoundBatch)

_RULES: dict[str, Callable[[Any], Any]] = {
    "title": partial(validation.line, longest=validation.TITLE_MAX),
    "description": partial(validation.block, longest=validation.DESCRIPTION_MAX),
    "location": partial(validation.line, longest=validation.LOCATION_MAX, shortest=0),
    "start_time": validation.moment,
    "end_time": validation.moment,
    "opens_at": validation.moment,
    "closes_at": validation.moment,
    "capacity": validation.capacity,
    "waitlist_capacity": validation.capacity,
    "max_seats_per_reservation": validation.seats,
    "seats": validation.seats,
    "name": partial(validation.line, longest=validation.NAME_MAX),
    "email": validation.email,
}


async def read_body(req: falcon.asgi.Request, shape: type[Shape], limit_bytes: int = BODY_BYTES) -> Shape:
    """The body as `shape`. Raises UnsupportedMediaType, BodyTooLarge, InvalidJson, InvalidFields (every wrong field)."""
    return parse(await _read(req, limit_bytes), shape)


async def read_batch(req: falcon.asgi.Request) -> BatchBody:
    """The body as a batch, whose commands may be wrong yet: see batch_commands. Raises as read_body does."""
    body = await _read(req, BATCH_BYTES)
    try:
        return _sound_batch.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return parse(body, BatchBody)


async def _read(req: falcon.asgi.Request, limit_bytes: int) -> bytes:
    kind = (req.content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType
    if (req.content_length or 0) > limit_bytes:
        raise BodyTooLarge(TOO_LARGE, limit=limit_bytes)
    body = await req.stream.read(limit_bytes + 1)
    if len(body) > limit_bytes:
        raise BodyTooLarge(TOO_LARGE, limit=limit_bytes)
    if TRUNCATED in req.scope:
        raise InvalidJson(BROKE_OFF)  # it may look whole without being it
    return body


async def read_nothing(req: falcon.asgi.Request) -> None:
    """A request that needs no body: none, or an empty object. Raises as read_body does."""
    if req.content_length or req.get_header("Transfer-Encoding"):
        await read_body(req, EmptyBody)


def parse(body: bytes, shape: type[Shape]) -> Shape:
    """Decode `body`; see read_body for the errors."""
    try:
        return _decoders[shape].decode(body)
    except msgspec.ValidationError:
        raise InvalidFields(_wrong_fields(body, shape) or {"": "the body has the wrong shape"}) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise (InvalidJson(NOT_JSON, reason=exc) if body else InvalidJson(EMPTY)) from None


def _wrong_fields(body: bytes, shape: type[msgspec.Struct]) -> dict[str, str]:
    """Look field by field at a body that does not fit, so that all that is wrong is named at once."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidJson(NOT_JSON, reason=exc) from None
    return wrong_fields(found, shape)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)
UNNAMED = "?"  # what could not be a field's name may be anything, somebody's address too: it is not said again


def wrong_fields(found: Any, shape: type[msgspec.Struct]) -> dict[str, str]:
    """What keeps a decoded value from being a `shape`, by field."""
    if not isinstance(found, dict):
        return {"": "must be a JSON object"}
    fields = {field.name: field for field in msgspec.structs.fields(shape)}
    unknown = (name if _NAME.fullmatch(name) else UNNAMED for name in found if name not in fields)
    wrong = dict.fromkeys(unknown, "is not a field of this request")
    for name, field in fields.items():
        if name not in found:
            if field.required:
                wrong[name] = "is required"
            continue
        try:
            msgspec.convert(found[name], field.type)
        except msgspec.ValidationError as exc:
            wrong[name] = _plain(str(exc))
    return wrong


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
        if value is None or name not in _RULES:
            values[name] = value
            continue
        try:
            values[name] = _RULES[name](value)
        except ValueError as exc:
            wrong[name] = str(exc)
    for first, last in (("start_time", "end_time"), ("opens_at", "closes_at")):
        if not wrong and values.get(first) and values.get(last) and values[last] <= values[first]:
            wrong[last] = f"must be after {first}"
    if wrong:
        raise InvalidFields(wrong)
    return values


def reserve_arguments(body: ReserveBody) -> ReserveArguments:
    """A reserve body as the command's arguments. Raises InvalidFields."""
    try:
        email, email_key = validation.email(body.email)
        return ReserveArguments(validation.line(body.name, validation.NAME_MAX), email, email_key, validation.seats(body.seats))
    except ValueError:
        clean(body)
        raise


def cancel_arguments(body: CancelBody, any_client: bool) -> CancelArguments:
    """A cancel body as the command's arguments; `any_client`: also what others reserved. Raises InvalidFields."""
    values = clean(body)
    return CancelArguments(*values["email"], values.get("seats"), None, any_client)


def configure_arguments(values: dict[str, Any]) -> ConfigureArguments:
    """The settings of a cleaned patch as the command's arguments."""
    return ConfigureArguments(**{name: _ms(value) for name, value in values.items()})


def _ms(value: Any) -> Any:
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else value


def batch_commands(body: BatchBody, any_client: bool) -> list[Wanted]:
    """The commands of a batch; `any_client`: its cancels reach what others reserved. Raises InvalidFields that names each wrong
    one by its index."""
    wrong: dict[str, str] = {}
    wanted: list[Wanted] = []
    if not 1 <= len(body.commands) <= BATCH_MAX:
        raise InvalidFields({"commands": f"must be 1 to {BATCH_MAX} commands"})
    for index, found in enumerate(body.commands):
        try:
            wanted.append(_batch_command(found, any_client))
        except InvalidFields as exc:
            wrong |= {f"commands[{index}]{'.' if name else ''}{name}": message for name, message in exc.fields.items()}
    if not wrong and body.atomic:
        wrong = _not_atomic(wanted)
    if wrong:
        raise InvalidFields(wrong)
    return wanted


def _batch_command(found: Any, any_client: bool) -> Wanted:
    try:
        command = found if isinstance(found, BatchCommand) else msgspec.convert(found, BatchCommand)
    except msgspec.ValidationError:
        raise InvalidFields(wrong_fields(found, BatchCommand)) from None
    if not 1 <= command.session <= LARGEST_ID:
        raise InvalidFields({"session": "must be a session's id"})
    if command.kind == RESERVE and command.name is not msgspec.UNSET:
        seats = 1 if command.seats is msgspec.UNSET else command.seats
        return Wanted(RESERVE, command.session, reserve_arguments(ReserveBody(command.name, command.email, seats)))
    given = {name: value for name in ("name", "email", "seats") if (value := getattr(command, name)) is not msgspec.UNSET}
    shape = ReserveBody if command.kind == RESERVE else CancelBody
    if wrong := wrong_fields(given, shape):
        raise InvalidFields(wrong)
    return Wanted(command.kind, command.session, _arguments(msgspec.convert(given, shape), any_client))


def _arguments(body: ReserveBody | CancelBody, any_client: bool) -> Arguments:
    return reserve_arguments(body) if isinstance(body, ReserveBody) else cancel_arguments(body, any_client)


def _not_atomic(wanted: list[Wanted]) -> dict[str, str]:
    """Why these commands cannot be all or nothing, if so."""
    if any(one.kind != RESERVE for one in wanted):
        return {"atomic": "all of the commands must be reserve"}
    if len({one.session_id for one in wanted}) > 1:
        return {"atomic": "all of the commands must be for one session"}
    return {"atomic": f"must be at most {GROUP_MAX} people"} if len(wanted) > GROUP_MAX else {}


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
